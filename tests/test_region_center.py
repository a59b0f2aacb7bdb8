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
    if between == "identities":
        people = sorted(set(identity))
        v, r = (
            {
                k: [
                    mean_of([row for row, i in zip(x, identity, strict=True) if i == person])
                    for person in people
                ]
                for k, x in m.items()
            }
            for m in (v, r)
        )
        identity = people
    total = 0.0
    for i, person in enumerate(identity):
        for m in (v, r):
            total += math.dist(m["original"][i], m["human"][i])
            if margin is not None:
                total += max(0.0, margin - math.dist(m["original"][i], m["background"][i]))
        own = [j for j, other in enumerate(identity) if other == person]
        total += sum(math.dist(v[across][i], r[across][j]) for j in own) / len(own)
    return total / len(identity)


@pytest.mark.parametrize(("between", "across", "margin"), READINGS)
def test_equals_a_loop(batch, between, across, margin):
    found = region_center_loss(*batch, between=between, across=across, margin=margin)
    assert found.item() == pytest.approx(naive(*batch, between, across, margin), rel=1e-12)


def test_by_hand():
    """One person, two pictures on a line: originals at 0 and 2, human regions at 3 and 5 and
    infrared at 10 and 10, human regions there too."""
    visible = {"original": torch.tensor([[0.0], [2.0]]), "human": torch.tensor([[3.0], [5.0]])}
    infrared = {k: torch.tensor([[10.0], [10.0]]) for k in visible}
    identity = torch.tensor([4, 4])
    assert region_center_loss(visible, infrared, identity).item() == pytest.approx(3 + 0 + 9)
    found = region_center_loss(visible, infrared, identity, across="human")
    assert found.item() == pytest.approx(3 + 0 + 6)
    visible["background"], infrared["background"] = torch.tensor([[0.5], [2.5]]), torch.zeros(2, 1)
    found = region_center_loss(visible, infrared, identity, margin=2.0)
    assert found.item() == pytest.approx(3 + 0 + 9 + 1.5)  # infrared is 10 away: pushed enough


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
