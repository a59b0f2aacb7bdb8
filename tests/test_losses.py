"""The triplet losses against naive references, worked examples, gradients and invariances."""

import math
from typing import get_args

import pytest
import torch

from reid_core.losses.hetero_center import hetero_center_triplet
from reid_core.losses.metric import Metric, metric_loss, trivial_value
from reid_core.losses.triplet import (
    adaptive_weighted_triplet,
    batch_hard_triplet,
    pairwise_distance,
    released_weighted_triplet,
    soft_batch_hard_triplet,
    weighted_regularised_triplet,
)

# the value of each for features that are all alike
EQUAL = {
    batch_hard_triplet: 0.3,
    soft_batch_hard_triplet: math.log(2),
    weighted_regularised_triplet: math.log(2),
    released_weighted_triplet: math.log(2),
    adaptive_weighted_triplet: 1.0,
}
LOSSES = list(EQUAL)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four identities with 3, 2, 4 and 2 rows, in no order."""
    torch.manual_seed(0)
    identity = torch.tensor([7, 3, 7, 0, 3, 9, 0, 7, 0, 0, 9])
    return torch.randn(len(identity), 5, dtype=torch.float64), identity


def naive_distances(features, identity, anchor) -> tuple[list[float], list[float]]:
    """Distances of one anchor to its positives and to its negatives."""
    positives, negatives = [], []
    for other in range(len(identity)):
        d = math.sqrt(sum((features[anchor] - features[other]).tolist()[c] ** 2 for c in range(5)))
        if identity[other] != identity[anchor]:
            negatives.append(d)
        elif other != anchor:
            positives.append(d)
    return positives, negatives


def test_batch_hard_equals_a_double_loop(batch):
    features, identity = batch
    total = 0.0
    for anchor in range(len(identity)):
        positives, negatives = naive_distances(features, identity, anchor)
        total += max(0.0, 0.3 + max(positives) - min(negatives))
    found = batch_hard_triplet(features, identity, margin=0.3)
    assert found.item() == pytest.approx(total / len(identity), rel=1e-12)


def test_released_weights_equal_a_double_loop_and_forget_far_negatives(batch):
    features, identity = batch
    for scale in (1.0, 100.0):
        total = gone = 0.0
        for anchor in range(len(identity)):
            positives, negatives = naive_distances(scale * features, identity, anchor)
            positives.append(0.0)  # the anchor itself
            top = max(positives)
            of_p = [math.exp(d - top) for d in positives]
            of_n = [math.exp(-d) for d in negatives]
            far = sum(w * d for w, d in zip(of_p, positives, strict=True)) / (sum(of_p) + 1e-6)
            near = sum(w * d for w, d in zip(of_n, negatives, strict=True)) / (sum(of_n) + 1e-6)
            total += math.log1p(math.exp(far - near))
            gone += near < 0.01 * min(negatives)
        found = released_weighted_triplet(scale * features, identity)
        assert found.item() == pytest.approx(total / len(identity), rel=1e-9)
        assert gone == (len(identity) if scale == 100.0 else 0), "beyond 14 none pushes"


def test_soft_batch_hard_equals_a_double_loop(batch):
    features, identity = batch
    total = 0.0
    for anchor in range(len(identity)):
        positives, negatives = naive_distances(features, identity, anchor)
        total += math.log(1 + math.exp(max(positives) - min(negatives)))
    found = soft_batch_hard_triplet(features, identity)
    assert found.item() == pytest.approx(total / len(identity), rel=1e-12)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_every_metric_loss_by_name(metric):
    """Of features that are one point each has its trivial value; and each is the function that its
    name says, of rows in which every person stands in both modalities."""
    torch.manual_seed(0)
    identity, features = torch.tensor([2, 2, 5, 5]), torch.randn(8, 6, dtype=torch.float64)
    alike = torch.ones(8, 6, dtype=torch.float64)
    found = metric_loss(metric, alike, identity, 0.3).item()
    assert found == pytest.approx(trivial_value(metric, 0.3), abs=1e-12)
    both, unit = identity.repeat(2), features / features.norm(dim=1, keepdim=True)
    expected = {
        "batch_hard": batch_hard_triplet(features, both, 0.7),
        "batch_hard_unit": batch_hard_triplet(unit, both, 0.7),
        "batch_hard_soft": soft_batch_hard_triplet(features, both),
        "weighted_regularised": weighted_regularised_triplet(features, both),
        "weighted_released": released_weighted_triplet(features, both),
        "hetero_center": hetero_center_triplet(features[:4], features[4:], identity, 0.7),
    }[metric]
    assert torch.equal(metric_loss(metric, features, identity, 0.7), expected)


def test_shrinking_lowers_the_hinge_but_not_the_unit_form():
    """What crippled every batch-hard training here: hard triplets whose features only shrink."""
    torch.manual_seed(0)
    identity, features = torch.tensor([0, 0, 1, 1]), torch.randn(8, 16, dtype=torch.float64)
    literal, unit = (
        [metric_loss(name, scale * features, identity, 0.3).item() for scale in (1, 0.1, 0.001)]
        for name in ("batch_hard", "batch_hard_unit")
    )
    assert literal[0] > literal[1] > literal[2] == pytest.approx(0.3, abs=0.01)
    assert unit == pytest.approx([unit[0]] * 3, rel=1e-9)


def test_weighted_regularised_equals_a_double_loop(batch):
    features, identity = batch
    total = 0.0
    for anchor in range(len(identity)):
        positives, negatives = naive_distances(features, identity, anchor)
        of_positives = [math.exp(d) for d in positives]
        of_negatives = [math.exp(-d) for d in negatives]
        far = sum(w * d for w, d in zip(of_positives, positives, strict=True)) / sum(of_positives)
        near = sum(w * d for w, d in zip(of_negatives, negatives, strict=True)) / sum(of_negatives)
        total += math.log(1 + math.exp(far - near))
    found = weighted_regularised_triplet(features, identity)
    assert found.item() == pytest.approx(total / len(identity), rel=1e-12)


@pytest.mark.parametrize("hinge", [True, False])
@pytest.mark.parametrize("margin", [1.0, 0.2])
def test_adaptive_weighted_equals_a_double_loop(margin, hinge, batch):
    """Eq. 15, with an identity so far from the others that its hinges close."""
    features, identity = batch[0] + 9.0 * (batch[1] == 9)[:, None], batch[1]
    total, closed = 0.0, 0
    for anchor in range(len(identity)):
        positives, negatives = naive_distances(features, identity, anchor)
        far = near = 0.0
        for d in positives:
            far += math.exp(d) / sum(math.exp(other) for other in positives) * d
        for d in negatives:
            near += math.exp(-d) / sum(math.exp(-other) for other in negatives) * d
        gap = far - near + margin
        closed += gap < 0
        total += max(0.0, gap) if hinge else gap
    assert 0 < closed < len(identity)
    found = adaptive_weighted_triplet(features, identity, margin, hinge)
    assert found.item() == pytest.approx(total / len(identity), rel=1e-12)


def test_without_a_hinge_the_loss_has_no_lower_bound():
    line = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    identity = torch.tensor([0, 0, 1, 1])
    values = [adaptive_weighted_triplet(line * s, identity, 1.0, hinge=False) for s in (1, 10, 100)]
    assert [v.item() for v in values] == pytest.approx([0, -9, -99])


def test_batch_hard_by_hand():
    """Points 0, 1 | 3, 7 on a line: hardest positives 1, 1, 4, 4, hardest negatives 3, 2, 2, 6."""
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    identity = torch.tensor([0, 0, 1, 1])
    # hinges of 1 − 3, 1 − 2, 4 − 2, 4 − 6 plus the margin
    assert batch_hard_triplet(line, identity, margin=0.0).item() == pytest.approx(2 / 4)
    assert batch_hard_triplet(line, identity, margin=1.5).item() == pytest.approx((0.5 + 3.5) / 4)


def test_weighted_regularised_by_hand():
    """One positive each, so it weighs 1; distances ln 2 and ln 4 to the negatives weigh 2 : 1."""
    a, b = math.log(2), math.log(4)
    line = torch.tensor([[0.0], [0.0], [a], [b]], dtype=torch.float64)
    identity = torch.tensor([0, 0, 1, 1])
    first = (2 * a + b) / 3  # of both zeros: positive at 0, negatives at ln 2 and ln 4
    gaps = [-first, -first, (b - a) - a, (b - a) - b]  # equal negatives, whatever their weights
    expected = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    found = weighted_regularised_triplet(line, identity)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_weights_sum_to_one(batch):
    """Equal distances c to all positives and negatives: the gap is 0 only if both sums are 1."""
    corners = torch.eye(6, dtype=torch.float64) * 3
    identity = torch.tensor([0, 0, 0, 1, 1, 1])
    found = weighted_regularised_triplet(corners, identity)
    assert found.item() == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss, batch):
    """A random batch has no ties, and there batch-hard is smooth too."""
    features, identity = batch
    assert torch.autograd.gradcheck(lambda x: loss(x, identity), features.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_order_of_rows_and_place_in_space_do_not_matter(loss, batch):
    features, identity = batch
    expected = loss(features, identity)
    order = torch.randperm(len(identity))
    torch.testing.assert_close(loss(features[order], identity[order]), expected)
    torch.testing.assert_close(loss(features + 100.0, identity), expected)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    torch.testing.assert_close(loss(features @ rotation, identity), expected)
    torch.testing.assert_close(loss(features, 10 - identity), expected)  # only equality counts


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_features_have_a_finite_gradient(loss):
    features = torch.ones(4, 3, requires_grad=True)
    value = loss(features, torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value.item() == pytest.approx(EQUAL[loss])
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_huge_features_do_not_overflow(loss):
    features = (torch.arange(8.0).view(4, 2) * 1e6).requires_grad_()
    value = loss(features, torch.tensor([0, 1, 0, 1]))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("identity", [[0, 0, 0, 0], [0, 0, 1, 2], [0, 1, 2, 3]])
def test_batch_without_a_positive_or_a_negative_is_refused(loss, identity):
    with pytest.raises(ValueError, match=r"identity: found \[0, .*at least twice"):
        loss(torch.randn(4, 3), torch.tensor(identity))


@pytest.mark.parametrize("loss", LOSSES)
def test_well_separated_identities_cost_nothing(loss):
    """But for the released form, which no longer sees negatives that far away."""
    features = torch.tensor([[0.0], [0.0], [50.0], [50.0]])
    cost = math.log(2) if loss is released_weighted_triplet else 0
    assert loss(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(cost, abs=1e-6)


def test_distances_keep_their_digits_far_from_the_origin_and_under_autocast():
    """Pooled features are positive and alike: their distances are small beside their lengths."""
    torch.manual_seed(0)
    features = 10 + 0.01 * torch.randn(6, 512)
    exact = (features[:, None].double() - features[None].double()).square().sum(-1).sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        found = pairwise_distance(features, features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
