"""Pictures decoded once into one file of uint8 pixels, then read by row."""

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image

from reid_core.data.index import DatasetError
from reid_core.paths import atomic_file, data_folder, shown

_CHUNK = 512  # pictures decoded before they are written: bounds the memory
_RESIDENT = 256 << 20  # bytes of the file that may stay in this process's memory
_AROUND = 64 << 10  # bytes that the system maps around each place that is read


def fingerprint(index: pd.DataFrame, root: Path) -> str:
    """Names a dataset's content, the same on every machine: a hash over every row of the index and
    the size of every file.

    Raises
    ------
    DatasetError
        A listed file is not there.
    """
    digest = hashlib.sha256(index.to_csv(index=False).encode())
    for stat in _stats(index, root):
        digest.update(b"%d\n" % stat.st_size)
    return digest.hexdigest()[:16]


def digest(index: pd.DataFrame, root: Path) -> str:
    """As `fingerprint`, but of every byte of every file, which takes a second for 20 000 pictures:
    it also tells apart what has the same names and sizes, as all of RegDB's pictures have.

    Raises
    ------
    DatasetError
        A listed file cannot be read.
    """
    whole = hashlib.sha256(fingerprint(index, root).encode())
    for path in index["path"]:
        try:
            whole.update((root / path).read_bytes())
        except OSError as error:
            raise _unreadable(root / path, error) from None
    return whole.hexdigest()[:16]


def _cache_key(index: pd.DataFrame, root: Path) -> str:
    """Names the pixels, on this machine: labels do not matter (RegDB's ten trials share one file),
    but times do, so that a changed picture is decoded again."""
    digest = hashlib.sha256("\n".join([str(root.resolve()), *index["path"]]).encode())
    for stat in _stats(index, root):
        digest.update(b"%d %d\n" % (stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()[:16]


def _stats(index: pd.DataFrame, root: Path) -> Iterable[os.stat_result]:
    for path in index["path"]:
        try:
            yield os.stat(root / path)  # noqa: PTH116 - 45 863 times; Path.stat is slower
        except OSError as error:
            raise _unreadable(root / path, error) from None


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{shown(path)}: cannot be read as an image ({error}). Get the file again; "
        "`python -m reid_core data check` lists every defect of a dataset."
    )


def decode(path: Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """One picture as (height, width, 3) uint8, or in its own size, whatever its mode: 16 bits are
    scaled to 8, an alpha channel is dropped.

    Raises
    ------
    DatasetError
        The file is missing, empty, truncated or no image, or its numbers have no defined range.
    """
    try:
        with Image.open(path) as image:
            size = width or image.width, height or image.height
            return np.asarray(rgb(image).resize(size, Image.Resampling.LANCZOS))
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise _unreadable(path, error) from None


def rgb(image: Image.Image) -> Image.Image:
    """The picture as mode RGB; 16 bits are scaled to 8, an alpha channel is dropped.

    Raises
    ------
    ValueError
        Its numbers have no defined range.
    """
    if image.mode[0] in "IF":  # convert() would clip these at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            found = f"mode {image.mode} with values {values.min()} to {values.max()}"
            raise ValueError(f"{found}, expected whole numbers of 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


class PackedImages:
    """Pixels ``(N, H, W, 3)`` of a packed dataset, in the index's order, read by row.

    Raises
    ------
    DatasetError
        The file is cut short, or is no packed dataset.
    """

    def __init__(self, path: Path):
        again = "delete the file, the dataset is then packed again"
        try:
            pixels = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            message = f"{shown(path)}: not a packed dataset ({error}); {again}"
            raise DatasetError(message) from None
        expected, found = pixels.offset + pixels.nbytes, path.stat().st_size
        if pixels.dtype != np.uint8 or not pixels.flags.c_contiguous or found != expected:
            raise DatasetError(
                f"{shown(path)}: found {found} bytes, expected {expected} of pixels "
                f"{pixels.shape}; {again}"
            )
        self.shape, self._map, self._pixels = pixels.shape, pixels.base, np.asarray(pixels)
        self._touched = 0

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The pictures of ``rows``: (n, H, W, 3) uint8."""
        batch = torch.from_numpy(self._pixels[rows])
        self._touched += batch.numel() + _AROUND * len(batch)
        if self._touched > _RESIDENT:  # the system's cache keeps the pages, this process need not
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return batch


def pack(index: pd.DataFrame, root: Path, height: int, width: int) -> PackedImages:
    """Decodes every picture of ``index`` once; later calls and other processes reuse the file that
    ``packed_file`` names.

    The file is written whole before it gets its name, and of two processes that start at once the
    second waits for the first one's.

    Raises
    ------
    DatasetError
        A picture cannot be read (nothing is cached then), or the cache cannot be written.
    """
    root = Path(root)
    target = packed_file(index, root, height, width)
    if not target.exists():
        pictures = _decoded([root / path for path in index["path"]], height, width)
        pack_pictures(target, pictures, len(index), height, width)
    return PackedImages(target)


def packed_file(index: pd.DataFrame, root: Path, height: int, width: int) -> Path:
    """Where ``pack`` keeps the pixels: in ``data/cache``, named by what they are made from."""
    return data_folder() / "cache" / f"{_cache_key(index, Path(root))}-{height}x{width}.npy"


def pack_pictures(
    target: Path, pictures: Iterable[np.ndarray], count: int, height: int, width: int
) -> None:
    """Writes ``count`` pictures (height, width, 3) uint8 to a file for `PackedImages`, whole or not
    at all, unless another process has done so meanwhile.

    Raises
    ------
    DatasetError
        The file cannot be written.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
    cache = target.parent
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.with_name(f".{cache.name}.lock")):
            if not target.exists():
                with atomic_file(target, locked=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for picture in pictures:
                        file.write(picture.tobytes())
    except OSError as error:
        raise DatasetError(
            f"{shown(target.parent)}: packed pictures cannot be written here ({error}). Free "
            "or allow the space, or name another folder for data with REID_DATA."
        ) from None


def _decoded(paths: list[Path], height: int, width: int) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from pool.map(lambda path: decode(path, height, width), chunk)
