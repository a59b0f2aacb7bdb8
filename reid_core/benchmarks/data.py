"""Pictures delivered: packed and augmented as batches, or one by one, and the memory it takes."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision import transforms

from reid_core.benchmarks.steps import batches_for
from reid_core.config import RunConfig
from reid_core.data.images import PackedImages, decode, pack_pictures


def packed(index: pd.DataFrame, root: Path, path: Path, height: int, width: int) -> PackedImages:
    """The pictures of ``index`` below ``root``, packed into ``path`` and not into the cache."""
    pictures = (decode(root / name, height, width) for name in index["path"])
    pack_pictures(path, pictures, len(index), height, width)
    return PackedImages(path)


def pil_batch(paths: list[Path], height: int, width: int) -> torch.Tensor:
    """What most released code does for every picture of every batch: decode, resize, pad, crop,
    flip, normalise; (n, 3, height, width) float32."""
    usual = transforms.Compose(
        [
            transforms.Resize((height, width)),
            transforms.Pad(10),
            transforms.RandomCrop((height, width)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(usual(image.convert("RGB")))
    return torch.stack(pictures)


def empty_set(path: Path, count: int, people: int, height: int, width: int) -> pd.DataFrame:
    """Index of ``count`` pictures that show nothing, packed into ``path``, where they take no room
    on the disk: reading them costs what reading pictures costs."""
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, height, width, 3))
    number = np.arange(count)
    modality = np.where(number // people % 3 == 2, "infrared", "visible")
    return pd.DataFrame({"identity": number % people, "modality": modality})


def memory_of_batches(run: RunConfig, index: pd.DataFrame, path: Path, steps: int) -> pd.Series:
    """MiB of a fresh process that has drawn ``steps`` batches from the packed file ``path``: its
    ``peak`` of resident memory, mapped pages of the file among it, and what it had ``before``, as
    everything was imported. Linux only."""
    work = partial(_draw, run, index, path, steps)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pd.Series(pool.submit(work).result(), index=["before", "peak"])


def _draw(run: RunConfig, index: pd.DataFrame, path: Path, steps: int) -> tuple[float, float]:
    before = _peak()
    batches = batches_for(run, index, PackedImages(path), torch.device("cpu"))
    for _ in range(steps):
        next(batches)
    return before, _peak()


def _peak() -> float:
    """MiB. Not ``ru_maxrss``, in which a child process begins with what its parent had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
