"""The region-centre loss against loops, by hand, and whatever the order of rows."""

import itertools
import math

import pytest
import torch

from reid_core.losses.region_center import region_center_loss

READINGS = list(
    itertools.product(
        ("images", "identities"),
        ("original", "human"),
        (None, 3.0),
        ("sum", "mean"),
        ("none", "length", "spread"),
    )
)
NAMES = ("between", "across", "margin", "reduction", "scale")


@pytest.fixture(params=READINGS, ids=lambda r: "-".join(map(str, r)))
def chosen(request) -> dict:
    return dict(zip(NAMES, request.param, strict=True))


@pytest.fixture
def batch() -> tuple[dict, dict, torch.Tensor]:
    """Three identities with 3, 2 and 2 images, in no order."""
    torch.manual_seed(0)
    regions = ("original", "human", "background")
    visible, infrared = (
        {region: torch.randn(7, 4, dtype=torch.float64) for region in regions} for _ in range(2)
    )
    return visible, infrared, torch.tensor([5, 2, 5, 9, 2, 9, 5])


def mean_of(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def naive(visible, infrared, identity, between, across, margin, reduction, scale) -> float:
    identity, every = identity.tolist(), range(len(identity))
    v, r = ({k: x.tolist() for k, x in m.items()} for m in (visible, infrared))
    if scale == "length":
        for m in (v, r):
            for region, rows in m.items():
                m[region] = [[x / math.hypot(*row) for x in row] for row in rows]
    total = spread = 0.0
    for m in (v, r):
        middle = mean_of(m["original"])
        for i in every:
            near = math.dist(m["original"][i], m["human"][i])
            total += near
            if margin is not None:
                total += max(0.0, margin + near - math.dist(m["original"][i], m["background"][i]))
            spread += math.dist(m["original"][i], middle) / (2 * len(every))
    for i in every:
        own = [i] if between == "images" else [j for j in every if identity[j] == identity[i]]
        total += math.dist(*(mean_of([m[across][j] for j in own]) for m in (v, r)))
    if scale == "spread":
        total /= spread
    return total if reduction == "sum" else total / len(every)


def test_equals_a_loop(batch, chosen):
    found = region_center_loss(*batch, **chosen)
    assert found.item() == pytest.approx(naive(*batch, **chosen), rel=1e-12)


def test_by_hand():
    """One person, two images on a line: originals at 0 and 2, human regions at 3 and 1 and
    infrared at 10 and 10, human regions there too. The human regions' centre is 2, but their
    images are 3 and 1 away from them."""
    visible = {"original": torch.tensor([[0.0], [2.0]]), "human": torch.tensor([[3.0], [1.0]])}
    infrared = {k: torch.tensor([[10.0], [10.0]]) for k in visible}
    identity = torch.tensor([4, 4])

    def loss(**chosen):
        return region_center_loss(visible, infrared, identity, **chosen).item()

    assert loss() == pytest.approx((3 + 1) + (0 + 0) + (10 + 8))
    assert loss(reduction="mean") == pytest.approx(11)
    assert loss(across="human") == pytest.approx(4 + 0 + (7 + 9))
    assert loss(scale="spread") == pytest.approx(22 / ((1 + 1 + 0 + 0) / 4))
    visible["original"][1] = 22.0  # centres 11 and 10, one apart; images 10 and 12 apart
    assert loss() == pytest.approx((3 + 21) + 0 + (10 + 12))
    assert loss(between="identities") == pytest.approx((3 + 21) + 0 + (1 + 1))
    visible["original"][1] = 2.0
    visible["background"], infrared["background"] = torch.tensor([[4.0], [9.0]]), torch.zeros(2, 1)
    # hinges 2 + 3 − 4 and 2 + 1 − 7; infrared 2 + 0 − 10
    assert loss(margin=2.0) == pytest.approx(22 + 1)


@pytest.mark.parametrize("scale", ["none", "length", "spread"])
def test_only_the_printed_loss_is_satisfied_by_shrinking(batch, scale):
    """Features a thousand times smaller make it a thousand times smaller, and the other two no
    smaller: their gradient has no part along the features' scale."""
    visible, infrared, identity = batch
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    scaled = [{k: factor * x for k, x in m.items()} for m in (visible, infrared)]
    value = region_center_loss(*scaled, identity, scale=scale)
    (slope,) = torch.autograd.grad(value, factor)
    small = [{k: 1e-3 * x for k, x in m.items()} for m in (visible, infrared)]
    shrunk = region_center_loss(*small, identity, scale=scale)
    if scale == "none":
        torch.testing.assert_close(slope, value)
        torch.testing.assert_close(shrunk, 1e-3 * value)
    else:
        assert slope.item() == pytest.approx(0, abs=1e-9 * value.item())
        torch.testing.assert_close(shrunk, value)


def test_only_the_spread_sees_what_features_have_in_common(batch):
    """A large number added to all features brings features of length 1 close to one another, though
    nothing is aligned."""
    visible, infrared, identity = batch
    moved = [{k: x + 100 for k, x in m.items()} for m in (visible, infrared)]
    for scale in ("none", "spread"):
        expected = region_center_loss(*batch, scale=scale)
        torch.testing.assert_close(region_center_loss(*moved, identity, scale=scale), expected)
    near = region_center_loss(*moved, identity, scale="length")
    assert near < 0.05 * region_center_loss(*batch, scale="length")


def test_order_of_rows_and_labels_do_not_matter(batch, chosen):
    visible, infrared, identity = batch
    expected = region_center_loss(*batch, **chosen)
    order = torch.randperm(7)
    shuffled = ({k: x[order] for k, x in m.items()} for m in (visible, infrared))
    torch.testing.assert_close(region_center_loss(*shuffled, identity[order], **chosen), expected)
    found = region_center_loss(visible, infrared, 10 - identity, **chosen)
    torch.testing.assert_close(found, expected)
    within = torch.tensor([6, 4, 0, 5, 1, 3, 2])  # infrared rows change places with their own
    torch.testing.assert_close(identity[within], identity)
    moved = {k: x[within] for k, x in infrared.items()}
    found = region_center_loss(visible, moved, identity, **chosen)
    assert torch.allclose(found, expected) == (chosen["between"] == "identities")


def test_gradients_also_of_equal_features(batch, chosen):
    visible, infrared, identity = batch
    names = list(visible)

    def loss(*rows):
        v, r = dict(zip(names, rows[:3], strict=True)), dict(zip(names, rows[3:], strict=True))
        return region_center_loss(v, r, identity, **chosen)

    inputs = [x.requires_grad_() for m in (visible, infrared) for x in m.values()]
    assert torch.autograd.gradcheck(loss, inputs)
    equal = [torch.ones(7, 4, requires_grad=True) for _ in range(6)]
    value = loss(*equal)
    value.backward()
    if chosen["scale"] != "spread" or chosen["margin"] is None:  # else a margin divided by nothing
        hinges = 2 * (chosen["margin"] or 0) * (7 if chosen["reduction"] == "sum" else 1)
        assert value.item() == pytest.approx(hinges)
        assert all(x.grad is None or torch.isfinite(x.grad).all() for x in equal)


def test_push_needs_the_background(batch):
    visible, infrared, identity = batch
    without = {k: visible[k] for k in ("original", "human")}
    region_center_loss(without, infrared, identity)
    with pytest.raises(KeyError, match="background"):
        region_center_loss(without, infrared, identity, margin=0.3)
