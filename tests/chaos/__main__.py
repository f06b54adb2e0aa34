"""Run the table of faults at full size and report: `make chaos`, or `python -m tests.chaos --help`."""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.checking.checker import Verdict
from tests.chaos.run import Run, Size
from tests.chaos.scenarios.table import SCENARIOS, title
from tests.chaos.testbed.stage import Stage, StageError, open_stage

_SHOWN_VIOLATIONS = 5
_REPORT = Path(".data/chaos.json")
_EVERYWHERE = ("submitted", "ended", "lost", "duplicated", "false reaps", "paid again", "swept")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen scenarios; return 1 if a promise was broken or a fault had no effect."""
    options = _parser().parse_args(argv)
    # Rows that submit before a worker is there open a client each time, and each would log that none is.
    logging.getLogger("langgraph_rq.producer.client").setLevel(logging.ERROR)
    console = Console(stderr=True)
    size = Size(share=options.scale, lease_s=options.lease, is_full=not options.brief)
    reports: dict[str, Mapping[str, Any]] = {}
    with open_stage(options.state) as stage:
        for name in options.only or SCENARIOS:
            reports[name] = _run(stage, name, size, console)
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(json.dumps({"scale": size.share, "scenarios": reports}, indent=2) + "\n")
    Console().print(_table(reports))
    caught = _mutants_are_caught() if options.mutants else True
    console.print(f"written to {options.report}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs at the end")
    return int(not caught or any(report["violations"] for report in reports.values()))


def _mutants_are_caught() -> bool:
    """Check that the checker detects each disabled rule."""
    checks = Path(__file__).parent / "checking/mutants_are_caught.py"
    # A process of its own: pytest rewrites the asserts of modules that it loads itself, and ours are loaded already.
    return subprocess.run([sys.executable, "-m", "pytest", "-q", str(checks)], check=False).returncode == 0


def _run(stage: Stage, name: str, size: Size, console: Console) -> Mapping[str, Any]:
    began = time.monotonic()
    with console.status(f"{name}: {title(name)}") as status:
        stage.reset(size.node_s)
        run = Run(stage, size, tell=lambda what: status.update(f"{name}: {title(name)}  {what}"))
        try:
            verdict = SCENARIOS[name](run)
        except StageError as error:
            verdict = Verdict((), {})
            violations = [f"did not get to its end: {error}"]
        else:
            violations = [f"{one.kind} {one.task} {one.detail}".strip() for one in verdict.violations]
    took_s = time.monotonic() - began
    console.print(f"{name:>4} {'violated' if violations else 'holds'} after {took_s:.0f} s: {title(name)}")
    console.print(f"     {_own_figures(verdict.figures)}", style="dim")
    for violation in violations[:_SHOWN_VIOLATIONS]:
        console.print(f"     {violation}", style="red")
    return {
        "title": title(name),
        "seconds": round(took_s, 1),
        "violations": violations,
        "figures": dict(verdict.figures),
    }


def _table(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for column in ("", "", *_EVERYWHERE, "restart/s p50/p99/max"):
        table.add_column(column.replace(" ", "\n"))
    for name, report in reports.items():
        figures = report["figures"]
        restart = [f"{figures[key]:.1f}" for key in figures if key.startswith("restart ")]
        table.add_row(
            name,
            "[red]violated[/]" if report["violations"] else "[green]holds[/]",
            *(f"{figures.get(key, 0):,.0f}" for key in _EVERYWHERE),
            "/".join(restart),
        )
    return table


def _own_figures(figures: Mapping[str, float]) -> str:
    """Format the figures that only this scenario has; they show the effect of its fault."""
    others = [key for key in figures if key not in _EVERYWHERE and not key.startswith("restart ") and figures[key]]
    return ", ".join(f"{key} {figures[key]:,g}" for key in others)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Inject faults into an installation and check that no promise is broken.",
        epilog="example: python -m tests.chaos --only C1 C3 --scale 0.1",
    )
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="C", help=f"some of {', '.join(SCENARIOS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the tasks (default: %(default)g)")
    parser.add_argument("--brief", action="store_true", help="shorter faults, of the same kinds")
    parser.add_argument(
        "--lease", type=float, default=8.0, metavar="S", help="the workers' lease (default: %(default)s)"
    )
    parser.add_argument(
        "--state", choices=["redis", "redis-stack", "postgres"], default="redis", help="LGRQ_STATE of the workers"
    )
    parser.add_argument(
        "--mutants", action="store_true", help="then disable each rule and check that the checker notices"
    )
    parser.add_argument("--report", type=Path, default=_REPORT, help="where to write figures (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
