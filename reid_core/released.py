"""``python -m reid_core import agw FILE``: a checkpoint of the field's reference code as a run.

The code is that of Ye et al. (TPAMI 2021), github.com/mangye16/Cross-Modal-Re-ID-baseline: its AGW
network, and the baseline that it calls "base". Nothing is trained; the run is measured like any
other, and its record names the file and its SHA-256.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy._core import multiarray

from reid_core import checkpoint, records
from reid_core.config import ConfigError, RunConfig
from reid_core.data.batches import CrossModalSampler
from reid_core.data.datasets import locate, read
from reid_core.data.images import digest, fingerprint
from reid_core.methods import build, configure
from reid_core.paths import shown, write_json
from reid_core.train import make_optimizer

PROFILE = "imported"
# The reference code's names and ours. Its networks for one modality are whole ResNets of which it
# uses the stem alone, and its shared one is whole but for the stem: the rest never had an effect.
_NAMES = (
    (r"(?:visible|thermal)_module\.\w+\.(?:layer\d|fc)\..*", None),
    (r"base_resnet\.base\.(?:conv1|bn1|fc)\..*", None),
    (r"visible_module\.visible\.conv1\.(.*)", r"backbone.private.visible.0.0.\1"),
    (r"visible_module\.visible\.bn1\.(.*)", r"backbone.private.visible.0.1.\1"),
    (r"thermal_module\.thermal\.conv1\.(.*)", r"backbone.private.infrared.0.0.\1"),
    (r"thermal_module\.thermal\.bn1\.(.*)", r"backbone.private.infrared.0.1.\1"),
    (r"bottleneck\.(.*)", r"head.neck.\1"),
    (r"classifier\.(.*)", r"head.classifier.\1"),
)
_NON_LOCAL = {"theta": "theta", "phi": "phi", "g.0": "g", "W.0": "W", "W.1": "norm"}
_FIRST = {2: 2, 3: 3}  # of ResNet-50's blocks in a stage the first one with a non-local block
# What a checkpoint may hold beside tensors: numpy's arrays and numbers, under both names that
# numpy has had for what rebuilds them. None of these runs code of the file.
_SAFE = [
    *((multiarray._reconstruct, f"numpy.{c}.multiarray._reconstruct") for c in ("core", "_core")),
    *((multiarray.scalar, f"numpy.{c}.multiarray.scalar") for c in ("core", "_core")),
    *(np.ndarray, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType),
]


def read_released(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint of the reference code, its key "net" or the whole file.

    Raises
    ------
    ConfigError
        The file is missing or damaged, holds what only running its code could read, or is no
        checkpoint of that code.
    """
    if not path.is_file():
        raise ConfigError(f"{shown(path)}: no such file; expected a checkpoint of AGW's code.")
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes torch.load may make any
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            f"{shown(path)}: cannot be read without running code that is in it, or is damaged "
            f"({reason} …). Expected tensors, numbers and numpy arrays alone. In the environment "
            "that made it, save its state dict by itself: torch.save(net.state_dict(), 'agw.pt')."
        ) from None
    state = content.get("net", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or "classifier.weight" not in state:
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content)
        raise ConfigError(
            f"{shown(path)}: found {found}, expected the state dict of AGW's code, with keys such "
            "as 'classifier.weight' and 'base_resnet.base.layer1.0.conv1.weight', or a "
            "dictionary that has it under 'net'."
        )
    return dict(state)


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The reference code's entries under the names of ``baselines.Model``.

    Raises
    ------
    ConfigError
        A name is not of that code.
    """
    attended = any(name.startswith("NL_") for name in state)
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        ours = _ours(name.removeprefix("module."), attended)  # of torch's DataParallel
        if ours:
            found[ours] = value
    return found


def _ours(name: str, attended: bool) -> str | None:
    """Our name of an entry; None where it has no effect."""
    for pattern, ours in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours) if ours else None
    if match := re.fullmatch(r"base_resnet\.base\.layer(\d)\.(\d)\.(.*)", name):
        stage, block, rest = int(match[1]), int(match[2]), match[3]
        inside = "0." if attended and block >= _FIRST.get(stage, block + 1) else ""
        return f"backbone.shared.{stage - 1}.{block}.{inside}{rest}"
    if match := re.fullmatch(r"NL_([23])\.(\d)\.(theta|phi|g\.0|W\.0|W\.1)\.(.*)", name):
        stage, number = int(match[1]), int(match[2])
        place = f"backbone.shared.{stage - 1}.{_FIRST[stage] + number}.1"
        return f"{place}.{_NON_LOCAL[match[3]]}.{match[4]}"
    raise ConfigError(f"checkpoint: found the entry '{name}', which AGW's code does not have.")


def import_agw(
    path: Path, dataset: str = "sysu", data: Path | None = None, trial: int = 1
) -> RunConfig:
    """Makes of the checkpoint at ``path`` a run that `fit` finds trained, and returns its settings:
    ``baselines/agw-released``, or ``baselines/two-stream`` where the file has no non-local blocks.

    Raises
    ------
    ConfigError
        As `read_released` and `renamed`; or the weights do not fit the network or the dataset.
    DatasetError
        The dataset is missing or defective.
    RunError
        The run's folder already holds other settings or data, or another file's results.
    """
    state = renamed(read_released(path))
    variant = "agw-released" if any(".theta." in name for name in state) else "two-stream"
    run = configure("baselines", variant, PROFILE, dataset=dataset, trial=trial)
    root = locate(dataset, data)
    index = read(dataset, root, trial)
    training = index[index["split"].isin(["train", "val"])]
    people = len(CrossModalSampler(training, run.identities, run.images, run.seed).classes)
    if people != len(state["head.classifier.weight"]):
        raise ConfigError(
            f"{shown(path)}: was trained to tell {len(state['head.classifier.weight'])} people "
            f"apart, but {dataset} has {people} to train on: it is of another dataset or split."
        )
    model = build(run, people)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{shown(path)}: does not fit baselines/{variant}: {reason} …") from None
    folder = records.open_folder(run, fingerprint(index, root), torch.device("cpu"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if already := records.finished(run):  # its numbers are of one file, and stay that file's
        if already["imported"]["sha256"] != sha256:
            raise records.RunError(
                f"{shown(folder)}: holds the results of another file, "
                f"{already['imported']['file']}. Move that folder elsewhere, or name another "
                "folder for results with REID_RESULTS."
            )
        return run
    params = records.read_json(folder / "params.json")
    write_json(folder / "params.json", params | {"imported": {"file": path.name, "sha256": sha256}})
    nothing = {"epoch": 1, "lr": 0.0, "total": float("nan"), "spread": float("nan")}
    history = [nothing | {"visits": 0.0, "seconds": 0.0}]  # of its training nothing is known
    owner = {"config": run.to_dict(), "data": digest(index, root)}
    checkpoint.save(folder, model, make_optimizer(run, model), history, owner)
    return run
