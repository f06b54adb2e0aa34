"""`python -m producer` is the `langgraph-producer` command."""

import sys

from producer.cli import main

sys.exit(main())
