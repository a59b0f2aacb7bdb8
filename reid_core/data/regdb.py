"""RegDB: thermal, two cameras, 412 people with ten pictures on each side.

Nguyen, Hong, Kim, Park: Person Recognition System Based on a Combination of Body Images from
Visible Light and Thermal Cameras, Sensors 17(3):605, 2017.
"""

from pathlib import Path

import pandas as pd

from reid_core.data.index import (
    DatasetError,
    Defect,
    Row,
    accept,
    label_defects,
    make_index,
    number_within_folders,
    read_image_list,
    require_folder,
    split_defects,
)

FOLDERS = {"Visible": (1, "visible"), "Thermal": (2, "infrared")}
TRIALS = range(1, 11)


def read_regdb(root: Path | str, trial: int = 1) -> pd.DataFrame:
    """The index of one of RegDB's ten trials, in its own layout: ``Visible/<id>/*.bmp``,
    ``Thermal/<id>/*.bmp`` and ``idx/{train,test}_{visible,thermal}_{trial}.txt`` with lines
    ``Visible/285/male_back_v_05528_285.bmp 0``.

    The identity is the number of the folder, 285: labels start again at 0 in every list. Camera 1
    is the visible one, 2 the thermal one, whose modality is "infrared". ``frame`` counts an
    identity's listed images by name. No image is opened.

    Raises
    ------
    DatasetError
        ``trial`` is not in 1..10, a list is missing or has a malformed line, a listed image does
        not exist, labels and identities are not one-to-one, an identity is in both splits.
    """
    if trial not in TRIALS:
        raise DatasetError(f"RegDB has trials 1 to 10, not {trial!r}: choose one of them")
    return accept(Path(root), *scan_regdb(root, trial))


def scan_regdb(root: Path | str, trial: int) -> tuple[pd.DataFrame, list[Defect]]:
    """The index of a trial as far as it can be read, and every defect of its lists."""
    root = require_folder(root, "Visible, Thermal and idx")
    defects: list[Defect] = []
    rows = []
    identities = {}
    for split in ("train", "test"):
        images = {}
        for folder, (camera, modality) in FOLDERS.items():
            path = f"idx/{split}_{folder.lower()}_{trial}.txt"
            listed = read_image_list(root, path, folder, defects)
            for image, frame in number_within_folders(listed).items():
                rows.append(Row(image, listed[image][0], camera, modality, split, frame))
            images |= listed
        defects += label_defects(images)
        lists = f"idx/{split}_{{visible,thermal}}_{trial}.txt"
        identities[lists] = {identity for identity, _ in images.values()}
    defects += split_defects(identities)
    return make_index(rows), defects
