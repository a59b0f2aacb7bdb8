"""The index: one table, one row an image, that everything after the readers works on.

A dataset is one function that returns it (``reid_core.data.DATASETS``). Columns:

========  =====  ==============================================================
path      str    relative to the dataset's folder, with forward slashes
identity  int    the person, by the dataset's own number
camera    int    the dataset's own number; 0 where a file does not tell
modality  str    "visible" or "infrared"
split     str    "train", "val" or "test"
frame     int    1-based number of the image within its own folder
========  =====  ==============================================================

Rows are sorted by identity, camera, modality and frame, whatever the file system or the locale.

Readers and the check share one scan per dataset: it collects every ``Defect`` and never stops at
the first. An *error* of a scan leaves an image without its place in the index, so the reader
refuses it (``accept``); a *warning* changes nothing in the table. The check reports both, and adds
what only the pictures can tell.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from reid_core.errors import ReidError
from reid_core.paths import shown

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
NUMBER = "[0-9]{1,9}"  # of a person, a label or a camera: what every table can hold


class DatasetError(ReidError, ValueError):
    """A dataset's folder is not what its layout says."""


class Row(NamedTuple):
    path: str
    identity: int
    camera: int
    modality: str
    split: str
    frame: int


@dataclass(frozen=True)
class Defect:
    path: str  # of the file or folder, relative to the dataset's folder
    defect: str  # what was found, and what was expected
    severity: Literal["error", "warning"]
    advice: str  # what to do


def require_folder(root: Path, layout: str) -> Path:
    """``root`` as a Path; ``layout`` names what it should contain.

    Raises
    ------
    DatasetError
        It is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{shown(root)}: no such folder; give the one that contains {layout}")
    return root


def make_index(rows: Iterable[Row]) -> pd.DataFrame:
    """The index of ``rows``, in its one order."""
    ordered = sorted(rows, key=lambda r: (r.identity, r.camera, r.modality, r.frame, r.path))
    table = pd.DataFrame(ordered, columns=Row._fields)
    return table.astype({"identity": "int64", "camera": "int64", "frame": "int64"})


def accept(root: Path, table: pd.DataFrame, defects: Iterable[Defect]) -> pd.DataFrame:
    """``table``, if its scan found no error.

    Raises
    ------
    DatasetError
        Names the first error and how many more there are.
    """
    errors = [defect for defect in defects if defect.severity == "error"]
    if not errors:
        return table
    first, more = errors[0], len(errors) - 1
    rest = f" (and {more} more; `python -m reid_core data check` lists them all)" if more else ""
    raise DatasetError(f"{shown(root)}/{first.path}: {first.defect}; {first.advice}{rest}")


def number_within_folders(paths: Iterable[str]) -> dict[str, int]:
    """Each path's 1-based number within its folder, in the order of the names' code points."""
    seen: Counter[str] = Counter()
    frames = {}
    for path in sorted(paths):
        folder = path.rpartition("/")[0]
        seen[folder] += 1
        frames[path] = seen[folder]
    return frames


def parse_ids(path: str, text: str, defects: list[Defect]) -> list[int]:
    """The identities of a comma-separated list, ascending; a trailing comma and line ends of any
    kind are allowed."""
    words = [word.strip() for word in re.split(r"[,\r\n]", text)]
    ids = []
    for word in filter(None, words):
        if re.fullmatch(NUMBER, word):
            ids.append(int(word))
        else:
            advice = "write identities as whole numbers, separated by commas"
            defects.append(Defect(path, f"{word!r} is not an identity", "error", advice))
    defects.extend(list_defects(path, ids, "identity"))
    return sorted(set(ids))


def list_defects(path: str, entries: list, what: str) -> Iterator[Defect]:
    """A list that is empty, or names something twice: legal, but hardly intended."""
    if not entries:
        yield Defect(path, f"no {what} listed", "warning", "its split stays empty: intended?")
    for entry, times in Counter(entries).items():
        if times > 1:
            defect = f"{what} {entry} is listed {times} times"
            yield Defect(path, defect, "warning", "it counts once; remove the others")


def read_text(root: Path, path: str, expected: str, defects: list[Defect]) -> str | None:
    """The content of a list, or None and an error where it is missing or cannot be read."""
    try:
        # a wrong encoding must end as an error of the line it spoils, not as a traceback
        return (root / path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        found = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
    advice = "copy it from the dataset; without it an image has no split"
    defects.append(Defect(path, f"{found}, expected {expected}", "error", advice))
    return None


def contents(root: Path, path: str, defects: list[Defect]) -> list[Path]:
    """What is in a folder, by name; nothing and an error where it cannot be read, and an error for
    a name that is no printable text: no table could show it."""
    try:
        found = sorted((root / path).iterdir())
    except OSError as error:
        state = "missing" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        advice = "copy it from the dataset, and allow this user to read it"
        defects.append(Defect(path, f"{state}, expected a folder", "error", advice))
        return []
    odd = [file for file in found if not file.name.isprintable()]
    for file in odd:
        defect = f"holds a file named {file.name!r}, expected a name of printable characters"
        defects.append(Defect(path, defect, "error", "rename the file, or remove it"))
    return [file for file in found if file not in odd]


def is_file(path: Path) -> bool:
    """As Path.is_file, which raises for some paths that lead nowhere."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def identity_folders(root: Path, camera: str, defects: list[Defect]) -> Iterator[tuple[int, Path]]:
    """The folders of one camera that are named with an identity's four digits."""
    for folder in contents(root, camera, defects):
        if re.fullmatch("[0-9]{4}", folder.name):
            yield int(folder.name), folder
        elif re.fullmatch("[0-9]+", folder.name):
            defect = "wrong identity folder, expected four digits"
            advice = f"rename it to {int(folder.name):04d}"
            defects.append(Defect(f"{camera}/{folder.name}", defect, "error", advice))


def read_image_list(
    root: Path, path: str, folder: str, defects: list[Defect]
) -> dict[str, tuple[int, int]]:
    """The images of a list with lines ``<folder>/<identity>/<file> <label>``.

    Returns
    -------
    dict
        From an image's path to its (identity, label): the identity is the number of its folder,
        because labels start again at 0 in every list.
    """
    form = f"'{folder}/<identity>/<file> <label>'"
    text = read_text(root, path, f"lines {form}", defects)
    if text is None:
        return {}
    images = {}
    listed = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        # matched as a whole, so that neither an absolute path nor '..' gets through
        match = re.fullmatch(rf"({folder}/({NUMBER})/[^/\\]+?)\s+({NUMBER})", line.strip())
        if not match:
            defect = f"line {number}: {line.strip()!r} is not of the form {form}"
            advice = "paths in a list are relative to the dataset's folder and stay inside it"
            defects.append(Defect(path, defect, "error", advice))
            continue
        image, identity, label = match[1], int(match[2]), int(match[3])
        listed.append(image)
        if images.setdefault(image, (identity, label)) != (identity, label):
            defect = f"line {number}: {image} has label {label} here, another one above"
            defects.append(Defect(path, defect, "error", "keep the line with the right label"))
    for image in images:
        if not is_file(root / image):
            advice = "copy it from the dataset, or remove its line from every list"
            defects.append(Defect(image, "listed, but there is no such file", "error", advice))
    defects.extend(list_defects(path, listed, "image"))
    return images


def absence_defects(path: str, listed: Iterable[int], rows: Iterable[Row]) -> Iterator[Defect]:
    """Identities of a list that no row shows."""
    found = {row.identity for row in rows}
    if missing := [str(identity) for identity in listed if identity not in found]:
        defect = f"{len(missing)} listed identities have no image: {', '.join(missing)}"
        advice = "right for a subset; otherwise copy their folders from the dataset"
        yield Defect(path, defect, "warning", advice)


def label_defects(images: Mapping[str, tuple[int, int]]) -> Iterator[Defect]:
    """Where labels and identities of one split are not one-to-one."""
    label_of: dict[int, int] = {}
    identity_of: dict[int, int] = {}
    for path, (identity, label) in images.items():
        label_before = label_of.setdefault(identity, label)
        identity_before = identity_of.setdefault(label, identity)
        if (label_before, identity_before) != (label, identity):
            defect = (
                f"label {label} for identity {identity}, but other images give identity "
                f"{identity} label {label_before} and label {label} identity {identity_before}"
            )
            advice = "one label belongs to one identity: correct the list or move the image"
            yield Defect(path, defect, "error", advice)


def split_defects(lists: Mapping[str, Collection[int]]) -> Iterator[Defect]:
    """Identities that two lists (path -> identities) share: what is tested would be trained on."""
    for (one, first), (other, second) in combinations(lists.items(), 2):
        for identity in sorted(set(first) & set(second)):
            defect = f"identity {identity} is also in {one}"
            advice = "an identity belongs to one split: remove it from one of the two lists"
            yield Defect(other, defect, "error", advice)
