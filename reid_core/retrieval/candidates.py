"""What a protocol makes of a test set: who queries, which gallery answers, and which of its images
do not exist for a query."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reid_core.data.sysu import CAMERAS
from reid_core.retrieval.galleries import (
    agw_galleries,
    folders_of,
    official_galleries,
    read_permutations,
)
from reid_core.retrieval.metrics import integers, real_matrix, unit_rows, vector

LABELS = ("identity", "camera", "frame", "modality")  # of an index, in the order of arguments
DIRECTIONS = ("visible-to-infrared", "infrared-to-visible")
MODES = {"sysu": ("all", "indoor"), "regdb": DIRECTIONS, "llcm": DIRECTIONS}
SYSU_GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
IGNORED = {  # why `ignored` leaves a gallery image out, in words; RegDB has no such rule
    "sysu": "camera 2 stands in the room of the query's camera 3",
    "llcm": "the query's own person under the query's own camera",
}


class TestSet(NamedTuple):
    """A test set, checked: who queries, and what each trial's gallery holds."""

    protocol: str
    features: np.ndarray  # (N, D), rows of length one
    images: pd.DataFrame  # the images' labels, indexed by their row
    queries: pd.DataFrame  # rows of images
    galleries: list[np.ndarray]  # of each trial: rows of images


def prepare(
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
) -> TestSet:
    """The test set that a protocol and mode ask for; arguments and errors as of
    `retrieval.protocols.evaluate`."""
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
        galleries = [candidates.index.to_numpy()]
    elif gallery == "official":
        wanted = product(sorted(set(images.identity)), SYSU_GALLERY_CAMERAS[mode])
        galleries = official_galleries(
            folders_of(candidates), wanted, read_permutations(permutations), shots, trials
        )
    else:
        galleries = agw_galleries(folders_of(candidates), trials)
    return TestSet(protocol, features, images, queries, galleries)


def ignored(protocol: str, query: pd.DataFrame, gallery: pd.DataFrame) -> np.ndarray:
    """(Q, G) mask of the gallery images that do not exist for a query."""
    query_camera, camera = query.camera.to_numpy()[:, None], gallery.camera.to_numpy()
    if protocol == "sysu":
        return (query_camera == 3) & (camera == 2)
    if protocol == "llcm":
        same_identity = query.identity.to_numpy()[:, None] == gallery.identity.to_numpy()
        return same_identity & (query_camera == camera)
    return np.zeros((len(query), len(gallery)), dtype=bool)


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
    modalities = {camera: modality for camera, (modality, _) in CAMERAS.items()}
    wrong = images[images.camera.map(modalities) != images.modality]
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
