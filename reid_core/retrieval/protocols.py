"""The evaluation protocols of SYSU-MM01, RegDB and LLCM: who queries, and which gallery answers.

Sources: Wu et al., ICCV 2017 (SYSU-MM01); Nguyen et al., Sensors 2017 (RegDB); Zhang & Wang, CVPR
2023 (LLCM); Ye et al., TPAMI 2021 (AGW, whose way of drawing galleries the field adopted).
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from reid_core.retrieval.metrics import (
    METRICS,
    average,
    integers,
    query_blocks,
    real_matrix,
    score_queries,
    unit_rows,
    vector,
)

DIRECTIONS = ("visible-to-infrared", "infrared-to-visible")
MODES = {"sysu": ("all", "indoor"), "regdb": DIRECTIONS, "llcm": DIRECTIONS}
SYSU_GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
SYSU_MODALITIES = {camera: "infrared" if camera in (3, 6) else "visible" for camera in range(1, 7)}

Folders = dict[tuple[int, int], dict[int, int]]  # (identity, camera) -> frame -> row, all ascending


@dataclass(frozen=True)
class Result:
    """Measures of one set of features under one protocol.

    Attributes
    ----------
    protocol, mode, shots, gallery
        As asked of `evaluate`; the gallery of RegDB, where nothing is drawn, is "full".
    trials : pandas.DataFrame
        A row a trial: ``rank1, rank5, rank10, rank20, mAP, mINP`` as fractions, and the counts
        ``queries``, ``valid_queries`` and ``gallery_size``.
    """

    protocol: str
    mode: str
    shots: int
    gallery: str
    trials: pd.DataFrame

    @property
    def mean(self) -> dict[str, float]:
        """The measures averaged over the trials."""
        return {name: float(self.trials[name].mean()) for name in METRICS}


def evaluate(
    features: Any,
    identities: Any,
    cameras: Any,
    frames: Any,
    modalities: Any,
    *,
    protocol: str,
    mode: str,
    shots: int = 1,
    gallery: str = "agw",
    permutations: Any = None,
    trials: int = 10,
) -> Result:
    """Measures features of a test set as its dataset's protocol asks.

    Images are compared by the dot product of their L2-normalised features, in the features' own
    precision (at least float32). All arrays have one row a test image, in any order.

    - ``sysu``: every infrared image queries visible images of cameras 1, 2, 4, 5 (``all``) or 1, 2
      (``indoor``). Camera 3 stands in camera 2's room, so its queries ignore camera 2's images,
      whatever their identity.
    - ``regdb``: every image of one modality queries all images of the other. A trial of RegDB is
      another split and another model, hence another call: the table has one row.
    - ``llcm``: every image of one modality queries one image for each identity and camera of the
      other, and ignores the image that shares both its identity and its camera.

    Parameters
    ----------
    features : (N, D)
        Real numbers; no row may be zero.
    identities, cameras : (N,) integers
    frames : (N,) integers
        Number of the image in its folder, from 1.
    modalities : (N,) of "visible" or "infrared"
    protocol : "sysu", "regdb" or "llcm"
    mode : str
        "all" or "indoor" for sysu; else "visible-to-infrared" or "infrared-to-visible", query
        before gallery.
    shots : int
        Gallery images for each identity and camera; other than 1 only with ``official``. An
        identity with fewer images under a camera gives all that it has.
    gallery : "agw" or "official"
        ``official`` (sysu only) follows the permutations shipped with SYSU-MM01 (Wu et al.).
        ``agw`` draws with Python's generator seeded with the trial's number, as Ye et al. and most
        code since. The two differ by about a point on the same features.
    permutations : dict or array
        For ``official``: ``scipy.io.loadmat("exp/rand_perm_cam.mat")``, or its ``rand_perm_cam``.
    trials : int
        How many galleries to draw and average over; RegDB draws none and does not look at it.

    Raises
    ------
    ValueError
        An argument does not fit the protocol, the others or itself; the message names it.
    """
    _check_request(protocol, mode, shots, gallery, trials)
    features = unit_rows(real_matrix("features", features))
    images = _image_table(len(features), identities, cameras, frames, modalities)
    if protocol == "sysu":
        _check_sysu_cameras(images)
        queries = images[images.modality == "infrared"]
        candidates = images[images.camera.isin(SYSU_GALLERY_CAMERAS[mode])]
    else:
        queries, candidates = (images[images.modality == side] for side in mode.split("-to-"))
    if queries.empty or candidates.empty:
        raise ValueError(
            f"modalities: found {len(queries)} query and {len(candidates)} gallery images for "
            f"{protocol} {mode}, expected some of both; pass the whole test set"
        )
    if protocol == "regdb":
        gallery = "full"
        galleries = [candidates.index.to_numpy()]
    elif gallery == "official":
        wanted = product(sorted(set(images.identity)), SYSU_GALLERY_CAMERAS[mode])
        galleries = _official_galleries(
            _folders(candidates), wanted, _read_permutations(permutations), shots, trials
        )
    else:
        galleries = _agw_galleries(_folders(candidates), trials)
    table = _measure(features, queries, images, galleries, protocol)
    return Result(protocol=protocol, mode=mode, shots=shots, gallery=gallery, trials=table)


def _measure(
    features: np.ndarray,
    queries: pd.DataFrame,
    images: pd.DataFrame,
    galleries: list[np.ndarray],
    protocol: str,
) -> pd.DataFrame:
    """`Result.trials`; each gallery is an array of rows of ``images``."""
    used = np.unique(np.concatenate(galleries))  # by any trial: each is compared only once
    columns = [np.searchsorted(used, rows) for rows in galleries]
    gallery, gallery_features = images.loc[used], features[used]
    scores: list[list[np.ndarray]] = [[] for _ in galleries]
    for block in query_blocks(len(queries), len(used)):
        query = queries.iloc[block]
        similarity = features[query.index] @ gallery_features.T
        ignore = _ignored(protocol, query, gallery)
        for of_trial, chosen in zip(scores, columns, strict=True):
            of_trial.append(
                score_queries(
                    similarity[:, chosen],
                    query.identity.to_numpy(),
                    gallery.identity.to_numpy()[chosen],
                    ignore=ignore[:, chosen],
                    cmc="images" if protocol == "regdb" else "identities",
                )
            )
    table = pd.DataFrame([average(of_trial, len(queries)) for of_trial in scores])
    return table.assign(gallery_size=[len(rows) for rows in galleries]).rename_axis("trial")


def _ignored(protocol: str, query: pd.DataFrame, gallery: pd.DataFrame) -> np.ndarray:
    """(Q, G) mask of the gallery images that do not exist for a query."""
    query_camera, camera = query.camera.to_numpy()[:, None], gallery.camera.to_numpy()
    if protocol == "sysu":
        return (query_camera == 3) & (camera == 2)
    if protocol == "llcm":
        same_identity = query.identity.to_numpy()[:, None] == gallery.identity.to_numpy()
        return same_identity & (query_camera == camera)
    return np.zeros((len(query), len(gallery)), dtype=bool)


def _folders(candidates: pd.DataFrame) -> Folders:
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


def _agw_galleries(folders: Folders, trials: int) -> list[np.ndarray]:
    """One image a folder (Ye et al. 2021): the order of the draws is part of the protocol."""
    rows_of_folders = [list(folder.values()) for folder in folders.values()]
    generators = [random.Random(trial) for trial in range(trials)]
    return [np.array([draw.choice(rows) for rows in rows_of_folders]) for draw in generators]


def _official_galleries(
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


def _read_permutations(permutations: Any) -> dict[tuple[int, int], np.ndarray]:
    """(identity, camera) -> (trials, images), from MATLAB's ``rand_perm_cam{camera}{identity}``."""
    if isinstance(permutations, Mapping):
        permutations = permutations.get("rand_perm_cam")
    if not isinstance(permutations, np.ndarray) or permutations.size != len(SYSU_MODALITIES):
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


def _check_request(protocol: str, mode: str, shots: int, gallery: str, trials: int) -> None:
    for name, value, choices in (
        ("protocol", protocol, tuple(MODES)),
        ("mode", mode, MODES.get(protocol, ())),
        ("gallery", gallery, ("agw", "official") if protocol == "sysu" else ("agw",)),
    ):
        if value not in choices:
            raise ValueError(
                f"{name}: found {value!r}, expected {' or '.join(map(repr, choices))} "
                f"(protocol {protocol!r}); choose one of these"
            )
    for name, value in (("shots", shots), ("trials", trials)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected an integer from 1; pass one")
    if shots != 1 and gallery != "official":
        raise ValueError(
            f"shots: found {shots}, expected 1; several need protocol 'sysu', gallery 'official'"
        )


def _check_sysu_cameras(images: pd.DataFrame) -> None:
    wrong = images[images.camera.map(SYSU_MODALITIES) != images.modality]
    if len(wrong):
        raise ValueError(
            f"cameras: found camera {wrong.camera.iloc[0]} with modality "
            f"{wrong.modality.iloc[0]!r} in row {wrong.index[0]}, expected cameras 1, 2, 4, 5 "
            "visible and 3, 6 infrared; number the cameras as SYSU-MM01's folders do"
        )


def _image_table(
    rows: int, identities: Any, cameras: Any, frames: Any, modalities: Any
) -> pd.DataFrame:
    """The images' labels, indexed by their row."""
    unit = "row of features"
    modality = vector("modalities", modalities, rows, unit).astype(str)
    odd = sorted(set(modality.tolist()) - {"visible", "infrared"})
    if odd:
        raise ValueError(f"modalities: found {odd}, expected 'visible' or 'infrared'; rename them")
    return pd.DataFrame(
        {
            "identity": integers("identities", identities, rows, unit),
            "camera": integers("cameras", cameras, rows, unit),
            "frame": integers("frames", frames, rows, unit),
            "modality": modality,
        }
    )
