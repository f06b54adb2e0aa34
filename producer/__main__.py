"""`langgraph-producer` is the `langgraph-producer` command."""

import sys

from langgraph_rq.producer.cli.main import main

sys.exit(main())
