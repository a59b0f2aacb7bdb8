"""The region-centre loss against loops, by hand, and whatever the order of rows."""

import itertools
import math

import pytest
import torch

from reid_core.losses.region_center import region_center_loss

READINGS = list(itertools.product(("identities", "pictures"), ("original", "human"), (None, 3.0)))


@pytest.fixture
def batch() -> tuple[dict, dict, torch.Tensor]:
    """Three identities with 3, 2 and 2 pictures, in no order."""
    torch.manual_seed(0)
    regions = ("original", "human", "background")
    visible, infrared = (
        {region: torch.randn(7, 4, dtype=torch.float64) for region in regions} for _ in range(2)
    )
    return visible, infrared, torch.tensor([5, 2, 5, 9, 2, 9, 5])


def mean_of(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def naive(visible, infrared, identity, between, across, margin) -> float:
    identity = identity.tolist()
    v, r = ({k: x.tolist() for k, x in m.items()} for m in (visible, infrared))
    total = 0.0
    for i in range(len(identity)):
        for m in (v, r):
            near = math.dist(m["original"][i], m["human"][i])
            total += near / len(identity)
            if margin is not None:
                far = math.dist(m["original"][i], m["background"][i])
                total += max(0.0, margin + near - far) / len(identity)
    rows = {p: [i for i, own in enumerate(identity) if own == p] for p in sorted(set(identity))}
    if between == "identities":
        middle = [
            math.dist(*(mean_of([m[across][i] for i in own]) for m in (v, r)))
            for own in rows.values()
        ]
        return total + sum(middle) / len(middle)
    for i, person in enumerate(identity):
        own = rows[person]
        across_i = sum(math.dist(v[across][i], r[across][j]) for j in own) / len(own)
        total += across_i / len(identity)
    return total


@pytest.mark.parametrize(("between", "across", "margin"), READINGS)
def test_equals_a_loop(batch, between, across, margin):
    found = region_center_loss(*batch, between=between, across=across, margin=margin)
    assert found.item() == pytest.approx(naive(*batch, between, across, margin), rel=1e-12)


def test_by_hand():
    """One person, two pictures on a line: originals at 0 and 2, human regions at 3 and 1 and
    infrared at 10 and 10, human regions there too. The human regions' centre is 2, but their
    pictures are 3 and 1 away from them."""
    visible = {"original": torch.tensor([[0.0], [2.0]]), "human": torch.tensor([[3.0], [1.0]])}
    infrared = {k: torch.tensor([[10.0], [10.0]]) for k in visible}
    identity = torch.tensor([4, 4])
    assert region_center_loss(visible, infrared, identity).item() == pytest.approx(2 + 0 + 9)
    found = region_center_loss(visible, infrared, identity, across="human")
    assert found.item() == pytest.approx(2 + 0 + 8)
    visible["background"], infrared["background"] = torch.tensor([[4.0], [9.0]]), torch.zeros(2, 1)
    found = region_center_loss(visible, infrared, identity, margin=2.0)
    # hinges 2 + 3 − 4 and 2 + 1 − 7; infrared 2 + 0 − 10
    assert found.item() == pytest.approx(2 + 0 + 9 + 0.5)


def test_pictures_third_term_is_the_printed_one_over_all_orders(batch):
    """Eq. 7 pairs rows; averaged over the orders of each identity's infrared rows that is this."""
    visible, infrared, identity = batch
    places = [[k for k, i in enumerate(identity.tolist()) if i == p] for p in (2, 5, 9)]
    printed = []
    for orders in itertools.product(*(itertools.permutations(p) for p in places)):
        order = torch.empty(7, dtype=torch.long)
        for own, moved in zip(places, orders, strict=True):
            order[own] = torch.tensor(moved)
        pairs = (visible["original"] - infrared["original"][order]).norm(dim=1)
        printed.append(pairs.mean().item())
    rest = sum((m["original"] - m["human"]).norm(dim=1).mean().item() for m in (visible, infrared))
    found = region_center_loss(*batch, between="pictures").item()
    assert found == pytest.approx(sum(printed) / len(printed) + rest, rel=1e-12)


@pytest.mark.parametrize(("between", "across", "margin"), READINGS)
def test_order_of_rows_and_labels_do_not_matter(batch, between, across, margin):
    visible, infrared, identity = batch
    chosen = {"between": between, "across": across, "margin": margin}
    expected = region_center_loss(*batch, **chosen)
    order = torch.randperm(7)
    shuffled = ({k: x[order] for k, x in m.items()} for m in (visible, infrared))
    torch.testing.assert_close(region_center_loss(*shuffled, identity[order], **chosen), expected)
    within = torch.tensor([6, 4, 0, 5, 1, 3, 2])  # infrared rows change places with their own
    torch.testing.assert_close(identity[within], identity)
    moved = {k: x[within] for k, x in infrared.items()}
    found = region_center_loss(visible, moved, identity, **chosen)
    torch.testing.assert_close(found, expected)
    found = region_center_loss(visible, infrared, 10 - identity, **chosen)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("between", "across", "margin"), READINGS)
def test_gradients_also_of_equal_features(batch, between, across, margin):
    visible, infrared, identity = batch
    names = list(visible)

    def loss(*rows):
        v, r = dict(zip(names, rows[:3], strict=True)), dict(zip(names, rows[3:], strict=True))
        return region_center_loss(v, r, identity, between=between, across=across, margin=margin)

    inputs = [x.requires_grad_() for m in (visible, infrared) for x in m.values()]
    assert torch.autograd.gradcheck(loss, inputs)
    equal = [torch.ones(7, 4, requires_grad=True) for _ in range(6)]
    value = loss(*equal)
    value.backward()
    assert value.item() == (2 * margin if margin else 0)
    assert all(x.grad is None or torch.isfinite(x.grad).all() for x in equal)


def test_push_needs_the_background(batch):
    visible, infrared, identity = batch
    without = {k: visible[k] for k in ("original", "human")}
    region_center_loss(without, infrared, identity)
    with pytest.raises(KeyError, match="background"):
        region_center_loss(without, infrared, identity, margin=0.3)
