"""SVDNet's layer: what decorrelation keeps, and what it makes."""

import itertools

import pytest
import torch

from reid_core.layers.svd_linear import SVDLinear, decorrelated, orthogonality


def weight_of(outputs: int, inputs: int) -> torch.Tensor:
    torch.manual_seed(outputs * inputs)
    common = torch.randn(inputs, dtype=torch.float64)  # vectors that are much alike
    return common + 0.7 * torch.randn(outputs, inputs, dtype=torch.float64)


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 9), (5, 5), (9, 4), (1, 3)])
def test_distances_stay_and_rows_become_orthogonal(outputs, inputs):
    """W Wᵀ of the layer's equation is the (in, in) matrix weightᵀ · weight: its distances."""
    weight = weight_of(outputs, inputs)
    found = decorrelated(weight)
    x = torch.randn(6, inputs, dtype=torch.float64)
    for i, j in itertools.combinations(range(6), 2):
        before, after = ((w @ x[i] - w @ x[j]).norm() for w in (weight, found))
        torch.testing.assert_close(before, after)
    gram = found @ found.T
    assert (gram - gram.diag().diag()).abs().max() < 1e-9
    lengths = gram.diag().sqrt().sort(descending=True).values
    expected = torch.linalg.svdvals(weight)
    torch.testing.assert_close(lengths[: len(expected)], expected)
    assert (lengths[len(expected) :] < 1e-9).all(), "no more directions than inputs"


def test_each_vector_gets_the_nearest_direction_left():
    """Against a search from the first row to the last, with the sign that points the same way."""
    weight = weight_of(4, 6)
    found = decorrelated(weight)
    values, vectors = torch.linalg.eigh(weight.T @ weight)
    left = [values[i].sqrt() * vectors[:, i] for i in range(2, 6)]  # the four that are not zero
    for row, w in zip(found, weight, strict=True):
        cosines = [(w @ d / w.norm() / d.norm()).item() for d in left]
        best = max(range(len(left)), key=lambda i: abs(cosines[i]))
        assert row @ w > 0
        direction = left.pop(best)
        torch.testing.assert_close(row, direction if cosines[best] > 0 else -direction)


def test_what_is_orthogonal_stays():
    weight = torch.diag(torch.tensor([3.0, -1.0, 2.0]))
    torch.testing.assert_close(decorrelated(weight), weight)


def test_orthogonality_by_hand():
    """Gram matrix (1 1; 1 2): diagonal 3 of 5. Two equal rows: a half."""
    assert orthogonality(torch.tensor([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(3 / 5)
    assert orthogonality(torch.tensor([[1.0, -2.0], [-1.0, 2.0]])) == pytest.approx(1 / 2)
    weight = weight_of(4, 9)
    assert orthogonality(weight) < 0.6
    assert orthogonality(decorrelated(weight)) == pytest.approx(1)


def test_layer_is_linear_without_bias_and_keeps_its_parameter():
    layer, x = SVDLinear(6, 4), torch.randn(3, 6)
    parameter, expected = layer.weight, layer.weight.detach().clone()
    torch.testing.assert_close(layer(x), x @ expected.T)
    assert layer.bias is None
    layer.decorrelate()
    assert layer.weight is parameter and parameter.requires_grad
    torch.testing.assert_close(parameter.detach(), decorrelated(expected))


def test_starts_with_the_spread_that_keeps_variance():
    assert SVDLinear(400, 300).weight.std().item() == pytest.approx(400**-0.5, rel=0.05)
