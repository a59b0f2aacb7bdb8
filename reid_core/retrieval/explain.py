"""What a measured run tells apart, and where it looks: the numbers behind Figures 7 and 8 of mrda
and Figure 3 of crossvit_csa, for any run. ``comparisons`` draws them.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pytorch_grad_cam import GradCAM
from sklearn.manifold import TSNE
from torch import nn

from reid_core.data.augment import normalise
from reid_core.data.images import decode
from reid_core.layers.two_stream import MODALITIES
from reid_core.retrieval.features import evaluation_rows, kept_features
from reid_core.retrieval.lists import HEIGHT, WIDTH
from reid_core.retrieval.metrics import unit_rows
from reid_core.train import Trained

Grid = tuple[int, int]  # rows and columns


def unit_features(trained: Trained) -> np.ndarray:
    """A measured run's features (N, D), each of length one because retrieval compares by cosine,
    in the order of ``evaluation_rows``."""
    return unit_rows(kept_features(trained))


def choose_people(images: pd.DataFrame, people: int, seed: int = 0) -> list[int]:
    """``people`` identities that both modalities show, or all there are; the same ``seed`` chooses
    the same ones for every run on a dataset."""
    both = images.groupby("identity")["modality"].nunique() == len(MODALITIES)
    known = both.index[both].to_numpy()
    chosen = np.random.default_rng(seed).choice(known, min(people, len(known)), replace=False)
    return sorted(chosen.tolist())


def choose_rows(
    images: pd.DataFrame, people: list[int], pictures: int, seed: int = 0
) -> np.ndarray:
    """Rows of up to ``pictures`` pictures of each of ``people`` in each modality, as positions in
    ``images``, ordered by identity, visible ones before infrared ones."""
    random = np.random.default_rng(seed)
    rows = []
    for identity in people:
        for modality in MODALITIES:
            of_both = (images["identity"] == identity) & (images["modality"] == modality)
            own = np.flatnonzero(of_both)
            rows.append(np.sort(random.permutation(own)[:pictures]))
    return np.concatenate(rows)


def tsne(features: np.ndarray, perplexity: float = 20.0) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, JMLR 2008) of unit features (n, D) to (n, 2), started from
    their principal components: nothing in it is left to chance.

    ``perplexity``, about the number of neighbours that count, is lowered to a third of the other
    pictures where there are few.
    """
    perplexity = min(perplexity, (len(features) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return model.fit_transform(features.astype(np.float32))


def class_distances(
    features: np.ndarray, identities: np.ndarray, modalities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine distances 1 − cos, 0 to 2, of every visible and infrared picture: first those of the
    same identity (intra-class), then those of two (inter-class).

    Pairs within a modality are left out: nobody searches for them, and they are nearer than the
    rest.

    Parameters
    ----------
    features : (N, D), of length one
    identities : (N,) integers
    modalities : (N,) of "visible" and "infrared"
    """
    visible, infrared = (np.flatnonzero(modalities == m) for m in MODALITIES)
    distances = 1 - features[visible] @ features[infrared].T
    same = identities[visible][:, None] == identities[infrared]
    return distances[same], distances[~same]


class Heat(NamedTuple):
    """Grad-CAM of some pictures."""

    maps: np.ndarray  # (n, H, W) of the network's input, 0 to 1 within every picture
    grid: Grid  # of the feature map that they were enlarged from, of several the finest


def grad_cam(
    model: nn.Module, images: torch.Tensor, modality: str, references: torch.Tensor
) -> Heat:
    """Where ``images`` are like their references (Grad-CAM, Selvaraju et al., ICCV 2017).

    The target is the feature's product with its reference, retrieval's cosine but for the
    feature's own length, which is held fixed: with it, a picture that is its own reference would
    have no gradient.

    The maps are those of the backbone's last stage. A model may name others in
    ``cam_layers(modality)``, a list of (module, grid): the module's output is ``(B, C, h, w)``
    with grid None, or tokens ``(B, n, C)``, of which the last rows · columns are the places of
    ``grid`` = (rows, columns) and those before them class tokens. Of several layers the maps are
    averaged. A transformer's layer must lie before the last attention: what comes after it tells
    the class token nothing of the places.

    ``model`` stays as it is: a copy of it is explained, in evaluation mode and float32.

    Parameters
    ----------
    images : (n, 3, H, W), normalised
    modality : "visible" or "infrared"
    references : (n, D) or (D,)
        Features to be like: of the query, or of the centre of the person's own pictures.

    Raises
    ------
    ValueError
        A layer gives no map of every picture, or the feature does not depend on it.
    """
    view = _OneModality(copy.deepcopy(model).requires_grad_(False), modality)
    place = next(view.parameters()).device
    targets = [r.dot for r in references.to(place, torch.float32).expand(len(images), -1)]
    heats = [_of_layer(view, *layer, images, targets) for layer in _layers(view.model, modality)]
    maps = np.mean([heat.maps for heat in heats], axis=0)
    return Heat(maps, max(heat.grid for heat in heats))


class _OneModality(nn.Module):
    """What grad-cam can explain: one tensor in, one out."""

    def __init__(self, model: nn.Module, modality: str):
        super().__init__()
        self.model, self.modality = model, modality

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.embed(images, self.modality)


def _layers(model: nn.Module, modality: str) -> list[tuple[nn.Module, Grid | None]]:
    if hasattr(model, "cam_layers"):
        return model.cam_layers(modality)
    backbone = model.backbone
    return [([*backbone.private[modality], *backbone.shared][-1], None)]


def _of_layer(
    view: _OneModality,
    layer: nn.Module,
    grid: Grid | None,
    images: torch.Tensor,
    targets: list[Callable],
) -> Heat:
    def to_maps(tokens: torch.Tensor) -> torch.Tensor:
        rows, columns = grid
        return tokens[:, -rows * columns :].mT.unflatten(2, grid)

    cam = GradCAM(view, [layer], to_maps if grid else None)
    seen = cam.activations_and_grads
    try:  # no weight asks for a gradient, so the pictures must
        maps = cam(images.detach().requires_grad_(), targets)
        fault = "" if seen.gradients[0].any() else "no gradient reaches the places"
    except AttributeError:  # where grad-cam expects arrays it has None
        fault = "nothing, or what the feature does not depend on"
    if not fault and len(maps) != len(images):
        fault = f"{len(maps)} maps of {len(images)} pictures"
    if fault:
        raise ValueError(
            f"Grad-CAM of {type(view.model).__module__}: found {fault} in {type(layer).__name__}, "
            "expected a map of every picture on which its feature depends. Name another layer in "
            "the model's cam_layers."
        )
    return Heat(maps, tuple(seen.activations[0].shape[2:]))


class Seen(NamedTuple):
    """Some people under both modalities, and where a run looks; every list follows the people."""

    pictures: dict[str, list[np.ndarray]]  # of each modality: (H, W, 3) uint8
    maps: dict[str, np.ndarray]  # of each modality: (n, h, w), 0 to 1 within every picture
    grid: Grid  # of the feature map


def person_maps(trained: Trained, people: list[int], seed: int = 0) -> Seen:
    """Grad-CAM of a measured run for a picture of each of ``people`` in each modality: where it is
    like the centre of the same person's pictures in the other one. The same ``seed`` chooses the
    same pictures for every run on a dataset."""
    images, features = evaluation_rows(trained), unit_features(trained)
    rows = choose_rows(images, people, pictures=1, seed=seed).reshape(-1, 2)
    identities, modalities = (images[c].to_numpy() for c in ("identity", "modality"))
    pictures, maps = {}, {}
    for modality, own in zip(MODALITIES, rows.T, strict=True):
        other = features[modalities != modality], identities[modalities != modality]
        centres = [other[0][other[1] == person].mean(axis=0) for person in people]
        pixels = trained.pixels.take(images.index[own].to_numpy()).to(trained.device)
        references = torch.from_numpy(unit_rows(np.stack(centres)))
        maps[modality], grid = grad_cam(trained.model, normalise(pixels), modality, references)
        paths = images["path"].iloc[own]
        pictures[modality] = [decode(trained.root / path, HEIGHT, WIDTH) for path in paths]
    return Seen(pictures, maps, grid)
