"""The benchmarks really run and report; what they measure is no matter of tests, which share the machine."""

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from benchmarks.measured import Goal, middle_ratio, percentile
from benchmarks.measurements.cpu_split import cpu_split
from benchmarks.measurements.rounds import Rounds, Sample
from benchmarks.rig import ROOT, BenchmarkError, Rig
from benchmarks.systems import peers


@pytest.fixture
def rig(tmp_path):
    silent = Progress(console=Console(file=StringIO()))
    return Rig(tmp_path, "http://127.0.0.1:9", silent, quick=True, full=False)


@pytest.mark.slow
def test_quick_run_measures_and_writes_figures_and_a_report(tmp_path):
    wanted = [part for name in ("submitting", "queue-memory", "guards") for part in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks.run", "--quick", *wanted, "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "measuring submitting" in done.stderr
    assert "Goals" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["measurements"]
    assert figures["queue-memory"]["goals"][0]["value"] > 0
    assert figures["guards"]["goals"][0]["value"] > 0
    calls = {row["call"]: row["tasks_per_s"] for row in figures["submitting"]["rows"]}
    assert calls["Client.submit_many"] > calls["Client.submit"] > 0
    assert "| 1,000,000 queued tasks |" in (tmp_path / "report.md").read_text()


def test_process_that_ends_early_is_named_with_the_end_of_its_log(rig):
    with (
        rig.process("contender", "-c", "import sys; sys.exit('no graphs here')") as process,
        pytest.raises(BenchmarkError, match=r"contender ended; its log ends:\nno graphs here"),
    ):
        rig.wait_until("contender", process, lambda: False)


def test_peer_that_cannot_be_installed_is_left_out_with_the_reason(rig, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "_ARQ_VENV", tmp_path / "venv")
    monkeypatch.setattr(peers, "_ARQ", tmp_path / "missing.txt")
    with pytest.raises(peers.PeerMissingError, match=r"arq is left out: .*missing.txt"), peers.arq(rig, None, 1):
        pytest.fail("started")


@pytest.mark.parametrize(("is_upper", "value", "is_met"), [(True, 1.5, True), (True, 1.6, False), (False, 1.4, False)])
def test_goal_is_met_up_to_its_limit(is_upper, value, is_met):
    assert Goal("CPU", value, 1.5, "x", is_upper=is_upper).is_met is is_met


def test_percentile_is_the_nearest_rank():
    assert [percentile(range(1, 101), percent) for percent in (50, 99, 100)] == [50, 99, 100]


def test_ratio_is_the_median_of_the_rounds_ratios():
    assert middle_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_parts_of_a_tasks_cpu_add_up_to_the_whole():
    whole = {"bare w0": 1.0, "ours w0": 1.5, "bare w": 6.0, "ours w": 8.0, "ours w saved": 11.0}
    rounds = {name: Rounds([Sample(1.0, cpu_ms, 0.0, 1.0)]) for name, cpu_ms in whole.items()}
    parts = {row["part"]: row["cpu_ms_per_task"] for row in cpu_split(rounds).rows}
    assert parts == {"graph": 1.0, "model client": 5.0, "guards": 1.5, "checkpoints": 3.0, "queue": 0.5, "all": 11.0}
