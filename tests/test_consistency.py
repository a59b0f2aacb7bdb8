"""Correlation consistency against loops, by hand, and whatever the order of rows."""

import math

import pytest
import torch

from reid_core.losses.consistency import correlation, correlation_consistency
from reid_core.losses.hetero_center import centres

BETWEEN = pytest.mark.parametrize("between", ["images", "identities"])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three identities with 3, 2 and 2 rows, in no order."""
    torch.manual_seed(0)
    visible, infrared = torch.randn(2, 7, 4, dtype=torch.float64)
    return visible, infrared, torch.tensor([5, 2, 5, 9, 2, 9, 5])


def naive(visible, infrared, identity, norm, between) -> float:
    people = sorted(set(identity.tolist()))
    grams = []
    for rows in (visible.tolist(), infrared.tolist()):
        middle = rows if between == "images" else []
        for person in people if between == "identities" else []:
            own = [r for r, i in zip(rows, identity.tolist(), strict=True) if i == person]
            middle.append([sum(column) / len(own) for column in zip(*own, strict=True)])
        gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in middle] for a in middle]
        whole = math.sqrt(sum(x * x for row in gram for x in row))
        length = [math.sqrt(sum(x * x for x in row)) if norm == "row" else whole for row in gram]
        grams.append([[x / n for x in row] for row, n in zip(gram, length, strict=True)])
    every = range(len(grams[0]))
    return math.sqrt(sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in every for j in every))


@BETWEEN
@pytest.mark.parametrize("norm", ["row", "matrix"])
def test_equals_a_loop(batch, norm, between):
    found = correlation_consistency(*batch, norm, between)
    assert found.item() == pytest.approx(naive(*batch, norm, between), rel=1e-12)


def test_by_hand():
    """Two people at right angles in daylight, the same in infrared: Gram matrices of identity
    against ones."""
    visible = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    infrared = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    identity = torch.tensor([0, 1])
    s = 1 / math.sqrt(2)  # a row of ones, at length 1
    by_rows = math.sqrt(2 * (1 - s) ** 2 + 2 * s**2)
    found = correlation_consistency(visible, infrared, identity, "row")
    assert found.item() == pytest.approx(by_rows)
    whole = math.sqrt(2 * (s - 0.5) ** 2 + 2 * 0.5**2)  # 1/√2 on the diagonal against ½ everywhere
    found = correlation_consistency(visible, infrared, identity, "matrix")
    assert found.item() == pytest.approx(whole)


def test_images_of_one_person_count_in_the_printed_loss_alone():
    """Two people whose centres agree in both modalities; by day the images of the first differ."""
    visible = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    infrared = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    identity = torch.tensor([0, 0, 1, 1])
    between = correlation_consistency(visible, infrared, identity, "row", "identities")
    assert between.item() == pytest.approx(0, abs=1e-6)
    s = 1 / math.sqrt(2)  # rows of G^v (1, 0, 0, 0) and 0, of G^r twice (s, s, 0, 0)
    by_hand = math.sqrt((1 - s) ** 2 + s**2 + 2 * s**2)
    found = correlation_consistency(visible, infrared, identity, "row", "images")
    assert found.item() == pytest.approx(by_hand)


def test_centres_average_the_gram_matrix_of_images(batch):
    """Why centres may stand for images."""
    visible, _, identity = batch
    gram, of_centres = visible @ visible.T, centres(visible, identity)
    for i, a in enumerate((2, 5, 9)):
        for j, b in enumerate((2, 5, 9)):
            block = gram[identity == a][:, identity == b]
            torch.testing.assert_close(of_centres[i] @ of_centres[j], block.mean())


@BETWEEN
@pytest.mark.parametrize("norm", ["row", "matrix"])
def test_order_of_rows_scale_and_labels_do_not_matter(batch, norm, between):
    visible, infrared, identity = batch
    read = (norm, between)
    expected = correlation_consistency(*batch, *read)
    order = torch.randperm(7)
    shuffled = (visible[order], infrared[order], identity[order])
    torch.testing.assert_close(correlation_consistency(*shuffled, *read), expected)
    within = torch.tensor([6, 4, 0, 5, 1, 3, 2])  # infrared rows change places with their own
    torch.testing.assert_close(identity[within], identity)
    found = correlation_consistency(visible, infrared[within], identity, *read)
    assert torch.allclose(found, expected) == (between == "identities")
    renamed = correlation_consistency(visible, infrared, 10 - identity, *read)
    torch.testing.assert_close(renamed, expected)
    found = correlation_consistency(3 * visible, infrared, identity, *read)
    torch.testing.assert_close(found, expected)


@BETWEEN
@pytest.mark.parametrize("norm", ["row", "matrix"])
def test_gradients_also_where_both_agree_or_all_is_zero(batch, norm, between):
    visible, infrared, identity = batch
    inputs = (visible.requires_grad_(), infrared.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda v, r: correlation_consistency(v, r, identity, norm, between), inputs
    )
    for rows in (torch.ones(7, 4), torch.zeros(7, 4)):
        same = rows.clone().requires_grad_()
        loss = correlation_consistency(same, rows, identity, norm, between)
        loss.backward()
        assert loss.item() == 0 and torch.isfinite(same.grad).all()


def test_products_are_float32_under_autocast():
    torch.manual_seed(0)
    features = 10 + torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = correlation(features)
    torch.testing.assert_close(found, correlation(features.double()).float())
