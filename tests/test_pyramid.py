"""The feature pyramid, against loops over places."""

import pytest
import torch

from reid_core.layers.pyramid import FeaturePyramid

SIZES = {2: (8, 6), 3: (4, 3), 4: (2, 2), 5: (1, 1)}  # 3 is not twice 2, nor 2 twice of an odd 1
CHANNELS = (2, 3, 4, 5)


def maps_of(batch: int = 2) -> dict[int, torch.Tensor]:
    torch.manual_seed(0)
    return {
        k: torch.randn(batch, c, *SIZES[k], dtype=torch.float64)
        for k, c in zip(SIZES, CHANNELS, strict=True)
    }


def enlarged(small: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear, (C, h, w) to (C, height, width), place by place."""
    out = small.new_zeros(len(small), height, width)
    for y in range(height):
        for x in range(width):
            places = []
            for place, size, large in ((y, small.shape[1], height), (x, small.shape[2], width)):
                at = min(max((place + 0.5) * size / large - 0.5, 0), size - 1)
                low = int(at)
                places.append((low, min(low + 1, size - 1), at - low))
            (y0, y1, v), (x0, x1, u) = places
            top = (1 - u) * small[:, y0, x0] + u * small[:, y0, x1]
            bottom = (1 - u) * small[:, y1, x0] + u * small[:, y1, x1]
            out[:, y, x] = (1 - v) * top + v * bottom
    return out


def convolved(conv: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """(C, H, W) by a convolution that keeps its size, place by place."""
    reach = conv.kernel_size[0] // 2
    padded = torch.nn.functional.pad(x, (reach,) * 4)
    out = x.new_zeros(conv.out_channels, *x.shape[1:])
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = padded[:, i : i + 2 * reach + 1, j : j + 2 * reach + 1]
            out[:, i, j] = (conv.weight * window).sum((1, 2, 3)) + conv.bias
    return out


@pytest.mark.parametrize("smoothing", ["before", "after"])
@pytest.mark.parametrize("levels", [{2, 3, 4, 5}, {5}, {4}, {2}, {5, 2}, {4, 3}])
def test_pyramid_equals_loops(levels, smoothing):
    """Eq. 1: "before" hands the smoothed level down, "after" the sum as it is."""
    maps = maps_of()
    pyramid = FeaturePyramid(CHANNELS, levels, 3, smoothing).double()
    found = pyramid(maps)
    assert set(found) == levels
    for b in range(2):
        above = None
        for k in range(5, min(levels) - 1, -1):
            level = convolved(pyramid.lateral[str(k)], maps[k][b])
            if above is not None:
                level = level + enlarged(above, *SIZES[k])
            needed = k < 5 and (smoothing == "before" or k in levels)
            smoothed = convolved(pyramid.smooth[str(k)], level) if needed else level
            above = smoothed if smoothing == "before" else level
            if k in levels:
                torch.testing.assert_close(found[k][b], smoothed.mean((1, 2)))


@pytest.mark.parametrize("smoothing", ["before", "after"])
def test_every_layer_of_a_pyramid_learns(smoothing):
    """There are none that the levels asked for do not need."""
    for levels in ({5}, {4}, {3, 5}, {2}):
        pyramid = FeaturePyramid(CHANNELS, levels, 3, smoothing).double()
        sum(p.sum() for p in pyramid(maps_of()).values()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pyramid.parameters())
        expected = {str(k) for k in range(min(levels), 6)}
        assert set(pyramid.lateral) == expected
        kept = expected if smoothing == "before" else {str(k) for k in levels}
        assert set(pyramid.smooth) == kept - {"5"}


def test_vectors_are_float32_under_autocast():
    pyramid = FeaturePyramid(CHANNELS, {2, 5}, 3)
    maps = {k: x.float() for k, x in maps_of().items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert {x.dtype for x in pyramid(maps).values()} == {torch.float32}


@pytest.mark.parametrize("levels", [set(), {1}, {2, 6}])
def test_levels_that_do_not_exist_are_refused(levels):
    with pytest.raises(ValueError, match=r"levels: found .* expected some of 2, 3, 4, 5"):
        FeaturePyramid(CHANNELS, levels)
