"""A run's folder: what is in it, whether it is finished, and what of it is published.

``params.json`` (settings and provenance), ``history.csv``, ``checkpoint.pt``, ``features.npy``,
``figures/`` and, written last, ``metrics.json``: a run that has it is finished.
"""

import json
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from reid_core.config import RunConfig
from reid_core.paths import REPORTED, ROOT, results_folder, shown, write_atomically

SMALL_FILES = ("params.json", "history.csv", "metrics.json")  # of these a record consists


class RunError(RuntimeError):
    """A run folder does not fit the run; the message says what to do."""


def folder_of(run: RunConfig) -> Path:
    """``results/runs/<profile>/<dataset>/<method>/<variant>/seed<k>[-trial<t>]``."""
    return results_folder() / "runs" / run.folder_name()


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: versions, git commit, device."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
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
    }


def open_folder(run: RunConfig, data: str, device: torch.device) -> Path:
    """The run's folder, made and given its ``params.json`` if it is new. ``data`` is the
    dataset's fingerprint.

    Raises
    ------
    RunError
        The folder belongs to a run with other settings or other data.
    """
    folder = folder_of(run)
    path = folder / "params.json"
    asked = {"config": run.to_dict(), "data": data}
    if not path.exists():
        content = asked | {"provenance": provenance(device)}
        write_atomically(path, json.dumps(content, indent=1) + "\n")
        return folder
    found = read_json(path)
    for part in ("config", "data"):
        if found.get(part) != asked[part]:
            raise RunError(
                f"{shown(folder)}: this run exists with other settings: "
                f"{_difference(found.get(part), asked[part])}. Choose another seed or profile, "
                "or delete the folder to run it anew."
            )
    return folder


def _difference(found: Any, asked: Any) -> str:
    if not isinstance(found, dict) or not isinstance(asked, dict):
        return f"dataset fingerprint {found} there, {asked} asked"
    keys = [k for k in found.keys() | asked.keys() if found.get(k) != asked.get(k)]
    return "; ".join(f"{k} is {found.get(k)!r} there, {asked.get(k)!r} asked" for k in sorted(keys))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a run's JSON file.

    Raises
    ------
    RunError
        It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{shown(path)}: damaged ({error}). Delete the run's folder {shown(path.parent)} and "
            "run it again."
        ) from None


def finish(run: RunConfig, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Writes ``metrics.json``, which marks the run as finished: ``results`` has a dict for each
    protocol and mode."""
    folder = folder_of(run)
    content = {"results": results, **more, **read_json(folder / "params.json")}
    write_atomically(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    return content


def finished(run: RunConfig) -> dict[str, Any] | None:
    """The run's metrics, or None where it is not finished on this machine."""
    path = folder_of(run) / "metrics.json"
    return read_json(path) if path.exists() else None


def publish(folder: Path) -> Path:
    """Copies a finished run's small files to ``results/reported/runs``, the committed records."""
    if not (folder / "metrics.json").exists():
        raise RunError(f"{shown(folder)}: not finished (no metrics.json); nothing to publish.")
    target = REPORTED / "runs" / folder.relative_to(results_folder() / "runs")
    target.mkdir(parents=True, exist_ok=True)
    for name in SMALL_FILES:
        shutil.copyfile(folder / name, target / name)
    return target


def table(profile: str = "*") -> pd.DataFrame:
    """Every finished run, one row per evaluation: this machine's own runs first, for the others
    the committed records; the column ``source`` ("run" or "record") says which."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for source, root in (("record", REPORTED / "runs"), ("run", results_folder() / "runs")):
        for path in sorted(root.glob(f"{profile}/*/*/*/*/metrics.json")):
            content = read_json(path)
            config = content["config"]
            keys = ("profile", "dataset", "method", "variant", "seed", "trial")
            run = {key: config[key] for key in keys}
            name = path.parent.relative_to(root).as_posix()
            rows[name] = [{**run, **result, "source": source} for result in content["results"]]
    return pd.DataFrame([row for name in sorted(rows) for row in rows[name]])
