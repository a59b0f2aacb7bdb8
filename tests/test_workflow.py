"""The Snakemake workflow on this machine's cores: runs beside each other, a failing one stops no
other, and a workflow that was killed goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from reid_core.paths import ROOT

RUNS = "runs/smoke/paperdolls-tiny/mrda"


@pytest.fixture
def snakemake(tmp_path):
    """A command line on mrda's Figure 8, which stands on two runs, and where it leaves them."""
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "reid_core/workflow.smk"]
    command += ["--cores", "2", "--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    command += ["--config", "profile=smoke", "artefacts=mrda-F8"]
    log = tmp_path / "log"

    def started(*more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, *more], cwd=tmp_path, start_new_session=True, stdout=log.open("w"),
            stderr=subprocess.STDOUT, env=os.environ | {"REID_RESULTS": str(tmp_path)},
        )  # fmt: skip

    return started, tmp_path / RUNS, log


def test_killed_beside_a_failing_run_and_resumed(snakemake):
    start, runs, log = snakemake
    good, bad = runs / "baseline/seed0", runs / "mrm-dam/seed0"
    bad.mkdir(parents=True)
    (bad / "checkpoint.pt").write_text("no checkpoint")
    workflow = start()
    while not (good / "checkpoint.pt").exists():
        assert workflow.poll() is None, log.read_text()
        time.sleep(0.02)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    assert start("--unlock").wait() == 0, log.read_text()
    deadline = time.monotonic() + 60  # the killed run's kernel may outlive it for a moment
    while start().wait() == 0 or not (good / "metrics.json").exists():
        assert time.monotonic() < deadline, log.read_text()
    assert f"again: python -m reid_core reproduce --only {bad.relative_to(runs.parents[2])}" in (
        log.read_text()
    )
    assert _errors(good) == []
    assert _errors(bad) == ["RunError"], "its notebook is left, with the error in it"
    assert not (bad / "metrics.json").exists()


def _errors(run: Path) -> list[str]:
    cells = nbformat.read(run / "notebook.ipynb", 4).cells
    return [o.ename for c in cells for o in c.get("outputs", []) if o.output_type == "error"]
