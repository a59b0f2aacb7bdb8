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

    n_b counts the pictures of one modality, so this is the sum of both modalities' mean
    cross-entropies.

    Parameters
    ----------
    features : {modality: (n_b, D) float32}
    classifiers : {modality: Linear(D, K)}
    identity : (n_b,) int64, of the rows of both modalities
    """
    return sum(F.cross_entropy(classifiers[m](f), identity) for m, f in features.items())


def mutual_prediction_loss(
    features: Mapping[str, torch.Tensor],
    classifiers: Mapping[str, nn.Linear],
    identity: torch.Tensor,
) -> torch.Tensor:
    """Each modality's features through the *other* modality's classifier, whose weights are fixed
    (Eq. 12, ``L_ID^{t-v}``):
    ``−(1/n_b) Σ_i q_i log softmax(W_t f_v,i) + q_i log softmax(W_v f_t,i)``.

    The gradient reaches the features alone, never the classifiers. Parameters as in
    `identity_loss`.
    """
    first, second = features
    loss = 0.0
    for modality, other in ((first, second), (second, first)):
        w = classifiers[other]
        logits = F.linear(features[modality], w.weight.detach(), w.bias.detach())
        loss = loss + F.cross_entropy(logits, identity)
    return loss
