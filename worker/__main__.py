"""The command `langgraph-worker`, also as `python -m langgraph_rq.worker`; what it does is in command.py."""

from langgraph_rq.shared.interrupts import end_on_ctrl_c


def main() -> None:
    """Run the command. Ctrl-C ends it at once until the worker drains at it (boot.py)."""
    end_on_ctrl_c()
    from langgraph_rq.worker.command import main as command  # noqa: PLC0415 - it takes a while

    command()


if __name__ == "__main__":
    main()
