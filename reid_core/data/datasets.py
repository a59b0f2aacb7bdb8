"""Datasets by name: where they lie and how they are read."""

from pathlib import Path

import pandas as pd

from reid_core.data.index import DatasetError
from reid_core.data.llcm import read_llcm
from reid_core.data.regdb import read_regdb
from reid_core.data.sysu import read_sysu
from reid_core.paths import data_folder, shown


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
    if dataset.startswith("paperdolls-"):
        hint = f"draw it with `python -m reid_core data draw {dataset}`"
    raise DatasetError(f"{shown(root)}: no such folder, expected the dataset {dataset}; {hint}.")


def read(dataset: str, root: Path, trial: int = 1) -> pd.DataFrame:
    """The dataset's index; PaperDolls are read by the reader of the layout they are drawn in."""
    if dataset.endswith("regdb"):
        return read_regdb(root, trial)
    return read_llcm(root) if dataset == "llcm" else read_sysu(root)
