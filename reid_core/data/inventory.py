"""How many pictures of whom under which camera: the inventories that PaperDolls are drawn from."""

import io
from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat

from reid_core.data.index import DatasetError
from reid_core.data.sysu import CAMERAS
from reid_core.paths import shown

Inventory = dict[int, dict[int, int]]  # identity -> camera -> number of pictures
Splits = dict[str, list[int]]  # "train", "val", "test" -> identities


def even_inventory(train: int, val: int, test: int, images: int) -> tuple[Inventory, Splits]:
    """``images`` pictures of every identity under each camera that sees it. As in SYSU-MM01, not
    everyone is seen by cameras 1 and 2 (here two people in five are), so indoor-search has
    fewer to tell apart."""
    ids = list(range(1, train + val + test + 1))
    splits = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    seen = {i: CAMERAS if i % 5 < 2 else CAMERAS.keys() - {1, 2} for i in ids}
    return {i: dict.fromkeys(sorted(cameras), images) for i, cameras in seen.items()}, splits


def real_inventory(folder: Path) -> tuple[Inventory, Splits]:
    """The exact inventory of the real SYSU-MM01 (45 863 images), from its own protocol files.

    ``folder`` holds ``rand_perm_cam.mat``, ``train_id.mat`` and ``test_id.mat``. The validation ids
    are the other ids seen in both modalities: 99, as published (Wu et al., ICCV 2017).

    Raises
    ------
    DatasetError
        One of the three files is missing or damaged.
    """
    inventory: Inventory = {}
    for camera, people in enumerate(_load(folder / "rand_perm_cam.mat", "rand_perm_cam"), 1):
        for identity, permutations in enumerate(people.ravel(), 1):
            if permutations.shape[1]:
                inventory.setdefault(identity, {})[camera] = permutations.shape[1]
    listed = {s: _load(folder / f"{s}_id.mat", "id").tolist() for s in ("train", "test")}
    infrared = {camera for camera, (modality, _) in CAMERAS.items() if modality == "infrared"}
    both = [i for i, seen in inventory.items() if infrared & seen.keys() and seen.keys() - infrared]
    known = {*listed["train"], *listed["test"]}
    return inventory, {**listed, "val": sorted(i for i in both if i not in known)}


def _load(path: Path, key: str) -> np.ndarray:
    try:
        return loadmat(io.BytesIO(path.read_bytes()))[key].ravel()
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise DatasetError(
            f"{shown(path)}: cannot be read ({error}), expected a MATLAB file with the key "
            f"'{key}'. The inventory needs SYSU-MM01's own rand_perm_cam.mat, train_id.mat and "
            "test_id.mat in one folder."
        ) from None


def permutations(inventory: Inventory, rng: np.random.Generator) -> bytes:
    """The content of a ``rand_perm_cam.mat``: ten permutations of 1..n per camera and identity."""
    cells = np.empty((len(CAMERAS), 1), object)
    for camera in CAMERAS:
        people = np.empty((max(inventory), 1), object)
        for identity in range(1, max(inventory) + 1):
            n = inventory.get(identity, {}).get(camera, 0)
            rows = [rng.permutation(n) + 1 for _ in range(10)]
            people[identity - 1, 0] = np.array(rows, np.uint16).reshape(10, n)
        cells[camera - 1, 0] = people
    stream = io.BytesIO()
    savemat(stream, {"rand_perm_cam": cells})
    # a .mat file begins with 116 bytes of free text, where scipy writes the time of day
    return b"MATLAB 5.0 MAT-file, PaperDolls".ljust(116) + stream.getvalue()[116:]
