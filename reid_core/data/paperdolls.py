"""PaperDolls: a drawn dataset in SYSU-MM01's or RegDB's layout, the same to the byte from a seed.

Real visible-infrared datasets are released only on request. PaperDolls lets everything run
without them: the readers, protocols and notebooks cannot tell it apart. It is a teaching set, and
every figure drawn from it says so. Each picture has its own random generator, keyed by (seed,
identity, camera, number), so neither the order of drawing nor the number of workers matters.
"""

import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from scipy.io import loadmat, savemat

from reid_core.data.dolls import draw_person
from reid_core.data.index import DatasetError
from reid_core.data.scenes import Camera, draw_camera, render
from reid_core.paths import shown, write_atomically

STARTED = "paperdolls-unfinished.json"  # the settings of a set; written before its first picture
MARKER = "paperdolls.json"  # what the former is renamed to after the last one
SYSU_CAMERAS = {
    1: ("visible", "indoor"),
    2: ("visible", "indoor"),
    3: ("infrared", "indoor"),
    4: ("visible", "outdoor"),
    5: ("visible", "outdoor"),
    6: ("infrared", "outdoor"),
}
REGDB_CAMERAS = {1: ("visible", "outdoor"), 2: ("thermal", "outdoor")}
_PEOPLE, _CAMERAS, _PICTURES = 1, 2, 3  # separate random streams

Inventory = dict[int, dict[int, int]]  # identity -> camera -> number of pictures
Splits = dict[str, list[int]]  # "train", "val", "test" -> identities


def even_inventory(train: int, val: int, test: int, images: int) -> tuple[Inventory, Splits]:
    """``images`` pictures of every identity under each camera that sees it. As in SYSU-MM01, two
    people in five never enter the rooms of cameras 1 and 2, so indoor-search has fewer to tell
    apart."""
    ids = list(range(1, train + val + test + 1))
    splits = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    seen = {i: SYSU_CAMERAS if i % 5 < 3 else SYSU_CAMERAS.keys() - {1, 2} for i in ids}
    return {i: dict.fromkeys(sorted(cameras), images) for i, cameras in seen.items()}, splits


def real_inventory(folder: Path) -> tuple[Inventory, Splits]:
    """The exact inventory of the real SYSU-MM01 (45 863 images), from its own protocol files.

    ``folder`` holds ``rand_perm_cam.mat``, ``train_id.mat`` and ``test_id.mat``. The validation ids
    are the other ids seen in both modalities: 99, as published (Wu et al., ICCV 2017).

    Raises
    ------
    DatasetError
        One of the three files is missing or damaged.
    """
    inventory: Inventory = {}
    for camera, people in enumerate(_load(folder / "rand_perm_cam.mat", "rand_perm_cam"), 1):
        for identity, permutations in enumerate(people.ravel(), 1):
            if permutations.shape[1]:
                inventory.setdefault(identity, {})[camera] = permutations.shape[1]
    listed = {s: _load(folder / f"{s}_id.mat", "id").tolist() for s in ("train", "test")}
    infrared = {camera for camera, (modality, _) in SYSU_CAMERAS.items() if modality == "infrared"}
    both = [i for i, seen in inventory.items() if infrared & seen.keys() and seen.keys() - infrared]
    known = {*listed["train"], *listed["test"]}
    return inventory, {**listed, "val": sorted(i for i in both if i not in known)}


def _load(path: Path, key: str) -> np.ndarray:
    try:
        return loadmat(io.BytesIO(path.read_bytes()))[key].ravel()
    except Exception as error:  # a damaged .mat makes scipy raise nearly anything
        raise DatasetError(
            f"{shown(path)}: cannot be read ({error}), expected a MATLAB file with the key "
            f"'{key}'. The inventory needs SYSU-MM01's own rand_perm_cam.mat, train_id.mat and "
            "test_id.mat in one folder."
        ) from None


@lru_cache(maxsize=8)
def _camera(seed: int, number: int, modality: str, style: str, height: int, width: int) -> Camera:
    # Cameras 2 and 3 of SYSU-MM01 share a room, so they share a random stream too.
    stream = 2 if number == 3 else number
    rng = np.random.default_rng([seed, _CAMERAS, stream])
    return draw_camera(rng, modality, style, height, width)


def _draw_one_sysu(seed: int, size: tuple[int, int], root: Path, task: tuple) -> int:
    identity, seen = task
    who = draw_person(np.random.default_rng([seed, _PEOPLE, identity]))
    for number, images in seen.items():
        camera = _camera(seed, number, *SYSU_CAMERAS[number], *size)
        folder = root / f"cam{number}" / f"{identity:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(1, images + 1):
            rng = np.random.default_rng([seed, _PICTURES, identity, number, n])
            render(who, camera, rng, *size).save(folder / f"{n:04d}.jpg", quality=92)
    return sum(seen.values())


def _draw_one_regdb(seed: int, size: tuple[int, int], root: Path, task: tuple) -> int:
    identity, seen = task
    who = draw_person(np.random.default_rng([seed, _PEOPLE, identity]))
    for number, images in seen.items():
        modality, style = REGDB_CAMERAS[number]
        camera = _camera(seed, number, modality, style, *size)
        for n in range(1, images + 1):
            path = root / _regdb_path(identity, number, n)
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([seed, _PICTURES, identity, number, n])
            render(who, camera, rng, *size).save(path)
    return sum(seen.values())


def _regdb_path(identity: int, camera: int, n: int) -> str:
    folder, letter = (("Visible", "v"), ("Thermal", "t"))[camera - 1]
    return f"{folder}/{identity}/doll_{letter}_{n:05d}_{identity}.bmp"


def _run(
    draw: Callable[..., int],
    settings: dict[str, Any],
    root: Path,
    inventory: Inventory,
    workers: int,
    finish: Callable[[], None],
) -> int:
    """Draws what ``inventory`` lists, then lets ``finish`` write the lists, then marks the end."""
    _require_possible(settings | {"workers": workers})
    root = root.resolve()
    recorded = json.dumps(settings, indent=1) + "\n"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock"):  # of two at once, the second has no work
        if _is_complete(root, recorded):
            return 0
        write_atomically(root / STARTED, recorded)
        one = partial(draw, settings["seed"], (settings["height"], settings["width"]), root)
        drawn = sum(_map(one, inventory.items(), workers))
        finish()
        (root / STARTED).replace(root / MARKER)
    return drawn


def _require_possible(settings: dict[str, Any]) -> None:
    least = {"seed": 0, "val": 0, "identities": 2}
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
    train: int = 300,
    val: int = 20,
    test: int = 96,
    images: int = 5,
    inventory: Path | None = None,
    height: int = 160,
    width: int = 64,
    workers: int = 2,
) -> int:
    """Draws PaperDolls under ``root`` in SYSU-MM01's layout; returns the number of images drawn
    (0 where the same set is already complete; an interrupted drawing is simply drawn again).

    ``train``, ``val`` and ``test`` count identities, ``images`` the pictures of each under each of
    the six cameras. With ``inventory``, a folder that ``real_inventory`` reads, exactly the real
    dataset's (identity, camera, count) are drawn instead. Pictures are ``height`` × ``width``
    pixels. ``exp/`` gets the id lists and a ``rand_perm_cam.mat`` of the set's own.

    Raises
    ------
    DatasetError
        ``root`` holds something else or a set with other settings; a setting is too small; an
        inventory file is missing or damaged.
    """
    root = Path(root)
    if inventory is None:
        amounts, splits = even_inventory(train, val, test, images)
        counts = {"train": train, "val": val, "test": test, "images": images}
    else:
        amounts, splits = real_inventory(Path(inventory))
        content = json.dumps([amounts, splits])
        counts = {"inventory": hashlib.sha256(content.encode()).hexdigest()[:16]}
    settings = {"layout": "sysu", "seed": seed, **counts, "height": height, "width": width}

    def finish() -> None:
        available = sorted(i for ids in splits.values() for i in ids)
        for name, ids in {**splits, "available": available}.items():
            write_atomically(root / "exp" / f"{name}_id.txt", ",".join(map(str, ids)) + "\n")
        content = _permutations(amounts, np.random.default_rng([seed, _PICTURES]))
        write_atomically(root / "exp" / "rand_perm_cam.mat", content)

    return _run(_draw_one_sysu, settings, root, amounts, workers, finish)


def draw_regdb(
    root: Path,
    *,
    seed: int = 0,
    identities: int = 412,
    images: int = 10,
    height: int = 128,
    width: int = 64,
    workers: int = 2,
) -> int:
    """Draws PaperDolls under ``root`` in RegDB's layout (thermal); returns the number of images
    drawn. Half of the ``identities`` train and half test, in ten trials. See ``draw_sysu``."""
    root = Path(root)
    settings = {"layout": "regdb", "seed": seed, "identities": identities, "images": images}
    settings |= {"height": height, "width": width}
    amounts = {i: dict.fromkeys(REGDB_CAMERAS, images) for i in range(1, identities + 1)}

    def finish() -> None:
        for trial in range(1, 11):
            order = np.random.default_rng([seed, _PICTURES, trial]).permutation(identities) + 1
            halves = {"train": order[: identities // 2], "test": order[identities // 2 :]}
            for split, ids in halves.items():
                for camera, name in ((1, "visible"), (2, "thermal")):
                    lines = _regdb_lines(sorted(ids.tolist()), camera, images)
                    write_atomically(root / "idx" / f"{split}_{name}_{trial}.txt", "".join(lines))

    return _run(_draw_one_regdb, settings, root, amounts, workers, finish)


def _regdb_lines(ids: list[int], camera: int, images: int) -> Iterable[str]:
    for label, identity in enumerate(ids):
        for n in range(1, images + 1):
            yield f"{_regdb_path(identity, camera, n)} {label}\n"


def _permutations(inventory: Inventory, rng: np.random.Generator) -> bytes:
    """The content of a ``rand_perm_cam.mat``: ten permutations of 1..n per camera and identity."""
    cells = np.empty((len(SYSU_CAMERAS), 1), object)
    for camera in SYSU_CAMERAS:
        people = np.empty((max(inventory), 1), object)
        for identity in range(1, max(inventory) + 1):
            n = inventory.get(identity, {}).get(camera, 0)
            rows = [rng.permutation(n) + 1 for _ in range(10)]
            people[identity - 1, 0] = np.array(rows, np.uint16).reshape(10, n)
        cells[camera - 1, 0] = people
    stream = io.BytesIO()
    savemat(stream, {"rand_perm_cam": cells})
    # a .mat file begins with 116 bytes of free text, where scipy writes the time of day
    return b"MATLAB 5.0 MAT-file, PaperDolls".ljust(116) + stream.getvalue()[116:]
