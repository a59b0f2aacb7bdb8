"""The Snakemake workflow on this machine's cores and on a SLURM of this machine alone: runs beside
each other, a failing one stops no other, and a workflow that was killed goes on. On Kubernetes: its
jobs, which a stand-in starts."""

import base64
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest

from reid_core.methods import configure
from reid_core.paths import ROOT

RUNS = "runs/smoke/paperdolls-tiny/mrda"
CORES = ("--cores", "2")


@pytest.fixture
def snakemake(tmp_path):
    """A command line on mrda's Figure 8, which stands on two runs, and where it leaves them."""
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "reid_core/workflow.smk"]
    command += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime"]
    command += ["--config", "profile=smoke", "artefacts=mrda-F8"]
    log = tmp_path / "log"

    def started(*more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, *more], cwd=tmp_path, start_new_session=True, stdout=log.open("w"),
            stderr=subprocess.STDOUT, env=os.environ | {"REID_RESULTS": str(tmp_path)},
        )  # fmt: skip

    return started, tmp_path / RUNS, log


SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM's two daemons for this machine as its only node, and Snakemake's words for it."""
    if not shutil.which("slurmctld"):
        pytest.skip("no SLURM here: Debian's slurm-wlm")
    folder = tmp_path / "slurm"
    folder.mkdir()
    with socket.socket() as one, socket.socket() as other:  # free now, and hardly taken at once
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, other)]
    names = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
    (folder / "slurm.conf").write_text(SLURM.format(ports=ports, folder=folder, **names))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    # Snakemake hides that from the srun of its jobs, which elsewhere finds it in /etc/slurm
    srun = f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
    (folder / "srun").write_text(srun)
    (folder / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    words = "--executor slurm --jobs 2 --slurm-no-account --slurm-status-command squeue"
    words += " --slurm-init-seconds-before-status-checks 1 --seconds-between-status-checks 1"
    with (folder / "log").open("w") as log:
        daemons = [subprocess.Popen([d, "-D"], stderr=log) for d in ("slurmctld", "slurmd")]
    try:
        deadline = time.monotonic() + 60
        while "idle" not in _said("sinfo", "--noheader", "--format", "%T"):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield words.split()
        _cancel_jobs()
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _cancel_jobs() -> None:
    """They outlive a Snakemake that was killed."""
    subprocess.run(["scancel", "--me"], check=True)
    while _said("squeue", "--noheader"):
        time.sleep(0.2)


@pytest.mark.parametrize("where", ["cores", pytest.param("slurm", marks=pytest.mark.slow)])
def test_killed_beside_a_failing_run_and_resumed(snakemake, where, request):
    start, runs, log = snakemake
    words = request.getfixturevalue("slurm") if where == "slurm" else CORES
    good, bad = runs / "baseline/seed0", runs / "mrm-dam/seed0"
    bad.mkdir(parents=True)
    (bad / "checkpoint.pt").write_text("no checkpoint")
    workflow = start(*words)
    while not (good / "checkpoint.pt").exists():
        assert workflow.poll() is None, log.read_text()
        time.sleep(0.02)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    if where == "slurm":
        _cancel_jobs()
        assert not (good / "metrics.json").exists(), "it was killed in the middle"
    assert start(*words, "--unlock").wait() == 0, log.read_text()
    deadline = time.monotonic() + 60  # the killed run's kernel may outlive it for a moment
    while start(*words).wait() == 0 or not (good / "metrics.json").exists():
        assert time.monotonic() < deadline, log.read_text()
    said = [log, *log.parent.glob(".snakemake/slurm_logs/**/*.log")]
    again = f"again: python -m reid_core reproduce --only {bad.relative_to(runs.parents[2])}"
    assert any(again in path.read_text() for path in said)
    assert _errors(good) == []
    assert _errors(bad) == ["RunError"], "its notebook is left, with the error in it"
    assert not (bad / "metrics.json").exists()


def test_what_the_workflow_cannot_mean_is_refused(snakemake):
    """A misspelt word would plan all 117 runs, and Snakemake knows a finished run by its file."""
    start, runs, log = snakemake
    assert start("artefact=mrda-F8", *CORES).wait() != 0
    assert "--config: found ['artefact'], expected some of" in log.read_text()
    other = configure("mrda", "baseline", "smoke", {"lr": 0.5}, dataset="paperdolls-tiny")
    (runs / "baseline/seed0").mkdir(parents=True)
    (runs / "baseline/seed0/metrics.json").write_text(
        json.dumps({"config": other.to_dict(), "data": ""})
    )
    assert start(*CORES).wait() != 0
    assert "lr is 0.5 there" in log.read_text()


def _errors(run: Path) -> list[str]:
    cells = nbformat.read(run / "notebook.ipynb", 4).cells
    return [o.ename for c in cells for o in c.get("outputs", []) if o.output_type == "error"]


class _Cluster(BaseHTTPRequestHandler):
    """The calls of Kubernetes' API that Snakemake makes. A pod is a process in an empty folder that
    inherits no environment, under ``server.pods``."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        if self.path.endswith("/secrets"):
            self.server.secrets[name] = body["data"]
        else:
            (container,) = body["spec"]["template"]["spec"]["containers"]
            self.server.jobs[name] = self._pod(name, container)
        self._answer(body)

    def _pod(self, name: str, container: dict) -> subprocess.Popen:
        folder = self.server.pods / name
        folder.mkdir()
        asked = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in container["env"]}
        given = {k: self.server.secrets[ref["name"]][ref["key"]] for k, ref in asked.items()}
        environment = {k: base64.b64decode(value).decode() for k, value in given.items()}
        with (self.server.pods / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                container["command"] + container["args"], cwd=folder, stdout=log,
                stderr=subprocess.STDOUT, env=environment | self.server.image,
            )  # fmt: skip

    def do_GET(self) -> None:
        name = (
            self.path.split("job-name%3D")[-1] if "/pods" in self.path else self.path.split("/")[-2]
        )
        code = self.server.jobs[name].poll()
        if "/pods" in self.path:
            return self._answer({"items": []})
        status = {"active": code is None, "succeeded": code == 0, "failed": bool(code)}
        self._answer({"status": {k: int(v) for k, v in status.items()}})

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def _answer(self, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Cluster)
    server.jobs, server.secrets, server.pods = {}, {}, tmp_path / "pods"
    server.pods.mkdir()
    # an image has the plugins already, so that its pip finds nothing to do
    (tmp_path / "pip").symlink_to("/bin/true")
    here = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    server.image = {"PATH": here, "HOME": str(tmp_path)}
    where = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "name": "c"}
    context = {"context": {"cluster": "c", "user": "u"}, "name": "x"}
    config = {"clusters": [where], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    config |= {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def clone(tmp_path) -> Path:
    """What git knows of the project; Snakemake sends that to the pods."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in names.stdout.decode().strip("\0").split("\0"):
        copy = tmp_path / "clone" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path / "clone", check=True)
    return tmp_path / "clone"


@pytest.mark.skipif(not shutil.which("rsync"), reason="Snakemake's storage on a volume needs rsync")
def test_kubernetes_runs_in_pods_that_share_a_volume(cluster, clone, tmp_path):
    """The run is finished already, which only a pod that sees the volume can know: another would
    train, and leave what Snakemake waits for in its own folder."""
    run = configure("crossvit_csa", "ta-crossvit-csa-wt", "smoke", dataset="paperdolls-tiny")
    metrics = tmp_path / "runs" / run.folder_name() / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"config": run.to_dict(), "data": ""}))
    command = [sys.executable, "-m", "snakemake", "-s", "reid_core/workflow.smk"]
    command += ["--executor", "kubernetes", "--container-image", "none", "--jobs", "2"]
    command += ["--kubernetes-persistent-volumes", f"claim:{tmp_path}"]
    command += ["--default-storage-provider", "fs"]
    command += ["--default-storage-prefix", tmp_path / "storage"]
    command += ["--config", "profile=smoke", "artefacts=crossvit_csa-T1"]
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    environment |= {"REID_RESULTS": str(tmp_path), "REID_DATA": str(tmp_path / "data")}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    logs = [path.read_text() for path in cluster.pods.glob("*.log")]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    (log,) = logs
    assert "1 runs: 1 finished before" in log
    (kept,) = (tmp_path / "storage").rglob("metrics.json")
    assert kept.read_bytes() == metrics.read_bytes()
