"""Datasets by name: where they lie and how they are read."""

from pathlib import Path

import pandas as pd

from reid_core.data import DATASETS
from reid_core.data.index import DatasetError
from reid_core.data.paperdolls import MARKER, SETS, draw
from reid_core.paths import data_folder, shown

DRAWN = {name: "regdb" if name.endswith("regdb") else "sysu" for name in SETS}
NAMES = (*DRAWN, *DATASETS)


def layout(dataset: str) -> str:
    """The real dataset ("sysu", "regdb", "llcm") in whose layout ``dataset`` lies.

    Raises
    ------
    DatasetError
        There is no dataset of that name.
    """
    if dataset not in NAMES:
        raise DatasetError(f"{dataset!r} is no dataset: choose one of {', '.join(NAMES)}")
    return DRAWN.get(dataset, dataset)


def locate(dataset: str, folder: Path | str | None = None) -> Path:
    """The dataset's folder: ``folder`` where it is given, else ``data/<dataset>``.

    Raises
    ------
    DatasetError
        There is no such folder.
    """
    root = Path(folder) if folder else data_folder() / dataset
    if root.is_dir():
        return root
    hint = "data/README.md says how to obtain it"
    if dataset in DRAWN:
        hint = f"draw it with `python -m reid_core data draw {dataset}`"
    raise DatasetError(f"{shown(root)}: no such folder, expected the dataset {dataset}; {hint}.")


def obtain(dataset: str, folder: Path | str | None = None) -> Path:
    """The dataset's folder, as `locate`; PaperDolls that are not there yet are drawn first.

    Raises
    ------
    DatasetError
        There is no such folder, and nothing to draw it from; or PaperDolls of an earlier version of
        this project, or with other settings, are there: results on them would be of other data.
        Of ``paperdolls-full``, drawn by hand from any inventory, any are taken.
    """
    root = data_folder() / dataset
    if dataset in DRAWN and not folder and not (dataset == "paperdolls-full" and root.is_dir()):
        if dataset != "paperdolls-full" and not (root / MARKER).exists():
            print(f"drawing {dataset} into {shown(root)}, once", flush=True)
        draw(dataset, root)
    return locate(dataset, folder)


def read(dataset: str, root: Path, trial: int = 1) -> pd.DataFrame:
    """The dataset's index; PaperDolls are read by the reader of the layout they are drawn in.
    ``trial`` is RegDB's, 1 to 10; the other layouts have one split only.

    Raises
    ------
    DatasetError
        There is no dataset of that name, or its reader refuses ``root`` or ``trial``.
    """
    kind = layout(dataset)
    arguments = (root, trial) if kind == "regdb" else (root,)
    return DATASETS[kind](*arguments)
