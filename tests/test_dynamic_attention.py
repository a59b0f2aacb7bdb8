"""DAM and the attentions it is compared with, against loops over positions."""

import math

import pytest
import torch

from reid_core.layers.dynamic_attention import DynamicAttention
from reid_core.layers.part_attention import BAM, IWPAM


def position(maps: torch.Tensor, weight: torch.Tensor, b: int, y: int, x: int):
    """A 1×1 convolution at one position, as a list."""
    return (weight.flatten(1) @ maps[b, :, y, x]).tolist()


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_dam(dam: DynamicAttention, maps: torch.Tensor, b: int, scaled: bool) -> list[list[float]]:
    """f̄ of image ``b`` at the positions of its chosen regions, one after the other (Eq. 9–15)."""
    _, c, h, w = maps.shape
    places = [(y, x) for y in range(h) for x in range(w)]
    q, k, v = (
        [position(maps, weight, b, *p) for p in places] for weight in dam.qkv.weight.chunk(3)
    )
    size = len(places) // dam.regions

    def mean(rows, r):
        return [sum(column) / size for column in zip(*rows[r * size : (r + 1) * size], strict=True)]

    every = range(dam.regions)
    affinity = [[dot(mean(q, i), mean(k, j)) for j in every] for i in every]
    if dam.selection == "regions":
        chosen = sorted(every, key=lambda i: -sum(affinity[i]))[: dam.top_k]
    else:
        chosen = [
            j for i in every for j in sorted(every, key=lambda j: -affinity[i][j])[: dam.top_k]
        ]
    out = []
    for region in chosen:
        for p in range(region * size, (region + 1) * size):
            scale = math.sqrt(c) if scaled else 1
            weights = [math.exp(dot(q[p], key) / scale) for key in k]
            out.append([dot(weights, [value[d] for value in v]) / sum(weights) for d in range(c)])
    return out


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("selection", ["regions", "rows"])
@pytest.mark.parametrize(("height", "regions", "top_k"), [(6, 3, 2), (4, 4, 1), (3, 1, 1)])
def test_dam_equals_a_loop(selection, height, regions, top_k, scaled):
    torch.manual_seed(0)
    dam = DynamicAttention(4, regions, top_k, selection, scaled).double()
    maps = 2 * torch.randn(2, 4, height, 2, dtype=torch.float64)
    found = dam(maps)
    regions_chosen = top_k if selection == "regions" else top_k * regions
    assert found.shape == (2, 4, regions_chosen * height // regions, 2)
    for b in range(2):
        expected = torch.tensor(naive_dam(dam, maps, b, scaled), dtype=torch.float64)
        torch.testing.assert_close(found[b].flatten(1).T, expected)


def test_regions_are_chosen_by_hand():
    """Row sums 3, 0, 5, 4; of each row the highest are columns 1, 0, 3, 2. With the unit vectors
    as keys, two positions a region, the queries' means are the affinity matrix."""
    affinity = torch.tensor(
        [[1.0, 2.0, 0.0, 0.0], [3.0, -1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 5.0], [0.0, 1.0, 3.0, 0.0]]
    )
    q = torch.stack([affinity - 7, affinity + 7], 1)[None]
    k = torch.stack([torch.zeros(4, 4), 2 * torch.eye(4)], 1)[None]
    assert DynamicAttention(4, 4, 2).important(q, k).tolist() == [[2, 3]]
    assert DynamicAttention(4, 4, 1, "rows").important(q, k).tolist() == [[1, 0, 3, 2]]


@pytest.mark.parametrize("selection", ["regions", "rows"])
def test_dam_gradients_reach_queries_keys_and_values(selection):
    torch.manual_seed(0)
    dam = DynamicAttention(2, 3, 2, selection).double()
    maps = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dam, maps)
    dam(maps).square().sum().backward()
    assert all(part.abs().sum() > 0 for part in dam.qkv.weight.grad.chunk(3))


def test_dam_refuses_what_it_cannot_share():
    with pytest.raises(ValueError, match="regions: the feature map has 5 rows, which 3 regions"):
        DynamicAttention(4, 3, 1)(torch.zeros(1, 4, 5, 2))
    with pytest.raises(ValueError, match="top_k: found 4, expected at most regions = 3"):
        DynamicAttention(4, 3, 4)
    with pytest.raises(ValueError, match="selection: found 'all', expected regions or rows"):
        DynamicAttention(4, 3, 2, "all")


@torch.no_grad()
def test_iwpam_equals_a_loop():
    torch.manual_seed(0)
    layer = IWPAM(4, parts=3).double()
    torch.nn.init.normal_(layer.weight)
    maps = torch.randn(2, 4, 6, 2, dtype=torch.float64)
    found = layer(maps)
    assert found.shape == (2, 4, 1, 1)
    for b in range(2):
        x = [maps[b, :, 2 * i : 2 * i + 2].mean((1, 2)) for i in range(3)]
        u, v, z = ([weight @ part for part in x] for weight in layer.uvz.weight.chunk(3))
        parts = [math.exp(part) for part in layer.weight]
        w = [part / sum(parts) for part in parts]  # of the bands
        expected = torch.zeros(4, dtype=torch.float64)
        for i in range(3):
            weights = [math.exp(u[i] @ v[j]) for j in range(3)]
            for j in range(3):
                expected += w[i] * weights[j] / sum(weights) * z[j]
        torch.testing.assert_close(found[b, :, 0, 0], expected)


def test_iwpam_starts_with_equal_weights():
    weight = IWPAM(4, parts=4).weight
    assert len(weight) == 4 and len(set(weight.tolist())) == 1


@torch.no_grad()
def test_bam_equals_its_equations():
    """With a spatial branch of zeros that ends in a known bias, and a channel branch by hand."""
    torch.manual_seed(0)
    bam = BAM(8, reduction=4).double().eval()
    torch.nn.init.zeros_(bam.spatial[9].weight)
    bam.spatial[10].bias.data.fill_(0.5)
    first, _, second, norm = bam.channel
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(values, 0.5, 2)
    maps = torch.rand(2, 8, 6, 3, dtype=torch.float64)
    found = bam(maps)
    for b in range(2):
        average = torch.stack([maps[b, c].sum() / 18 for c in range(8)])
        hidden = [
            max(0.0, (row @ average + bias).item())
            for row, bias in zip(first.weight, first.bias, strict=True)
        ]
        for c in range(8):
            out = dot(second.weight[c].tolist(), hidden)
            out = (out - norm.running_mean[c]) / (norm.running_var[c] + norm.eps) ** 0.5
            m_c = out * norm.weight[c] + norm.bias[c]
            expected = maps[b, c] * (1 + 1 / (1 + math.exp(-(m_c + 0.5))))
            torch.testing.assert_close(found[b, c], expected)


def test_bam_looks_at_channels_as_a_whole_and_at_positions_with_a_gap():
    """Both branches alone, on a map of zeros with one mark: the channel branch answers it
    everywhere; the spatial one where two 3 × 3 kernels with gaps of 4 reach."""
    torch.manual_seed(0)
    bam = BAM(16, reduction=4).double().eval()
    marked = torch.zeros(1, 16, 21, 21, dtype=torch.float64)
    marked[0, 0, 10, 10] = 50.0
    with torch.no_grad():
        moved = bam.spatial(marked) - bam.spatial(torch.zeros_like(marked))
        channel = bam.channel(marked.mean((2, 3))) - bam.channel(torch.zeros(1, 16).double())
    places = {(y - 10, x - 10) for y, x in moved[0, 0].nonzero().tolist()}
    assert places <= {(y, x) for y in range(-8, 9, 4) for x in range(-8, 9, 4)}
    assert len(places) > 9
    assert channel.abs().min() > 0


def test_bam_refuses_channels_that_do_not_reduce():
    with pytest.raises(ValueError, match="channels: found 20, expected a multiple of 16"):
        BAM(20)


@pytest.mark.parametrize("layer", [DynamicAttention(16, 3, 2), IWPAM(16), BAM(16)])
def test_an_image_is_attended_to_alone(layer):
    torch.manual_seed(0)
    layer, maps = layer.eval(), torch.rand(3, 16, 6, 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(maps)[1:2], layer(maps[1:2]))


@pytest.mark.parametrize(
    "make", [lambda: DynamicAttention(16, 3, 2), lambda: IWPAM(16), lambda: BAM(16, reduction=4)]
)
def test_every_output_of_every_parameter_has_an_effect(make):
    """A bias in front of a normalisation or of a softmax would have none."""
    torch.manual_seed(0)
    layer = make().double()
    maps = torch.randn(8, 16, 6, 2, dtype=torch.float64)
    layer(maps).pow(3).sum().backward()
    for name, p in layer.named_parameters():
        assert (p.grad.reshape(len(p), -1).abs().amax(1) > 1e-9).all(), name
