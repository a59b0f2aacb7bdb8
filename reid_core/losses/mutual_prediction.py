"""Identity losses with one classifier for both modalities or one for each (mutual_prediction)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn


def identity_loss(
    features: Mapping[str, torch.Tensor],
    classifiers: Mapping[str, nn.Linear],
    identity: torch.Tensor,
) -> torch.Tensor:
    """Each modality's features through its own classifier (Eq. 11, ``L_ID^{v-t}``); with the shared
    ``W_id`` for both it is Eq. 1 and Eq. 9:
    ``−(1/n_b) Σ_i q_i log softmax(W_v f_v,i) + q_i log softmax(W_t f_t,i)``.

    n_b counts the images of one modality, so this is the sum of both modalities' mean
    cross-entropies.

    Parameters
    ----------
    features : {modality: (n_b, D)}
    classifiers : {modality: Linear(D, K)}
    identity : (n_b,) int64, of the rows of both modalities
    """
    return sum(F.cross_entropy(classifiers[m](f), identity) for m, f in features.items())


def fixed_identity_loss(
    features: Mapping[str, torch.Tensor],
    classifiers: Mapping[str, nn.Linear],
    identity: torch.Tensor,
) -> torch.Tensor:
    """`identity_loss` by classifiers whose weights are fixed: the gradient reaches the features
    alone, never the classifiers. Parameters as there."""
    loss = 0.0
    for modality, f in features.items():
        w = classifiers[modality]
        bias = None if w.bias is None else w.bias.detach()
        loss = loss + F.cross_entropy(F.linear(f, w.weight.detach(), bias), identity)
    return loss


def mutual_prediction_loss(
    features: Mapping[str, torch.Tensor],
    classifiers: Mapping[str, nn.Linear],
    identity: torch.Tensor,
) -> torch.Tensor:
    """Each modality's features through the *other* modality's classifier, whose weights are fixed
    (Eq. 12, ``L_ID^{t-v}``):
    ``−(1/n_b) Σ_i q_i log softmax(W_t f_v,i) + q_i log softmax(W_v f_t,i)``.

    Parameters as in `identity_loss`.
    """
    first, second = features
    exchanged = {first: classifiers[second], second: classifiers[first]}
    return fixed_identity_loss(features, exchanged, identity)
