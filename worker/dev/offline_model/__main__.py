"""`python -m langgraph_rq.worker.dev.offline_model` runs the offline model."""

import sys

from langgraph_rq.worker.dev.offline_model.process import main

sys.exit(main())
