"""A run's folder: what is in it, whether it is finished, and what of it is published.

``params.json`` (settings and provenance), ``history.csv``, ``checkpoint.pt``, ``features.npy``,
``figures/`` and, written last, ``metrics.json``: a run that has it is finished.
"""

import json
import platform
import subprocess
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from reid_core import distributed
from reid_core.config import RunConfig
from reid_core.errors import ReidError
from reid_core.paths import (
    REPORTED,
    ROOT,
    results_folder,
    runs_folder,
    shown,
    write_atomically,
    write_json,
)
from reid_core.precision import computes_bfloat16

SMALL_FILES = ("params.json", "history.csv", "metrics.json")  # of these a record consists
# of settings newer than some runs: each one's default is what was done before it existed
DEFAULTS = {
    f.name: list(f.default) if isinstance(f.default, tuple) else f.default
    for f in fields(RunConfig)
    if f.default is not MISSING
}


class RunError(ReidError, RuntimeError):
    """A run folder does not fit the run; the message says what to do."""


def folder_of(run: RunConfig) -> Path:
    """``results/runs/<profile>/<dataset>/<method>/<variant>/seed<k>[-trial<t>]``."""
    return runs_folder() / run.folder_name()


def figures_folder(run: RunConfig, beside: RunConfig | None = None) -> Path:
    """Where the run's figures are kept; those that show it ``beside`` another one, on their own."""
    folder = folder_of(run) / "figures"
    return folder / f"beside_{beside.method}_{beside.variant}" if beside else folder


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: versions, git commit, device and whether it computes in bfloat16,
    number of processes, of the moment when the run began."""
    git = ["git", "-C", str(ROOT), "--no-optional-locks"]  # several runs may start at once
    git += ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    packages = ("reid_core", "torch", "torchvision", "numpy", "Pillow")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "commit": commit,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "bfloat16": computes_bfloat16(device),
        "processes": distributed.count(),
    }


def open_folder(run: RunConfig, data: str, device: torch.device) -> Path:
    """The run's folder with its ``params.json``. ``data`` is the dataset's fingerprint.

    Settings bind from the first checkpoint on: a run that failed before it (no weights file, too
    few identities) may be started again with better ones.

    Raises
    ------
    RunError
        The folder belongs to a run with other settings or other data, or its params are damaged.
    """
    folder = folder_of(run)
    if any((folder / name).exists() for name in ("checkpoint.pt", "metrics.json")):
        asked = {"config": run.to_dict(), "data": data}
        require_same(read_json(folder / "params.json"), asked, folder)
    elif distributed.rank() == 0:
        content = {"config": run.to_dict(), "data": data, "provenance": provenance(device)}
        write_json(folder / "params.json", content)
    return folder


def require_same(found: dict[str, Any], asked: dict[str, Any], where: Path) -> None:
    """Compares ``config`` and, where it is ``asked`` for, ``data``.

    Raises
    ------
    RunError
        What was ``found`` at ``where`` is of other settings or data; names each.
    """
    there, here = DEFAULTS | flat(found["config"]), flat(asked["config"])
    if "data" in asked:
        there, here = there | {"data": found["data"]}, here | {"data": asked["data"]}
    differences = [
        f"{key} is {there.get(key)!r} there, {here.get(key)!r} asked"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        advice = "Choose another seed or profile, or delete the folder to run it anew."
        if there.get("data") != here.get("data"):  # a hash, which says nothing to a reader
            advice = f"What was deleted, added or changed in the dataset can be put back. {advice}"
        raise RunError(
            f"{shown(where)}: this run exists with other settings: {'; '.join(differences)}. "
            f"{advice}"
        )


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of the run and of its model side by side; no name is in both."""
    return {k: v for k, v in config.items() if k != "model"} | config.get("model", {})


def read_json(path: Path) -> dict[str, Any]:
    """The content of a run's JSON file.

    Raises
    ------
    RunError
        It is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and {"config", "data"} <= content.keys()
        config = content["config"] if whole else None
        if not isinstance(config, dict) or not isinstance(config.get("model", {}), dict):
            raise ValueError("no config or no data in it")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> RunError:
    """What to raise where reading the run's file ``path`` has failed with ``error``."""
    advice = f"Delete the run's folder {shown(path.parent)} and run it again."
    if path.name == "metrics.json":
        advice = "Put the file back, or delete it: the run is then measured again."
    return RunError(
        f"{shown(path)}: missing or damaged ({type(error).__name__}: {error}). {advice}"
    )


def finish(run: RunConfig, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Writes ``metrics.json``, which marks the run as finished: ``results`` has a dict for each
    protocol and mode."""
    folder = folder_of(run)
    content = {"results": results, **more, **read_json(folder / "params.json")}
    write_json(folder / "metrics.json", content)
    return content


def finished(run: RunConfig, data: str | None = None) -> dict[str, Any] | None:
    """The content of the run's ``metrics.json``, or None where it is not finished on this machine.
    ``data`` is its dataset's fingerprint, where that is known.

    Raises
    ------
    RunError
        What is finished there is a run with other settings or data, or is damaged.
    """
    path = folder_of(run) / "metrics.json"
    if not path.exists():
        return None
    content = read_json(path)
    asked = {"config": run.to_dict()} | ({"data": data} if data else {})
    require_same(content, asked, path.parent)
    return content


def publish(folder: Path) -> Path:
    """Copies a finished run's small files to ``results/reported/runs``, the committed records, and
    returns where.

    Raises
    ------
    RunError
        The run is not finished.
    """
    if not (folder / "metrics.json").exists():
        raise RunError(f"{shown(folder)}: not finished (no metrics.json); nothing to publish.")
    target = REPORTED / "runs" / folder.relative_to(runs_folder())
    for name in SMALL_FILES:
        write_atomically(target / name, (folder / name).read_bytes())
    return target


def history(run: RunConfig) -> pd.DataFrame | None:
    """The history of a finished run: this machine's, or else the committed record's, whatever its
    settings; None where there is neither.

    Raises
    ------
    RunError
        ``history.csv`` is missing or damaged.
    """
    for root in (results_folder(), REPORTED):
        folder = root / "runs" / run.folder_name()
        if (folder / "metrics.json").exists():
            return _read_history(folder / "history.csv")
    return None


def _read_history(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        if table.astype(float)[["epoch", "total", "seconds"]].isna().any(axis=None):
            raise ValueError("a row that is cut short")
        return table
    except (OSError, KeyError, ValueError) as error:  # pandas' own are ValueErrors
        raise RunError(
            f"{shown(path)}: missing or damaged ({error}). If a spreadsheet has saved it, with "
            "commas in its numbers perhaps, delete it and train the run again: it is written anew "
            "from the checkpoint."
        ) from None
