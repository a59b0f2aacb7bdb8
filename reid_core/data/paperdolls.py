"""PaperDolls: a drawn dataset in SYSU-MM01's or RegDB's layout, the same to the byte from a seed.

Real visible-infrared datasets are released only on request. PaperDolls lets everything run
without them: the readers, protocols and notebooks cannot tell it apart. It is a teaching set, and
every figure drawn from it says so.

A picture is drawn in two steps, and the modality gap lives in the second one only:

1. *geometry*: a layered, articulated doll is painted part by part into a label map, one number per
   material;
2. *appearance*: every material is looked up in a palette. ``visible`` gives it a colour,
   ``infrared`` a near-infrared reflectance drawn independently of that colour (dyed cloth turns
   bright, and two prints in five vanish; hair stays dark, skin is bright), ``thermal`` a
   temperature. Infrared images are blurred more than visible ones, as real ones have less fine
   detail, and thermal ones most.

Each picture has its own random generator, keyed by (seed, identity, camera, number), so neither the
order of drawing nor the number of workers matters.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from reid_core.data.dolls import draw_person
from reid_core.data.index import DatasetError
from reid_core.data.inventory import Inventory, even_inventory, permutations, real_inventory
from reid_core.data.regdb import FOLDERS as REGDB_FOLDERS
from reid_core.data.regdb import TRIALS
from reid_core.data.scenes import Camera, draw_camera, render
from reid_core.data.sysu import CAMERAS as SYSU_CAMERAS
from reid_core.paths import shown, write_atomically

SYSU_MOST = 9999  # people, and pictures of one under a camera
DRAWING = 2  # raised whenever the same seed would give other pictures
STARTED = "paperdolls-unfinished.json"  # the settings of a set; written before its first picture
MARKER = "paperdolls.json"  # what the former is renamed to after the last one
REGDB_CAMERAS = {1: ("visible", "indoor"), 2: ("thermal", "indoor")}
_PEOPLE, _CAMERAS, _PICTURES = 1, 2, 3  # separate random streams


@lru_cache(maxsize=8)
def _camera(seed: int, number: int, modality: str, style: str, height: int, width: int) -> Camera:
    # Cameras 2 and 3 of SYSU-MM01 share a room, so they share a random stream too.
    stream = 2 if number == 3 else number
    rng = np.random.default_rng([seed, _CAMERAS, stream])
    return draw_camera(rng, modality, style, height, width)


class _Layout(NamedTuple):
    cameras: dict[int, tuple[str, str]]  # number -> modality and style
    path: Callable[[int, int, int], str]  # of (identity, camera, number of the picture)


def _draw_one(
    layout: _Layout, seed: int, size: tuple[int, int], root: Path, task: tuple[int, dict[int, int]]
) -> int:
    """Draws all pictures of one person; returns their number."""
    identity, seen = task
    who = draw_person(np.random.default_rng([seed, _PEOPLE, identity]))
    for number, images in seen.items():
        camera = _camera(seed, number, *layout.cameras[number], *size)
        for n in range(1, images + 1):
            path = root / layout.path(identity, number, n)
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([seed, _PICTURES, identity, number, n])
            render(who, camera, rng, *size).save(path, quality=92)
    return sum(seen.values())


def _sysu_path(identity: int, camera: int, n: int) -> str:
    return f"cam{camera}/{identity:04d}/{n:04d}.jpg"


def _regdb_path(identity: int, camera: int, n: int) -> str:
    folder = list(REGDB_FOLDERS)[camera - 1]
    return f"{folder}/{identity}/doll_{folder[0].lower()}_{n:05d}_{identity}.bmp"


def _run(
    layout: _Layout,
    settings: dict[str, Any],
    root: Path,
    inventory: Inventory,
    workers: int,
    finish: Callable[[], None],
) -> int:
    """Draws what ``inventory`` lists, then lets ``finish`` write the lists, then marks the end."""
    _require_possible(settings | {"workers": workers})
    root = root.resolve()
    recorded = json.dumps({"drawing": DRAWING, **settings}, indent=1) + "\n"
    if _is_complete(root, recorded):  # in a folder that may be read-only: nothing to lock
        return 0
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock"):  # of two at once, the second has no work
        if _is_complete(root, recorded):
            return 0
        write_atomically(root / STARTED, recorded)
        one = partial(
            _draw_one, layout, settings["seed"], (settings["height"], settings["width"]), root
        )
        drawn = sum(_map(one, inventory.items(), workers))
        finish()
        (root / STARTED).replace(root / MARKER)
    return drawn


def _require_possible(settings: dict[str, Any]) -> None:
    least = {"seed": 0, "val": 0}
    for name, value in settings.items():
        if isinstance(value, int) and value < least.get(name, 1):
            raise DatasetError(f"{name}: found {value}, expected {least.get(name, 1)} or more")


def _is_complete(root: Path, recorded: str) -> bool:
    """Whether the set is here already; refuses a folder of anything else but its own beginning,
    because pictures of two sets (or a real dataset's!) must not mix."""
    for name in (MARKER, STARTED):
        if (root / name).exists():
            found = (root / name).read_text(encoding="utf-8")
            if found == recorded:
                return name == MARKER
            raise DatasetError(
                f"{shown(root / name)}: a PaperDolls set with other settings is already here "
                f"({' '.join(found.split())}), asked for {' '.join(recorded.split())}. "
                "Name another folder, or delete this one."
            )
    if root.exists() and any(root.iterdir()):
        raise DatasetError(
            f"{shown(root)}: this folder holds files that are not PaperDolls; name an empty folder."
        )
    return False


def _map(one: Callable[[tuple], int], people: Iterable[tuple], workers: int) -> Iterable[int]:
    if workers == 1:
        yield from map(one, people)
        return
    # "spawn", because forking a process that runs torch's threads (a notebook) can deadlock
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(one, people, chunksize=4)


def draw_sysu(
    root: Path,
    *,
    seed: int = 0,
    train: int = 900,
    val: int = 50,
    test: int = 96,
    images: int = 4,
    inventory: Path | None = None,
    height: int = 160,
    width: int = 64,
    workers: int = 2,
) -> int:
    """Draws PaperDolls under ``root`` in SYSU-MM01's layout; returns the number of images drawn
    (0 where the same set is already complete; an interrupted drawing is simply drawn again).

    ``train``, ``val`` and ``test`` count identities, ``images`` the pictures of each under every
    camera that sees them: two in five are seen by all six, the others not by 1 and 2. With
    ``inventory``, a folder that ``real_inventory`` reads, exactly the real dataset's (identity,
    camera, count) are drawn instead. Pictures are ``height`` × ``width``
    pixels. ``exp/`` gets the id lists and a ``rand_perm_cam.mat`` of the set's own.

    Raises
    ------
    DatasetError
        ``root`` holds something else or a set with other settings; a setting is too small or too
        large; an inventory file is missing or damaged.
    """
    root = Path(root)
    if inventory is None:
        amounts, splits = even_inventory(train, val, test, images)
        counts = {"train": train, "val": val, "test": test, "images": images}
        if max(train + val + test, images) > SYSU_MOST:
            raise DatasetError(
                f"found {train} + {val} + {test} identities with {images} images each, expected at "
                f"most {SYSU_MOST} of both: SYSU-MM01 numbers them with four digits"
            )
    else:
        amounts, splits = real_inventory(Path(inventory))
        content = json.dumps([amounts, splits])
        counts = {"inventory": hashlib.sha256(content.encode()).hexdigest()[:16]}
    settings = {"layout": "sysu", "seed": seed, **counts, "height": height, "width": width}

    def finish() -> None:
        available = sorted(i for ids in splits.values() for i in ids)
        for name, ids in {**splits, "available": available}.items():
            write_atomically(root / "exp" / f"{name}_id.txt", ",".join(map(str, ids)) + "\n")
        content = permutations(amounts, np.random.default_rng([seed, _PICTURES]))
        write_atomically(root / "exp" / "rand_perm_cam.mat", content)

    return _run(_Layout(SYSU_CAMERAS, _sysu_path), settings, root, amounts, workers, finish)


def draw_regdb(
    root: Path,
    *,
    seed: int = 0,
    train: int = 900,
    test: int = 100,
    images: int = 5,
    height: int = 128,
    width: int = 64,
    workers: int = 2,
) -> int:
    """Draws PaperDolls under ``root`` in RegDB's layout (thermal); returns the number of images
    drawn. In each of ten trials other identities train and test. Fewer test than in RegDB, and more
    train, because a network that starts from nothing needs them. See ``draw_sysu``."""
    root = Path(root)
    settings = {"layout": "regdb", "seed": seed, "train": train, "test": test, "images": images}
    settings |= {"height": height, "width": width}
    amounts = {i: dict.fromkeys(REGDB_CAMERAS, images) for i in range(1, train + test + 1)}

    def finish() -> None:
        for trial in TRIALS:
            order = np.random.default_rng([seed, _PICTURES, trial]).permutation(train + test) + 1
            for split, ids in {"train": order[:train], "test": order[train:]}.items():
                for folder, (camera, _) in REGDB_FOLDERS.items():
                    lines = _regdb_lines(sorted(ids.tolist()), camera, images)
                    path = root / "idx" / f"{split}_{folder.lower()}_{trial}.txt"
                    write_atomically(path, "".join(lines))

    return _run(_Layout(REGDB_CAMERAS, _regdb_path), settings, root, amounts, workers, finish)


def _regdb_lines(ids: list[int], camera: int, images: int) -> Iterable[str]:
    for label, identity in enumerate(ids):
        for n in range(1, images + 1):
            yield f"{_regdb_path(identity, camera, n)} {label}\n"


SETS: dict[str, tuple[Callable[..., int], dict[str, int]]] = {
    "paperdolls-sysu": (draw_sysu, {}),
    "paperdolls-regdb": (draw_regdb, {}),
    # of the real dataset's inventory, which must be given; another seed, because a person is a
    # seed and a number, and nobody in its test split may be known from another set
    "paperdolls-full": (draw_sysu, {"seed": 1}),
    "paperdolls-tiny": (
        draw_sysu,
        {"train": 10, "val": 2, "test": 10, "images": 2, "height": 64, "width": 32},
    ),
    "paperdolls-tiny-regdb": (
        draw_regdb,
        {"train": 8, "test": 8, "images": 3, "height": 64, "width": 32},
    ),
}


def draw(dataset: str, root: Path, **settings: Any) -> int:
    """Draws the set named ``dataset``, one of ``SETS``, under ``root``; ``settings`` are those of
    ``draw_sysu`` or ``draw_regdb`` and change its own. Returns the number of images drawn.

    Raises
    ------
    DatasetError
        "paperdolls-full" is asked for without an inventory; or as they do.
    """
    if dataset == "paperdolls-full" and "inventory" not in settings:
        raise DatasetError(
            "paperdolls-full needs an inventory: the folder of SYSU-MM01's own rand_perm_cam.mat, "
            "train_id.mat and test_id.mat (`data draw paperdolls-full --inventory FOLDER "
            "--height 288 --width 144`)"
        )
    function, own = SETS[dataset]
    return function(root, **{**own, **settings})
