"""What the figures show is computed right: of networks whose answer is known, and by hand."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reid_core.data.augment import normalise
from reid_core.data.datasets import obtain
from reid_core.methods import configure
from reid_core.retrieval import explain
from reid_core.retrieval.features import evaluation_rows, measure
from reid_core.train import fit

IMAGES = pd.DataFrame(
    [(identity, modality) for identity in (5, 3, 8) for modality in ("infrared", "visible")] * 4
    + [(9, "visible")],
    columns=["identity", "modality"],
)


def test_people_are_seen_by_both_and_chosen_by_the_seed():
    assert explain.choose_people(IMAGES, 10) == [3, 5, 8]
    two = explain.choose_people(IMAGES, 2, seed=4)
    assert len(two) == 2 and explain.choose_people(IMAGES, 2, seed=4) == two
    assert len({tuple(explain.choose_people(IMAGES, 2, seed)) for seed in range(20)}) == 3


def test_rows_are_ordered_by_person_and_modality():
    rows = explain.choose_rows(IMAGES, [3, 8], pictures=3, seed=1)
    chosen = IMAGES.iloc[rows]
    assert chosen["identity"].tolist() == [3] * 6 + [8] * 6
    assert chosen["modality"].tolist() == (["visible"] * 3 + ["infrared"] * 3) * 2
    assert len(set(rows)) == 12
    np.testing.assert_array_equal(rows, explain.choose_rows(IMAGES, [3, 8], 3, seed=1))
    assert len(explain.choose_rows(IMAGES, [3], pictures=99)) == 8, "all there are"


def test_distances_by_hand():
    angles = np.radians([0, 90, 60, 90])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    modalities = np.array(["visible", "visible", "infrared", "infrared"])
    intra, inter = explain.class_distances(features, np.array([1, 2, 1, 2]), modalities)
    np.testing.assert_allclose(intra, [0.5, 0], atol=1e-12)
    np.testing.assert_allclose(inter, [1, 1 - math.sqrt(3) / 2], atol=1e-12)


def test_distances_of_every_pair_across_modalities():
    random = np.random.default_rng(0)
    features = random.normal(size=(23, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    identities = random.integers(3, size=23)
    modalities = np.where(random.random(23) < 0.4, "visible", "infrared")
    expected = {True: [], False: []}
    for i in range(23):
        for j in range(23):
            if modalities[i] == "visible" and modalities[j] == "infrared":
                distance = 1 - sum(a * b for a, b in zip(features[i], features[j], strict=True))
                expected[bool(identities[i] == identities[j])].append(distance)
    found = explain.class_distances(features, identities, modalities)
    for part, kind in zip(found, (True, False), strict=True):
        np.testing.assert_allclose(np.sort(part), np.sort(expected[kind]), atol=1e-12)


def test_tsne_keeps_neighbours_and_leaves_nothing_to_chance():
    random = np.random.default_rng(1)
    groups = np.arange(5).repeat(8)
    features = np.eye(5)[groups] + random.normal(scale=0.05, size=(40, 5))
    np.random.seed(0)  # noqa: NPY002 - sklearn draws from it where it is given no seed
    plane = explain.tsne(features)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(plane, explain.tsne(features))
    distances = np.linalg.norm(plane[:, None] - plane, axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(groups[distances.argmin(axis=1)], groups)


def test_tsne_of_few_pictures():
    assert explain.tsne(np.eye(4)).shape == (4, 2), "the default perplexity would be refused"


class Backbone(nn.Module):
    """Maps of 4 × 2 places: red and green of visible pictures, blue and green of infrared ones."""

    def __init__(self):
        super().__init__()
        self.private = nn.ModuleDict()
        for modality, channel in (("visible", 0), ("infrared", 2)):
            conv = nn.Conv2d(3, 2, 1, bias=False)
            conv.weight.data.zero_()
            conv.weight.data[0, channel] = conv.weight.data[1, 1] = 1
            self.private[modality] = nn.Sequential(conv)
        self.shared = nn.Sequential(nn.AvgPool2d(4))

    def forward(self, images):
        (modality, pictures), *_ = images.items()
        return self.shared(self.private[modality](pictures))


class Known(nn.Module):
    """Its feature is the mean of each of the maps' channels, through a BatchNorm in evaluation."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.neck = nn.BatchNorm1d(2)
        self.neck.running_mean.fill_(0.3)
        self.neck.running_var.copy_(torch.tensor([0.5, 2.0]))

    def embed(self, images, modality):
        return self.neck(self.backbone({modality: images}).mean(dim=(2, 3)))


def squares() -> torch.Tensor:
    """A picture of 16 × 8 pixels: red above on the left, green below on the right, blue beside."""
    image = torch.zeros(1, 3, 16, 8)
    image[:, 0, :4, :4] = image[:, 1, 12:, 4:] = image[:, 2, 12:, :4] = 1
    return image


@pytest.mark.parametrize(
    ("modality", "reference", "place"),
    [
        ("visible", (1.0, 0.0), (0, 0)),
        ("visible", (0.0, 1.0), (3, 1)),
        ("infrared", (1.0, 0.0), (3, 0)),
        ("visible", (1.0, -1.0), (0, 0)),
    ],
)
def test_the_map_is_hot_where_the_likeness_lies(modality, reference, place):
    heat = explain.grad_cam(Known(), squares(), modality, torch.tensor([reference]))
    assert heat.grid == (4, 2) and heat.maps.shape == (1, 16, 8)
    expected = np.zeros((4, 2))
    expected[place] = 1
    centres = heat.maps[0].reshape(4, 4, 2, 4)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    np.testing.assert_allclose(centres, expected, atol=0.27)  # enlarged: a centre is not the peak
    assert np.unravel_index(centres.argmax(), (4, 2)) == place


def test_what_speaks_against_is_cut_off():
    heat = explain.grad_cam(Known(), squares(), "visible", torch.tensor([-1.0, 0.0]))
    np.testing.assert_array_equal(heat.maps, 0)


def test_every_picture_has_its_own_map_and_reference():
    both, either = torch.cat([squares(), squares().flip(2)]), torch.eye(2)
    together = explain.grad_cam(Known(), both, "visible", either).maps
    for picture, reference, found in zip(both, either, together, strict=True):
        alone = explain.grad_cam(Known(), picture[None], "visible", reference)
        np.testing.assert_allclose(found, alone.maps[0], atol=1e-6)
    assert not np.allclose(together[0], together[1])


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_stays_as_it_is(frozen):
    model = Known().train().requires_grad_(not frozen)
    if not frozen:
        model.neck.weight.grad = torch.ones(2)
    before = copy.deepcopy(model.state_dict())
    explain.grad_cam(model, squares(), "visible", torch.ones(2))  # one picture: BatchNorm at rest
    assert model.training and model.backbone.shared.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != frozen
        assert (parameter.grad is not None) == (name == "neck.weight" and not frozen), name
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_sees_more_than_the_pictures_is_refused():
    class Doubled(Known):
        def embed(self, images, modality):
            return super().embed(images.repeat(2, 1, 1, 1), modality)[:1]

    with pytest.raises(ValueError, match=r"found 2 maps of 1 pictures in AvgPool2d"):
        explain.grad_cam(Doubled(), squares(), "visible", torch.ones(2))


TOKENS, MAPS = ("before", (4, 2)), ("patches", None)


class Transformer(nn.Module):
    """A ViT of one block: patches of 4 × 4 pixels, a class token that attends to all evenly."""

    def __init__(self, *layers: tuple[str, tuple[int, int] | None]):
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.patches.weight.data = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16
        self.token = nn.Parameter(torch.full((1, 1, 3), 9.0))
        self.before, self.after, self.unused = nn.Softplus(), nn.Identity(), nn.Identity()
        self.layers = layers

    def embed(self, images, modality):
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1)
        tokens = self.before(tokens)
        even = torch.full((9, 9), 1 / 9)
        return self.after(tokens + even @ tokens)[:, 0]

    def cam_layers(self, modality):
        return [(getattr(self, name), grid) for name, grid in self.layers]


@pytest.mark.parametrize("layers", [[TOKENS], [TOKENS, MAPS]], ids=["tokens", "and maps"])
def test_a_transformer_names_its_layers(layers):
    for channel, place in ((0, (0, 0)), (1, (3, 1)), (2, (3, 0))):
        heat = explain.grad_cam(Transformer(*layers), squares(), "visible", torch.eye(3)[channel])
        assert heat.grid == (4, 2)
        centres = heat.maps[0].reshape(4, 4, 2, 4).mean(axis=(1, 3))
        assert np.unravel_index(centres.argmax(), (4, 2)) == place


def test_of_several_layers_the_maps_are_averaged():
    images = 20 * torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0)) - 10
    tokens, maps, both = (
        explain.grad_cam(Transformer(*layers), images, "visible", torch.tensor([1, 0.5, -1])).maps
        for layers in ([TOKENS], [MAPS], [TOKENS, MAPS])
    )
    assert np.abs(tokens - maps).max() > 0.05
    np.testing.assert_allclose(both, (tokens + maps) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "fault"),
    [("after", "no gradient reaches the places in Identity"), ("unused", "nothing, or")],
)
def test_a_layer_that_tells_nothing_is_refused(layer, fault):
    with pytest.raises(ValueError, match=rf"Grad-CAM of .*found {fault}.*cam_layers"):
        explain.grad_cam(Transformer((layer, (4, 2))), squares(), "visible", torch.ones(3))


@pytest.mark.parametrize("variant", ["one-stream", "two-stream"])
def test_person_maps_of_a_run(variant, monkeypatch):
    obtain("paperdolls-tiny")
    trained = fit(configure("baselines", variant, "smoke", dataset="paperdolls-tiny", seed=71))
    measure(trained)
    calls = []

    def spy(model, images, modality, references):
        calls.append((images, modality, references))
        return explain.Heat(np.full((len(images), 48, 24), len(calls)), (3, 2))

    images, features = evaluation_rows(trained), explain.unit_features(trained)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, rel=1e-5)
    people = explain.choose_people(images, 3)
    real = explain.person_maps(trained, people, seed=2)
    assert real.grid == (3, 2)
    for modality, maps in real.maps.items():
        assert maps.shape == (3, 48, 24) and maps.min() == 0
        assert maps.max() == pytest.approx(1, abs=1e-5)
        assert [p.shape for p in real.pictures[modality]] == [(192, 80, 3)] * 3
    monkeypatch.setattr(explain, "grad_cam", spy)
    explain.person_maps(trained, people, seed=2)
    rows = explain.choose_rows(images, people, 1, seed=2).reshape(3, 2).T
    for (shown, modality, references), own in zip(calls, rows, strict=True):
        pixels = trained.pixels.take(images.index[own].to_numpy())
        assert torch.equal(shown, normalise(pixels)), "the pictures that are drawn"
        assert set(images["modality"].iloc[own]) == {modality}
        for person, reference in zip(people, references.numpy(), strict=True):
            of_other = (images["identity"] == person) & (images["modality"] != modality)
            centre = features[of_other.to_numpy()].sum(axis=0)
            np.testing.assert_allclose(reference, centre / np.linalg.norm(centre), atol=1e-6)
    assert [modality for _, modality, _ in calls] == ["visible", "infrared"]


def test_the_seed_chooses_the_rows():
    assert len({tuple(explain.choose_rows(IMAGES, [3], 2, seed)) for seed in range(20)}) > 3


def test_tsne_starts_from_principal_components_with_few_neighbours(monkeypatch):
    asked, original = [], explain.TSNE
    monkeypatch.setattr(explain, "TSNE", lambda **kept: asked.append(kept) or original(**kept))
    explain.tsne(np.eye(7))
    assert asked == [{"perplexity": 2, "init": "pca", "random_state": 0}]
