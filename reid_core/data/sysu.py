"""SYSU-MM01: near infrared, six cameras, 491 people.

Wu, Zheng, Yu, Gong, Lai: RGB-Infrared Cross-Modality Person Re-Identification, ICCV 2017.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import loadmat

from reid_core.data.index import (
    IMAGE_SUFFIXES,
    Defect,
    Row,
    absence_defects,
    accept,
    contents,
    identity_folders,
    is_file,
    list_defects,
    make_index,
    parse_ids,
    read_text,
    require_folder,
    split_defects,
)

CAMERAS = {  # number -> modality, where it stands
    1: ("visible", "indoor"),
    2: ("visible", "indoor"),
    3: ("infrared", "indoor"),
    4: ("visible", "outdoor"),
    5: ("visible", "outdoor"),
    6: ("infrared", "outdoor"),
}
FOLDERS = {f"cam{number}": (number, modality) for number, (modality, _) in CAMERAS.items()}


def read_sysu(root: Path | str) -> pd.DataFrame:
    """The index of SYSU-MM01 in its own layout: ``cam{1..6}/{id:04d}/{n:04d}.jpg`` and
    ``exp/{train,val,test}_id.txt`` (one comma-separated line; ``.mat`` with the key ``id`` where
    there is no ``.txt``).

    An identity need not be under every camera, and one that no list names is left out: that is the
    dataset's own rule (22 people lack a modality). No image is opened.

    Raises
    ------
    DatasetError
        A camera folder or an id list is missing, a list is unreadable, an identity is in two
        splits, an identity folder or an image is not numbered with four digits.
    """
    return accept(Path(root), *scan_sysu(root))


def scan_sysu(root: Path | str) -> tuple[pd.DataFrame, list[Defect]]:
    """The index as far as it can be read, and every defect of the layout."""
    root = require_folder(root, "cam1 to cam6 and exp")
    defects: list[Defect] = []
    lists = {_list_path(root, split): split for split in ("train", "val", "test")}
    ids = {path: _read_ids(root, path, defects) for path in lists}
    defects += split_defects(ids)

    split_of = {identity: lists[path] for path, listed in ids.items() for identity in listed}
    rows = []
    for camera_folder, (camera, modality) in FOLDERS.items():
        for identity, folder in identity_folders(root, camera_folder, defects):
            if identity in split_of:
                for frame, path in _numbered_images(root, folder, defects):
                    rows.append(Row(path, identity, camera, modality, split_of[identity], frame))
    for path, listed in ids.items():
        defects += absence_defects(path, listed, rows)
    return make_index(rows), defects


def left_out(path: str, identities: dict[str, set[int]]) -> bool:
    """Whether ``path`` is an image of a person whom no list names (``identities``: by split)."""
    match = re.fullmatch(r"cam[1-6]/([0-9]{4})/[0-9]{4}\.jpg", path)
    return bool(match) and not any(int(match[1]) in listed for listed in identities.values())


def _list_path(root: Path, split: str) -> str:
    text, matlab = f"exp/{split}_id.txt", f"exp/{split}_id.mat"
    return matlab if is_file(root / matlab) and not is_file(root / text) else text


def _read_ids(root: Path, path: str, defects: list[Defect]) -> list[int]:
    if path.endswith(".mat"):
        return _read_matlab_ids(root, path, defects)
    expected = "one comma-separated line of identities, or the .mat of the same name"
    text = read_text(root, path, expected, defects)
    return [] if text is None else parse_ids(path, text, defects)


def _read_matlab_ids(root: Path, path: str, defects: list[Defect]) -> list[int]:
    try:
        ids = np.asarray(loadmat(root / path)["id"]).ravel()
        if not np.array_equal(ids, np.clip(ids, 0, 10**9).astype(int)):
            raise ValueError("what is no whole number from 0 to 10⁹ is no identity")
        ids = ids.astype(int).tolist()
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        defect = f"unreadable ({error}), expected a MATLAB file with the key 'id'"
        defects.append(Defect(path, defect, "error", "copy it again from the dataset"))
        return []
    defects.extend(list_defects(path, ids, "identity"))
    return sorted(set(ids))


def _numbered_images(root: Path, folder: Path, defects: list[Defect]) -> Iterator[tuple[int, str]]:
    for image in contents(root, folder.relative_to(root).as_posix(), defects):
        path = image.relative_to(root).as_posix()
        if re.fullmatch(r"(?!0000)[0-9]{4}\.jpg", image.name):
            yield int(image.stem), path
        elif image.suffix.lower() in IMAGE_SUFFIXES:
            defect = "wrong name, expected four digits from 0001 on and .jpg"
            defects.append(Defect(path, defect, "error", "rename it to its number, or remove it"))
