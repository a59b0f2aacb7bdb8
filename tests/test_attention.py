"""The attention modules against naive references and worked numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.layers.attention import (
    CBAM,
    MGSA,
    ChannelAttention,
    DualAttention,
    InBlocks,
    NonLocal,
    SpatialAttention,
    SpatialLogits,
    in_blocks,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def trained(module: nn.Module) -> nn.Module:
    """With weights and statistics that a new module would not have."""
    torch.manual_seed(3)
    for values in (*module.parameters(), *module.buffers()):
        if values.is_floating_point():
            nn.init.uniform_(values, 0.3, 1.5)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.5)
    return module.double().eval()


def naive_channel(attention: ChannelAttention, picture: torch.Tensor) -> list[float]:
    """One number a channel of ``picture`` (C, H, W)."""
    first, _, second = attention.mlp
    rows = [c.flatten().tolist() for c in picture]
    logits = [0.0] * len(rows)
    for pooled in ([sum(r) / len(r) for r in rows], [max(r) for r in rows]):
        hidden = [
            max(0.0, b + sum(w * x for w, x in zip(weights, pooled, strict=True)))
            for weights, b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
        ]
        for c, (weights, b) in enumerate(
            zip(second.weight.tolist(), second.bias.tolist(), strict=True)
        ):
            logits[c] += b + sum(w * x for w, x in zip(weights, hidden, strict=True))
    return [sigmoid(x) for x in logits]


def naive_logits(f: nn.Module, picture: torch.Tensor) -> list[list[float]]:
    """f([avg; max]) of ``picture`` (C, H, W), place by place, zeros outside."""
    _, height, width = picture.shape
    pooled = [picture.mean(0).tolist(), picture.max(0).values.tolist()]
    kernel, reach = f.conv.weight[0].tolist(), f.conv.weight.shape[-1] // 2
    scale = f.norm.weight.item() / math.sqrt(f.norm.running_var.item() + 1e-5)
    out = [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            total = 0.0
            for channel in (0, 1):
                for v in range(max(0, y - reach), min(height, y + reach + 1)):
                    for u in range(max(0, x - reach), min(width, x + reach + 1)):
                        weight = kernel[channel][v - y + reach][u - x + reach]
                        total += weight * pooled[channel][v][u]
            out[y][x] = scale * (total - f.norm.running_mean.item()) + f.norm.bias.item()
    return out


def naive_cbam(module: CBAM, picture: torch.Tensor) -> torch.Tensor:
    """CBAM of ``picture`` (C, H, W)."""
    weights = naive_channel(module.channel, picture)
    kept = torch.stack([w * c for w, c in zip(weights, picture, strict=True)])
    logits = naive_logits(module.spatial.f, kept)
    return kept * torch.tensor([[sigmoid(x) for x in row] for row in logits], dtype=kept.dtype)


@pytest.fixture
def maps() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 8, 12, 3, dtype=torch.float64)


@torch.no_grad()
def test_cbam_equals_loops(maps):
    module = trained(CBAM(8, reduction=4))
    found = module(maps)
    for picture, expected in zip(maps, found, strict=True):
        torch.testing.assert_close(naive_cbam(module, picture), expected)


def test_cbam_has_the_published_sizes():
    """ResNet-50's stage 2: 512 channels; 512 · 32 twice with biases, 2 · 49, batch norm's two."""
    module = CBAM(512)
    assert module.channel.mlp[0].weight.shape == (32, 512)
    assert sum(p.numel() for p in module.parameters()) == 2 * 512 * 32 + 32 + 512 + 98 + 2


@torch.no_grad()
def test_cbam_by_hand():
    """All weights zero: both attentions are a half, wherever and whatever."""
    module = CBAM(16)
    for values in module.parameters():
        values.zero_()
    maps = torch.randn(2, 16, 4, 3)
    torch.testing.assert_close(module(maps), maps / 4)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_mgsa_equals_loops(maps, double, shared):
    module = trained(MGSA(4, double_sigmoid=double, shared=shared))
    found = module(maps)
    assert found.shape == (2, 1, 12, 3)
    own = [module.f[1]] * 4 if shared else module.f[1:]
    inner = sigmoid if double else lambda x: x
    for picture, attention in zip(maps, found[:, 0].tolist(), strict=True):
        whole = naive_logits(module.f[0], picture)
        local = [
            row for n in range(4) for row in naive_logits(own[n], picture[:, 3 * n : 3 * n + 3])
        ]
        for y in range(12):
            for x in range(3):
                expected = sigmoid(inner(whole[y][x]) + inner(local[y][x]))
                assert attention[y][x] == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_mgsa_judges_in_evaluation_as_in_training(shared):
    """Once the statistics are those of the batch: the blocks' zeros beyond their edges are no part
    of the whole map's, nor the other way round."""
    torch.manual_seed(0)
    module, maps = MGSA(6, shared=shared), torch.rand(16, 8, 24, 12)
    nn.init.uniform_(module.f[0].conv.weight)
    for f in module.f:
        f.norm.momentum = 0.5
    for _ in range(20):
        expected = module.train()(maps)
    torch.testing.assert_close(module.eval()(maps), expected, rtol=1e-3, atol=0)


def test_shared_f_is_one_function_of_the_published_size():
    whole, block = MGSA(4).f
    assert whole.conv.kernel_size == (7, 7)
    assert block.conv is whole.conv and block.norm is not whole.norm
    assert len(list(MGSA(4).parameters())) == 3  # the kernel, a scale and an offset


@torch.no_grad()
def test_double_sigmoid_never_blocks_a_place(maps):
    double, single = (trained(MGSA(3, double_sigmoid=d))(1000 * maps) for d in (True, False))
    assert double.min() >= 0.5 and double.max() <= sigmoid(2) + 1e-9
    assert single.min() < 0.01 and single.max() > 0.99


@torch.no_grad()
def test_a_block_sees_nothing_of_the_others(maps):
    """What changes in one block changes the attention of another through the global term alone."""
    changed = maps.clone()
    changed[:, :, :3] += 5
    module = trained(MGSA(4, double_sigmoid=False))
    for f, same in ((lambda x: in_blocks(module.f[1:], x, 4), True), (module, False)):
        before, after = f(maps), f(changed)
        assert not torch.allclose(before[:, :, :3], after[:, :, :3])
        assert torch.equal(before[:, :, 3:], after[:, :, 3:]) is same


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_of_cbam_equal_loops(maps, shared):
    """MSAM's visible branch, Eq. 2 of multi_granularity."""
    module = trained(InBlocks(lambda: CBAM(8, reduction=4), 2, shared))
    found = module(maps)
    own = list(module.each) * 2 if shared else module.each
    assert len(module.each) == (1 if shared else 2)
    for picture, expected in zip(maps, found, strict=True):
        parts = [naive_cbam(own[n], picture[:, 6 * n : 6 * n + 6]) for n in (0, 1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected)


@torch.no_grad()
def test_channel_attention_of_blocks_joins_to_the_map(maps):
    module = trained(DualAttention(InBlocks(lambda: ChannelAttention(8, 4), 2), SpatialAttention()))
    weights = module.channel(maps)
    assert weights.shape == maps.shape
    for n, picture in enumerate(maps):
        for block in (0, 1):
            rows = slice(6 * block, 6 * block + 6)
            expected = naive_channel(module.channel.each[0], picture[:, rows])
            found = weights[n, :, rows].flatten(1)
            torch.testing.assert_close(
                found, torch.tensor(expected)[:, None].expand_as(found).to(found)
            )


@torch.no_grad()
def test_one_block_is_the_map_itself(maps):
    module = trained(CBAM(8, reduction=4))
    torch.testing.assert_close(in_blocks([module], maps, 1), module(maps))


@pytest.mark.parametrize(
    ("module", "name"),
    [(MGSA(5), "i1 .blocks of MGSA."), (InBlocks(lambda: CBAM(16), 5), "i2 .blocks of MSAM.")],
)
def test_impossible_division_is_refused(module, name):
    message = f"{name}: the feature map has 12 rows, which 5 blocks .* one of 1, 2, 3, 4, 6, 12;"
    with pytest.raises(ValueError, match=message):
        module(torch.zeros(2, 16, 12, 6))


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="reduction: found 16 for 8 channels, expected at most"):
        CBAM(8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CBAM(16, reduction=2),
        lambda: DualAttention(ChannelAttention(16, 2), MGSA(4)),
        lambda: DualAttention(ChannelAttention(16, 2), MGSA(4, shared=False)),
        lambda: InBlocks(lambda: CBAM(16, reduction=2), 2, shared=False),
    ],
)
def test_every_weight_learns(make):
    torch.manual_seed(0)
    module, maps = make(), torch.randn(4, 16, 12, 3, requires_grad=True)
    F.mse_loss(module(maps), torch.zeros(maps.shape)).backward()
    assert maps.grad.any() and all(p.grad.any() for p in module.parameters())


@torch.no_grad()
@pytest.mark.parametrize("inner", [4, 1])
def test_non_local_equals_loops(inner, maps):
    module = trained(NonLocal(8, inner))
    found = module(maps)
    for picture, result in zip(maps, found, strict=True):
        x = picture.flatten(1).T  # (N, C)
        theta, phi, g = (
            [f.weight[:, :, 0, 0] @ place + f.bias for place in x]
            for f in (module.theta, module.phi, module.g)
        )
        for i in range(len(x)):
            y = sum((theta[i] @ phi[j]) * g[j] for j in range(len(x))) / len(x)
            added = module.W.weight[:, :, 0, 0] @ y + module.W.bias
            norm = module.norm
            added = (added - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
            expected = x[i] + added * norm.weight + norm.bias
            torch.testing.assert_close(result.flatten(1)[:, i], expected)


def test_a_new_non_local_block_changes_nothing():
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 4, 3)
    torch.testing.assert_close(NonLocal(8, 4)(maps), maps)


def test_momentum_of_the_spatial_norm():
    assert SpatialLogits().norm.momentum == 0.01
