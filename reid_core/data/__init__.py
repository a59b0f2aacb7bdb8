"""Datasets, from their own folders to one index table."""

from collections.abc import Callable

import pandas as pd

from reid_core.data.index import DatasetError
from reid_core.data.llcm import read_llcm
from reid_core.data.regdb import read_regdb
from reid_core.data.sysu import read_sysu

DATASETS: dict[str, Callable[..., pd.DataFrame]] = {
    "sysu": read_sysu,
    "regdb": read_regdb,
    "llcm": read_llcm,
}

__all__ = ["DATASETS", "DatasetError", "read_llcm", "read_regdb", "read_sysu"]
