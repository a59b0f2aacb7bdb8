"""LLCM: near infrared in low light, nine cameras, 1 064 people.

Zhang, Wang: Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark for
Visible-Infrared Person Re-identification, CVPR 2023.

What is known of the layout was read in public code that works on the dataset, the authors' own
first; the pictures themselves are released on request only:

- all images lie under ``vis/<id>`` and ``nir/<id>``, named like
  ``0351_c06_s200656_f4830_nir.jpg``: identity, camera, session, frame of the video, modality;
- ``idx/train_vis.txt`` and ``idx/train_nir.txt`` list the training ones with a label;
- test images are read from byte-identical copies, ``test_vis/cam1..9/<id>`` and
  ``test_nir/cam{1,2,4..9}/<id>``, of the identities in ``idx/test_id.txt`` (one comma-separated
  line). ``test_nir/cam3`` exists and is empty.
"""

import re
from pathlib import Path

import pandas as pd

from reid_core.data.index import (
    IMAGE_SUFFIXES,
    NUMBER,
    Defect,
    Row,
    absence_defects,
    accept,
    contents,
    identity_folders,
    label_defects,
    make_index,
    number_within_folders,
    parse_ids,
    read_image_list,
    read_text,
    require_folder,
    split_defects,
)

TRAIN_FOLDERS = {"vis": "visible", "nir": "infrared"}
TEST_FOLDERS = {
    **{f"test_vis/cam{camera}": (camera, "visible") for camera in range(1, 10)},
    **{f"test_nir/cam{camera}": (camera, "infrared") for camera in (1, 2, 4, 5, 6, 7, 8, 9)},
}
EMPTY_FOLDERS = ("test_nir/cam3",)
TEST_IDS = "idx/test_id.txt"


def read_llcm(root: Path | str) -> pd.DataFrame:
    """The index of LLCM in its own layout (see the module).

    The identity is the number of an image's folder. The camera of a test image is that of its
    folder, the camera of a training image what its name says after ``_c``, 0 if it says nothing.
    ``frame`` counts the images of a folder (the listed ones, for training) by name. No image is
    opened.

    Raises
    ------
    DatasetError
        A list or a camera folder is missing, a list has a malformed line, a listed image does not
        exist, labels and identities are not one-to-one, an identity is in both splits.
    """
    return accept(Path(root), *scan_llcm(root))


def scan_llcm(root: Path | str) -> tuple[pd.DataFrame, list[Defect]]:
    """The index as far as it can be read, and every defect of the layout."""
    root = require_folder(root, "vis, nir, test_vis, test_nir and idx")
    defects: list[Defect] = []
    rows = _train_rows(root, defects)
    text = read_text(root, TEST_IDS, "one comma-separated line of identities", defects)
    test_ids = [] if text is None else parse_ids(TEST_IDS, text, defects)
    train_ids = {row.identity for row in rows}
    defects += split_defects({"idx/train_{vis,nir}.txt": train_ids, TEST_IDS: test_ids})
    rows += _test_rows(root, test_ids, defects)
    return make_index(rows), defects


def left_out(path: str, identities: dict[str, set[int]]) -> bool:
    """Whether ``path`` is the original of a test image, which is read from its copy
    (``identities``: by split)."""
    match = re.fullmatch(r"(?:vis|nir)/([0-9]+)/[^/]+\.jpg", path)
    return bool(match) and int(match[1]) in identities["test"]


def _train_rows(root: Path, defects: list[Defect]) -> list[Row]:
    rows = []
    images = {}
    for folder, modality in TRAIN_FOLDERS.items():
        listed = read_image_list(root, f"idx/train_{folder}.txt", folder, defects)
        for image, frame in number_within_folders(listed).items():
            camera = re.search(rf"_c({NUMBER})_", image)
            number = int(camera[1]) if camera else 0
            rows.append(Row(image, listed[image][0], number, modality, "train", frame))
        images |= listed
    defects += label_defects(images)
    return rows


def _test_rows(root: Path, test_ids: list[int], defects: list[Defect]) -> list[Row]:
    rows = []
    for camera_folder, (camera, modality) in TEST_FOLDERS.items():
        for identity, folder in identity_folders(root, camera_folder, defects):
            if identity in test_ids:
                place = folder.relative_to(root).as_posix()
                files = [f"{place}/{file.name}" for file in contents(root, place, defects)]
                images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
                for path, frame in number_within_folders(images).items():
                    rows.append(Row(path, identity, camera, modality, "test", frame))
    defects += absence_defects(TEST_IDS, test_ids, rows)
    return rows
