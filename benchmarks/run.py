"""`make bench`: all measurements in one run, on private Redis servers and the offline model server.

To add one, write a module with a MEASUREMENT and name it in `MEASUREMENTS`.
"""

import json
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import latency, queue_memory, show, startup, submitting, throughput
from benchmarks.measured import Measured, Measurement
from benchmarks.rig import ROOT, BenchmarkError, Rig
from worker.offline_llm import OfflineLLM

MEASUREMENTS: dict[str, Measurement] = {
    module.MEASUREMENT.name: module.MEASUREMENT for module in (throughput, latency, submitting, queue_memory, startup)
}
RESULTS = ROOT / "benchmarks/results"
MODEL_LATENCY_S = 0.5
WIDTH = 140
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
  python -m benchmarks.run --json /tmp/figures.json

\b
Exit codes:
  0  measured, whether or not the goals were met
  1  a system did not do its work
  2  wrong usage
"""
)


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Fewer tasks, one round: about a minute, for a first look.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Measure only this; may be repeated."
)
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Where the figures go as JSON.")
def main(*, quick: bool, only: tuple[str, ...], file: Path | None) -> None:
    """Measure this project against the bare graph and stock RQ, all in one run, as ratios.

    Tables go to stdout, figures as JSON to a file under benchmarks/results/.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything started here is ended
    try:
        found = _measure([MEASUREMENTS[name] for name in only or MEASUREMENTS], quick=quick)
    except BenchmarkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    console = Console()
    console.width = max(console.width, WIDTH)
    for one in found.values():
        console.print(show.measured(one))
    console.print(show.goals([goal for one in found.values() for goal in one.goals]))
    file = file or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(show.document(found, quick=quick), indent=2) + "\n", encoding="utf-8")
    click.echo(f"written: {file}", err=True)


def _measure(measurements: list[Measurement], *, quick: bool) -> dict[str, Measured]:
    errors = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        tempfile.TemporaryDirectory(prefix="lgrq-bench-") as folder,
        OfflineLLM(latency_s=MODEL_LATENCY_S) as model,
        Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress,
    ):
        rig = Rig(Path(folder), model.url, progress, quick=quick)
        bar = progress.add_task("", total=len(measurements))
        found = {}
        for measurement in measurements:
            progress.update(bar, description=measurement.name)
            if not errors.is_terminal:
                click.echo(f"measuring {measurement.name}: {measurement.about}", err=True)
            found[measurement.name] = measurement.measure(rig)
            progress.advance(bar)
    return found


if __name__ == "__main__":
    main()
