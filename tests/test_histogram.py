"""The colour histogram against counting pixel by pixel, and what it must not see."""

from pathlib import Path

import numpy as np
import pytest

from reid_core.data.images import PackedImages, pack
from reid_core.data.sysu import read_sysu
from reid_core.retrieval.histogram import colour_histogram


@pytest.fixture
def packed(tiny_dolls: Path) -> PackedImages:
    return pack(read_sysu(tiny_dolls), tiny_dolls, 24, 12)


def naive(picture: np.ndarray, stripes: int, levels: int) -> np.ndarray:
    middle = picture[:, 3:9].astype(float)
    mean = [middle[:, :, c].mean() for c in range(3)]
    counts = np.zeros((stripes, levels, levels, levels))
    height = len(picture) // stripes
    for y in range(len(picture)):
        for x in range(6):
            steps = [int(middle[y, x, c] / mean[c] * 96 / 256 * levels) for c in range(3)]
            red, green, blue = (min(s, levels - 1) for s in steps)
            counts[y // height, red, green, blue] += 1
    return np.sqrt(counts.ravel() / counts.sum())


def test_counts_as_pixel_by_pixel(packed: PackedImages) -> None:
    rows = np.array([5, 0, 17])
    features = colour_histogram(packed, rows, stripes=4, levels=3)
    expected = [naive(picture, 4, 3) for picture in packed.take(rows).numpy()]
    np.testing.assert_allclose(features, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)


def test_many_batches_keep_the_order(packed: PackedImages) -> None:
    rows = np.arange(1100) % len(packed)
    features = colour_histogram(packed, rows, levels=2)
    np.testing.assert_array_equal(features[:20], features[len(packed) : len(packed) + 20])
