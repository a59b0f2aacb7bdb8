"""Runs that differ only in what acts late share their first epochs, which are trained once.

A method's ``LATE`` names such settings, each with the one that holds the first epoch in which it
acts. The run that trains the shared epochs keeps the checkpoint after them as ``shared-<key>.pt``;
one that begins later, equal in everything else that decides them, begins with it. It ends
bit for bit where it would have ended, and its ``params.json`` says whose start it has.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reid_core import distributed, records
from reid_core.config import RunConfig
from reid_core.methods import METHODS
from reid_core.paths import ROOT, write_atomically, write_json


def shared_epochs(run: RunConfig) -> int:
    """How many of the first epochs the late settings of its method leave alone; mostly 0."""
    late = getattr(METHODS[run.method], "LATE", {})
    return min((run.model[since] for since in late.values()), default=0)


def settings_of_start(run: RunConfig) -> dict[str, Any]:
    """All settings but the late ones and the variant's name: equal ones, equal first epochs."""
    late = getattr(METHODS[run.method], "LATE", {})
    model = {name: value for name, value in run.model.items() if name not in late}
    return {k: v for k, v in run.to_dict().items() if k != "variant"} | {"model": model}


@dataclass(frozen=True)
class SharedStart:
    """The kept checkpoint of a run's first ``epochs``, at ``path`` in its own folder."""

    path: Path
    epochs: int

    @staticmethod
    def of(run: RunConfig, folder: Path, data: str, device: torch.device) -> "SharedStart":
        """Of the run in ``folder`` on the dataset of fingerprint ``data``. The key covers whatever
        decides bits: settings, data, versions, device, processes and the package's source."""
        source = sorted((ROOT / "reid_core").rglob("*.py"))
        code = hashlib.sha256(b"".join(path.read_bytes() for path in source)).hexdigest()
        place = records.provenance(device) | {"commit": code}  # which may be "dirty" in two ways
        content = json.dumps([settings_of_start(run), data, place], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        return SharedStart(folder / f"shared-{key}.pt", shared_epochs(run))

    def find(self) -> Path | None:
        """For a run that has no checkpoint yet a sibling's, where one was kept."""
        folder = self.path.parent
        if (folder / "checkpoint.pt").exists():
            return None
        for found in sorted(folder.parent.parent.glob(f"*/{folder.name}/{self.path.name}")):
            variant = found.parent.parent.name
            print(f"epochs 1 to {self.epochs} are those of {variant}, trained before", flush=True)
            if distributed.rank() == 0:
                params = records.read_json(folder / "params.json")
                params["begun_by"] = {"variant": variant, "epochs": self.epochs}
                write_json(folder / "params.json", params)
            return found
        return None

    def keep(self, epochs: int) -> None:
        """Keeps the folder's checkpoint, after ``epochs``, if these are the shared ones."""
        if epochs == self.epochs and distributed.rank() == 0:
            content = (self.path.parent / "checkpoint.pt").read_bytes()
            write_atomically(self.path, content, locked=True)
