"""The command `langgraph-producer`, also as `python -m langgraph_rq.producer`; what it does is in cli/."""

from langgraph_rq.shared.interrupts import end_on_ctrl_c, raise_on_ctrl_c


def main() -> None:
    """Run the command. Ctrl-C ends it at once while it is imported, and then as the command says."""
    end_on_ctrl_c()
    from langgraph_rq.producer.cli.main import main as command  # noqa: PLC0415 - it takes a while

    raise_on_ctrl_c()
    command()


if __name__ == "__main__":
    main()
