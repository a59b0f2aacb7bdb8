"""``python -m reid_core data check``: what a dataset's folder holds, and everything wrong with it.

The layout is judged by the readers' own scans; here the folders are compared with the index, and
every picture is decoded.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain, product
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from reid_core.data import llcm, regdb, sysu
from reid_core.data.images import rgb
from reid_core.data.index import DatasetError, Defect, require_folder
from reid_core.paths import shown

LEFT_OUT = "left out"  # the split, here only, of images that the dataset's own rules do not use
Count = tuple[str, str, str, int]  # what, of which rows (a query), unique values of, published

START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"  # JPEG markers


@dataclass(frozen=True)
class _Dataset:
    """What the check must know of a dataset beside its layout."""

    scan: Callable[[Path], tuple[pd.DataFrame, list[Defect]]]
    folders: tuple[str, ...]  # each must hold at least one image of the index
    left_out: Callable[[str, dict[str, set[int]]], bool]
    counts: list[Count]
    empty_folders: tuple[str, ...] = ()  # empty in the published dataset too


@dataclass(frozen=True)
class Report:
    """What ``check`` found.

    Attributes
    ----------
    counts : DataFrame
        ``what``, ``found``, ``published``, ``difference``. A difference is no defect: a subset or
        a drawn dataset is legal.
    defects : DataFrame
        ``path``, ``defect``, ``severity`` ("error" or "warning"), ``advice``; errors first.
    """

    dataset: str
    root: Path
    counts: pd.DataFrame
    defects: pd.DataFrame

    @property
    def errors(self) -> int:
        return int((self.defects.severity == "error").sum())

    def __str__(self) -> str:
        lines = [f"{self.dataset} in {shown(self.root)}", "", self.counts.to_string(index=False)]
        if (self.counts.difference != 0).any():
            lines.append("note: counts differ from the published dataset; right for a subset or a")
            lines.append("drawn dataset, otherwise files are missing")
        lines.append("")
        for row in self.defects.itertuples():
            lines.append(f"{row.severity}: {row.path}: {row.defect}; {row.advice}")
        lines.append(f"{self.errors} errors, {len(self.defects) - self.errors} warnings")
        return "\n".join(lines)


def check(name: str, root: Path | str) -> Report:
    """Compares the dataset ``name`` ("sysu", "regdb", "llcm") in ``root`` with its layout, its
    lists (of all ten trials for RegDB) and its published counts, and decodes every image.

    Decodes a few thousand images a second: SYSU-MM01 (45 863) takes well under a minute.

    Raises
    ------
    DatasetError
        ``name`` is none of the three, or ``root`` is not a folder. Everything else is reported.
    """
    if name not in _DATASETS:
        raise DatasetError(f"{name!r} is no dataset: choose one of {', '.join(_DATASETS)}")
    dataset = _DATASETS[name]
    root = require_folder(root, f"the dataset {name}")
    table, defects = dataset.scan(root)
    identities = {s: set(table.identity[table.split == s]) for s in ("train", "val", "test")}

    files, empty = _walk(root, {folder.split("/")[0] for folder in dataset.folders})
    reported = {defect.path for defect in defects}
    unused = files - set(table.path) - reported
    left_out = sorted(path for path in unused if dataset.left_out(path, identities))
    if left_out:
        table = pd.concat([table, _left_out_rows(left_out)], ignore_index=True)

    defects += (d for d in _folder_defects(dataset, table, empty) if d.path not in reported)
    defects += _foreign_files(unused.difference(left_out))
    defects += _numbering_defects(table)
    defects += _image_defects(root, sorted(files & set(table.path)))
    return Report(name, root, _count(table, dataset.counts), _defect_table(defects))


def _count(table: pd.DataFrame, counts: list[Count]) -> pd.DataFrame:
    rows = [
        (what, table.query(rows)[column].nunique(), published)
        for what, rows, column, published in counts
    ]
    result = pd.DataFrame(rows, columns=["what", "found", "published"])
    return result.assign(difference=result.found - result.published)


def _defect_table(defects: list[Defect]) -> pd.DataFrame:
    """Errors first; what several lists complain about appears once."""
    unique = sorted(set(defects), key=lambda d: (d.severity, d.path, d.defect))
    return pd.DataFrame(unique, columns=["path", "defect", "severity", "advice"])


def _walk(root: Path, tops: set[str]) -> tuple[set[str], set[str]]:
    """Every file, and every folder that holds nothing, as paths relative to ``root``."""
    files, empty = set(), set()
    for top in tops:
        for folder, subfolders, names in os.walk(root / top, followlinks=True):
            relative = Path(folder).relative_to(root).as_posix()
            files.update(f"{relative}/{name}" for name in names)
            if not subfolders and not names:
                empty.add(relative)
    return files, empty


def _left_out_rows(paths: list[str]) -> pd.DataFrame:
    identities = [int(path.split("/")[-2]) for path in paths]
    return pd.DataFrame({"path": paths, "identity": identities, "split": LEFT_OUT})


def _folder_defects(dataset: _Dataset, table: pd.DataFrame, empty: set[str]) -> Iterator[Defect]:
    used = table.path[table.split != LEFT_OUT]
    for folder in dataset.folders:
        if not used.str.startswith(f"{folder}/").any():
            defect = "empty: no image of a listed identity in it"
            yield Defect(folder, defect, "error", "copy it again from the dataset")
    for folder in empty.difference(dataset.folders, dataset.empty_folders):
        yield Defect(folder, "empty folder", "error", "copy it again, or remove it")


def _foreign_files(paths: Iterable[str]) -> Iterator[Defect]:
    for path in paths:
        yield Defect(
            path, "not in the index", "warning", "list it if it belongs here, or remove it"
        )


def _numbering_defects(table: pd.DataFrame) -> Iterator[Defect]:
    """Folders whose images are not numbered 1..n, as the official gallery permutations are."""
    used = table[table.split != LEFT_OUT]
    for folder, frames in used.groupby(used.path.str.rsplit("/", n=1).str[0]).frame:
        if missing := sorted(set(range(1, int(frames.max()) + 1)) - set(frames)):
            numbers = ", ".join(f"{number:04d}" for number in missing)
            defect = f"numbers {numbers} are missing, expected 1 to {frames.max()} without gaps"
            advice = "copy the missing images; do not renumber, the gallery is drawn by number"
            yield Defect(folder, defect, "error", advice)


def _image_defects(root: Path, paths: list[str]) -> list[Defect]:
    with ThreadPoolExecutor() as threads:  # Pillow decodes outside the interpreter's lock
        found = threads.map(partial(_image_defect, root), paths)
        return [defect for defect in found if defect]


def _image_defect(root: Path, path: str) -> Defect | None:
    again = "copy it again from the dataset"
    try:
        data = (root / path).read_bytes()
        with Image.open(BytesIO(data)) as image:
            image.load()
            mode, kind = image.mode, image.format
            undefined = _undefined(image)
    except UnidentifiedImageError:  # its own message shows a memory address
        found = "not an image" if data else "zero bytes"
        return Defect(path, f"{found}, expected a picture", "error", again)
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        return Defect(path, f"unreadable: {error}", "error", again)
    # a JPEG that an interrupted copy has filled with zeros decodes to grey without complaint
    if kind == "JPEG" and data.rfind(END_OF_IMAGE) < data.rfind(START_OF_SCAN):
        return Defect(path, "truncated: the end-of-image marker is missing", "error", again)
    if undefined:
        advice = "convert it: what its numbers mean is unknown"
        return Defect(path, undefined, "error", advice)
    if mode != "RGB":
        advice = "it is readable and becomes 8-bit RGB when packed: look at the result once"
        return Defect(path, f"mode {mode}, expected RGB", "warning", advice)
    return None


def _undefined(image: Image.Image) -> str:
    """Why packing would refuse the picture, if it would."""
    try:
        rgb(image)
    except ValueError as error:
        return str(error)
    return ""


def _images(what: str, rows: str, modality: str, count: int) -> tuple[str, str, str, int]:
    return f"images, {what}, {modality}", f"{rows} and modality == '{modality}'", "path", count


_SYSU = _Dataset(
    scan=sysu.scan_sysu,
    folders=tuple(sysu.FOLDERS),
    left_out=sysu.left_out,
    counts=[
        ("identities, train", "split == 'train'", "identity", 296),
        ("identities, val", "split == 'val'", "identity", 99),
        ("identities, train + val", "split in ('train', 'val')", "identity", 395),
        ("identities, test", "split == 'test'", "identity", 96),
        _images("train + val", "split in ('train', 'val')", "visible", 22258),
        _images("train + val", "split in ('train', 'val')", "infrared", 11909),
        _images("test", "split == 'test'", "visible", 6775),
        _images("test", "split == 'test'", "infrared", 3803),
        *(
            (f"images, test, cam{camera}", f"split == 'test' and camera == {camera}", "path", n)
            for camera, n in enumerate((1374, 1565, 1883, 1918, 1918, 1920), 1)
        ),
        ("identities in no list (left out)", f"split == '{LEFT_OUT}'", "identity", 22),
        ("images of identities in no list", f"split == '{LEFT_OUT}'", "path", 1118),
    ],
)


def _scan_regdb(root: Path) -> tuple[pd.DataFrame, list[Defect]]:
    tables, defects = zip(*(regdb.scan_regdb(root, trial) for trial in regdb.TRIALS), strict=True)
    table = pd.concat(tables, keys=regdb.TRIALS, names=["trial"]).reset_index("trial")
    return table, list(chain.from_iterable(defects))


_REGDB = _Dataset(
    scan=_scan_regdb,
    folders=tuple(regdb.FOLDERS),
    left_out=lambda path, identities: False,
    counts=[
        ("identities", "split != ''", "identity", 412),
        ("images, visible", "modality == 'visible'", "path", 4120),
        ("images, infrared", "modality == 'infrared'", "path", 4120),
        *(
            (f"{what}, trial {t}, {split}", f"trial == {t} and split == '{split}'", column, n)
            for t, split in product(regdb.TRIALS, ("train", "test"))
            for what, column, n in (("identities", "identity", 206), ("images", "path", 4120))
        ),
    ],
)

_LLCM = _Dataset(
    scan=llcm.scan_llcm,
    folders=(*llcm.TRAIN_FOLDERS, *llcm.TEST_FOLDERS),
    left_out=llcm.left_out,
    empty_folders=llcm.EMPTY_FOLDERS,
    counts=[
        ("identities, train", "split == 'train'", "identity", 713),
        ("identities, test", "split == 'test'", "identity", 351),
        _images("train", "split == 'train'", "visible", 16946),
        _images("train", "split == 'train'", "infrared", 13975),
        _images("test", "split == 'test'", "visible", 8680),
        _images("test", "split == 'test'", "infrared", 7166),
        ("originals of test images (left out)", f"split == '{LEFT_OUT}'", "path", 15846),
    ],
)

_DATASETS = {"sysu": _SYSU, "regdb": _REGDB, "llcm": _LLCM}
