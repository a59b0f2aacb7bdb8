"""Batches of P identities × K pictures × two modalities, drawn reproducibly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch

from reid_core.data.augment import Augment
from reid_core.data.index import DatasetError


class Pixels(Protocol):
    """Pictures read by row, as `PackedImages` are."""

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The pictures of ``rows``: (n, H, W, 3) uint8."""


@dataclass(frozen=True)
class Batch:
    """Row i of both modalities shows the same identity; nothing else may be read from the order."""

    visible: torch.Tensor  # (B, 3, H, W) float32, normalised
    infrared: torch.Tensor  # (B, 3, H, W)
    identity: torch.Tensor  # (B,) int64, class numbers 0..n-1

    @property
    def images(self) -> dict[str, torch.Tensor]:
        """By modality, the visible ones first."""
        return {"visible": self.visible, "infrared": self.infrared}


class CrossModalSampler:
    """Draws P identities and K pictures of each in both modalities.

    An epoch's draws depend on ``(seed, epoch)`` alone, so a resumed run sees what an uninterrupted
    one would have seen. Pictures repeat within a batch only where an identity has fewer than K.

    Parameters
    ----------
    index : DataFrame
        Rows of the training split; their labels are positions in the packed pixels.
    identities, images : int
        P and K.
    steps : int
        Batches in an epoch; 0 takes as many as the larger modality fills once.

    Attributes
    ----------
    classes : list of int
        The identity of each class number.
    report : DataFrame
        ``identity, visible, infrared, handling`` of each identity that lacks a modality (left out)
        or has fewer than K pictures in one (some repeat).

    Raises
    ------
    DatasetError
        Fewer than P identities are seen in both modalities.
    """

    def __init__(
        self, index: pd.DataFrame, identities: int, images: int, seed: int, steps: int = 0
    ):
        self.identities, self.images, self.seed = identities, images, seed
        counts = pd.crosstab(index["identity"], index["modality"])
        counts = counts.reindex(columns=["visible", "infrared"], fill_value=0)
        complete = counts[(counts > 0).all(axis=1)]
        few = counts[(counts < images).any(axis=1)]
        handling = np.where(few.index.isin(complete.index), "pictures repeat", "left out")
        self.report = few.assign(handling=handling).reset_index().rename_axis(columns=None)
        self.classes = complete.index.tolist()
        if len(self.classes) < identities:
            raise DatasetError(
                f"identities: a batch needs {identities} of them in both modalities, the training "
                f"split has {len(self.classes)} (and {len(counts) - len(self.classes)} in one "
                "modality only). Lower `identities`."
            )
        groups = index.groupby(["identity", "modality"]).groups
        self._rows = {
            m: [groups[i, m].to_numpy() for i in self.classes] for m in ("visible", "infrared")
        }
        self.steps = steps or max(1, int(complete.sum().max()) // (identities * images))

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields ``(visible rows, infrared rows, class numbers)``, each of length P·K."""
        rng = np.random.default_rng([self.seed, number])
        for _ in range(self.steps):
            chosen = rng.permutation(len(self.classes))[: self.identities]
            visible = [self._draw(rng, "visible", c) for c in chosen]
            infrared = [self._draw(rng, "infrared", c) for c in chosen]
            yield np.concatenate(visible), np.concatenate(infrared), chosen.repeat(self.images)

    def _draw(self, rng: np.random.Generator, modality: str, number: int) -> np.ndarray:
        rows = self._rows[modality][number]
        return rng.choice(rows, self.images, replace=len(rows) < self.images)


def training_batches(
    pixels: Pixels,
    sampler: CrossModalSampler,
    augment: Augment,
    epoch: int,
    device: torch.device,
    thread: bool = True,
) -> Iterator[Batch]:
    """One epoch of augmented batches on ``device``; for a GPU each is prepared by a ``thread``, on
    the default stream, while it works on the one before."""
    if device == torch.device("cuda"):  # to each thread the one that is current there
        device = torch.device("cuda", torch.cuda.current_device())
    state = np.random.SeedSequence([sampler.seed, epoch]).generate_state(1)
    random = torch.Generator().manual_seed(int(state[0]))

    def prepared(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Batch:
        visible, infrared, identity = drawn
        return Batch(
            visible=augment(pixels.take(visible), "visible", random, device),
            infrared=augment(pixels.take(infrared), "infrared", random, device),
            identity=torch.from_numpy(identity).to(device),
        )

    batches = map(prepared, sampler.epoch(epoch))
    # a CPU has its cores at work; and TrivialAugment draws from the global generator, as a method
    # may meanwhile
    if thread and device.type == "cuda" and not augment.trivial:
        return ahead(batches)
    return batches


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, in their order; a thread prepares the next one while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
