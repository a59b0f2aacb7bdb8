"""Pictures decoded once into one file of uint8 pixels, then read by row."""

import hashlib
import mmap
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from reid_core.data.index import DatasetError
from reid_core.paths import data_folder, shown

_CHUNK = 512  # pictures decoded before they are written: bounds the memory
_RESIDENT = 256 << 20  # bytes of the file that may stay in this process's memory


def fingerprint(index: pd.DataFrame, root: Path, *, times: bool = False) -> str:
    """Names a dataset's content: a hash over every listed path, label and file size, and with
    ``times`` over the time of change too (so that an edited picture is decoded again).

    Raises
    ------
    DatasetError
        A listed file is not there.
    """
    digest = hashlib.sha256(index.to_csv(index=False).encode())
    for path in index["path"]:
        try:
            stat = os.stat(root / path)  # noqa: PTH116 - 45 863 times; Path.stat is slower
        except OSError as error:
            raise _unreadable(root / path, error) from None
        digest.update(b"%d %d\n" % (stat.st_size, stat.st_mtime_ns if times else 0))
    return digest.hexdigest()[:16]


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{shown(path)}: cannot be read as an image ({error}). Get the file again; "
        "`python -m reid_core data check` lists every defect of a dataset."
    )


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """One picture as (height, width, 3) uint8, whatever its mode.

    Raises
    ------
    DatasetError
        The file is missing, empty, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bit: convert() would clip, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            return np.asarray(small)
    except (OSError, ValueError, SyntaxError) as error:
        raise _unreadable(path, error) from None


class PackedImages:
    """Pixels ``(N, H, W, 3)`` of a packed dataset, in the index's order, read by row."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise DatasetError(f"{shown(path)}: not a packed dataset; delete it.")
            self.shape, _, _ = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pixels = np.frombuffer(self._map, np.uint8, offset=offset)
        self._pixels = pixels.reshape(self.shape)
        self._touched = 0

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The pictures of ``rows``: (n, H, W, 3) uint8."""
        batch = torch.from_numpy(self._pixels[rows])
        self._touched += batch.numel()
        if self._touched > _RESIDENT:  # the system's cache keeps the pages, this process need not
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return batch


def pack(index: pd.DataFrame, root: Path, height: int, width: int) -> PackedImages:
    """Decodes every picture of ``index`` once; later calls and other processes reuse the file.

    The file lies in ``data/cache`` under the dataset's fingerprint and is written whole before it
    gets its name, so two processes that start at once disturb each other no more than by doing
    the work twice.

    Raises
    ------
    DatasetError
        A picture cannot be read; nothing is cached then.
    """
    root = Path(root)
    name = f"{fingerprint(index, root, times=True)}-{height}x{width}.npy"
    target = data_folder() / "cache" / name
    if target.exists():
        return PackedImages(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(index), height, width, 3)}
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".packing-")
    try:
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(index), _CHUNK):
                paths = [root / p for p in index["path"].iloc[start : start + _CHUNK]]
                for picture in pool.map(lambda p: decode(p, height, width), paths):
                    file.write(picture.tobytes())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return PackedImages(target)
