"""The `dev` commands: a private Redis and an offline model, for trying things out on one machine."""

import click

from langgraph_rq.shared.errors import MissingExtraError

_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@click.group()
def dev() -> None:
    """Run a private Redis or an offline model in the foreground, for local work and demos.

    \b
    Examples:
      langgraph-producer dev redis
      langgraph-producer dev model --latency 0.2
    """  # noqa: D301 - \b is the character that tells click to keep the lines


@dev.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def redis(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run a private Redis; --help lists its options."""
    from langgraph_rq.shared.dev.embedded_redis import main  # noqa: PLC0415 - only this command needs it

    ctx.exit(main(arguments))


@dev.command(context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def model(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Run an OpenAI-compatible model server that needs no network; --help lists its options."""
    try:
        from langgraph_rq.worker.dev.offline_model.process import main  # noqa: PLC0415 - only this command needs it

        ctx.exit(main(arguments))
    except ImportError as error:
        raise MissingExtraError("dev model", "worker", error.name) from None
