"""`make bench`: all measurements in one run, on private Redis servers and the offline model server.

To add one, write a module with a MEASUREMENT and name it in `MEASUREMENTS`.
"""

import json
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.measured import Measured, Measurement
from benchmarks.measurements import (
    concurrency,
    factories,
    gateway,
    guards,
    langgraph_api,
    latency,
    queue_memory,
    startup,
    submitting,
    telemetry,
    threads,
    throughput,
)
from benchmarks.reports import report, tables
from benchmarks.rig import ROOT, BenchmarkError, Rig
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM

MEASUREMENTS: dict[str, Measurement] = {
    module.MEASUREMENT.name: module.MEASUREMENT
    for module in (
        throughput,
        concurrency,
        latency,
        threads,
        gateway,
        langgraph_api,
        submitting,
        queue_memory,
        startup,
        telemetry,
        guards,
        factories,
    )
}
RESULTS = ROOT / "benchmarks/results"
MODEL_LATENCY_S = 0.5
WIDTH = 160
"""Columns that the widest table needs."""

_EPILOG = (
    """
\b
Measurements:
"""
    + "\n".join(f"  {one.name:<13}{one.about}" for one in MEASUREMENTS.values())
    + """

\b
Examples:
  python -m benchmarks.run
  python -m benchmarks.run --quick --only latency --only startup
  python -m benchmarks.run --only queue-memory --full
  python -m benchmarks.run --results docs/bench
  python -m benchmarks.run --only submitting --json figures.json

\b
Exit codes:
  0  measured, whether or not the goals were met
  1  a system did not do its work
  2  wrong usage
"""
)


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer tasks, one round: about two minutes, for a first look.")
@click.option("--full", is_flag=True, help="Queue 1,000,000 tasks to measure their memory: two minutes more.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure only this; may be repeated."
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="A file for the figures, too.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for report.md, figures.json and concurrency.png (default: benchmarks/results/<now>).",
)
def main(*, quick: bool, full: bool, only: tuple[str, ...], file: Path | None, results: Path | None) -> None:
    """Measure this project against the bare graph, RQ and arq, all in one run, as ratios.

    It takes about thirteen minutes on two cores. Tables go to stdout, progress and errors to stderr.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything started here is ended
    wanted = [MEASUREMENTS[name] for name in dict.fromkeys(only or MEASUREMENTS)]
    found, errors = _measure(wanted, quick=quick, full=full)
    console = Console()
    console.width = max(console.width, WIDTH)
    for one in found.values():
        console.print(tables.measured(one))
    goals = [goal for one in found.values() for goal in one.goals]
    if goals:
        console.print(tables.goals(goals))
    if found:
        folder = results or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
        report.write(folder, found, quick=quick)
        click.echo(f"written: {folder}", err=True)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report.document(found, quick=quick), indent=2) + "\n", encoding="utf-8")
    for error in errors:
        click.echo(f"error: {error}", err=True)
    sys.exit(1 if errors else 0)


def _measure(measurements: Iterable[Measurement], *, quick: bool, full: bool) -> tuple[dict[str, Measured], list[str]]:
    """Measure one after another, going on after a failure; return the results and the errors."""
    stderr = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    found, errors = {}, []
    with (
        tempfile.TemporaryDirectory(prefix="lgrq-bench-") as folder,
        OfflineLLM(latency_s=MODEL_LATENCY_S) as model,
        Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress,
    ):
        rig = Rig(Path(folder), model.url, progress, quick=quick, full=full)
        for measurement in progress.track(list(measurements), description="measurements"):
            if not stderr.is_terminal:
                click.echo(f"measuring {measurement.name}: {measurement.about}", err=True)
            try:
                found[measurement.name] = measurement.measure(rig)
            except (BenchmarkError, LanggraphRqError) as error:
                errors.append(f"{measurement.name}: {error}")
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # refusals of model calls are such, too; it must not cost the others minutes
                traceback.print_exc()
                errors.append(f"{measurement.name}: {error!r}")
    return found, errors


if __name__ == "__main__":
    main()
