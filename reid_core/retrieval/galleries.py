"""Which images answer: the galleries that the protocols draw."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

Folders = dict[tuple[int, int], dict[int, int]]  # (identity, camera) -> frame -> row, all ascending


def folders_of(candidates: pd.DataFrame) -> Folders:
    """The gallery candidates as the datasets store them: a folder for each identity and camera."""
    twins = candidates[candidates.duplicated(["identity", "camera", "frame"])]
    if len(twins):
        identity, camera, frame = twins.iloc[0][["identity", "camera", "frame"]]
        raise ValueError(
            f"frames: found frame {frame} of identity {identity} under camera {camera} more than "
            "once, expected different numbers within a folder, because they choose the gallery; "
            "number the images of each folder from 1"
        )
    by_folder = candidates.sort_values("frame").groupby(["identity", "camera"])["frame"]
    return {key: dict(zip(frame, frame.index, strict=True)) for key, frame in by_folder}


def agw_galleries(folders: Folders, trials: int) -> list[np.ndarray]:
    """One image a folder (Ye et al. 2021): the order of the draws is part of the protocol."""
    rows_of_folders = [list(folder.values()) for folder in folders.values()]
    generators = [random.Random(trial) for trial in range(trials)]
    return [np.array([draw.choice(rows) for rows in rows_of_folders]) for draw in generators]


def official_galleries(
    folders: Folders,
    wanted: Iterable[tuple[int, int]],
    permutations: dict[tuple[int, int], np.ndarray],
    shots: int,
    trials: int,
) -> list[np.ndarray]:
    """The first ``shots`` entries of each trial's row, for every wanted (identity, camera)."""
    galleries: list[list[int]] = [[] for _ in range(trials)]
    for key in wanted:
        if key not in permutations:
            continue  # not everyone passed every camera
        permutation, folder = permutations[key], folders.get(key, {})
        where = f"(identity, camera) {key}"
        if permutation.ndim != 2 or len(permutation) < trials:
            raise ValueError(
                f"permutations: found shape {permutation.shape} for {where}, expected at least "
                f"{trials} rows, one a trial; load the file without squeeze_me, or ask fewer trials"
            )
        absent = np.setdiff1d(permutation, list(folder))
        if len(absent):
            raise ValueError(
                f"permutations: found frames {absent.tolist()} of {where}, expected only frames "
                "of given images; pass the whole test set with its own rand_perm_cam.mat"
            )
        for rows, entries in zip(galleries, permutation, strict=False):
            rows.extend(folder[frame] for frame in entries[:shots])
    return [np.array(rows, dtype=int) for rows in galleries]


def read_permutations(permutations: Any) -> dict[tuple[int, int], np.ndarray]:
    """(identity, camera) -> (trials, images), from MATLAB's ``rand_perm_cam{camera}{identity}``."""
    if isinstance(permutations, Mapping):
        permutations = permutations.get("rand_perm_cam")
    if not isinstance(permutations, np.ndarray) or permutations.size != 6:
        found = getattr(permutations, "shape", type(permutations).__name__)
        raise ValueError(
            f"permutations: found {found}, expected rand_perm_cam with a cell for each of 6 "
            'cameras; pass scipy.io.loadmat("exp/rand_perm_cam.mat") of the dataset'
        )
    return {
        (identity, camera): cell.astype(int)
        for camera, cells in enumerate(permutations.ravel(), start=1)
        for identity, cell in enumerate(np.ravel(cells), start=1)
        if cell.size
    }
