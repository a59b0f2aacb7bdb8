"""Whether a training trains: loss terms beside their trivial values, and how far features differ.

A model's ``trivial`` has, for each loss term that has one, its value for features that carry
nothing: ``log K`` for a cross-entropy over K people, the margin for a triplet loss. A term that
ends there has taught nothing. A network whose features are all alike has collapsed.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.data.batches import Batch
from reid_core.layers.pooling import at_least_float32
from reid_core.precision import autocast

COLLAPSED = 0.02  # spread below which features count as alike
LEARNED = 0.98  # share of its trivial value below which a term counts as having learned
NO_TERMS = ("epoch", "lr", "total", "spread", "visits", "seconds", "rank1", "mAP")  # of a history


@torch.no_grad()
def spread(model: nn.Module, batch: Batch, precision: str) -> float:
    """Mean of 1 − cosine over all pairs of ``batch``'s images, both modalities together, of the
    retrieval features: 0 where all images have one feature, about 1 where they have nothing in
    common. Leaves the model in evaluation mode."""
    model.eval()
    with autocast(batch.identity.device, precision):
        parts = [model.embed(images, modality) for modality, images in batch.images.items()]
    unit = F.normalize(at_least_float32(torch.cat(parts)))
    n = len(unit)
    # the cosines of all ordered pairs, an image with itself among them, add up to |Σ unit|²
    return (1 - (unit.sum(0).square().sum() - n) / (n * (n - 1))).item()


def report(history: pd.DataFrame, trivial: Mapping[str, float]) -> dict[str, Any]:
    """What a run's record says of its training, by its ``history``: ``visits`` (batches in which a
    person was, on average), the last ``spread``, ``terms`` ({name: [mean, trivial value]}, each of
    the last epoch that has it) and ``ill``, the sentences of what is wrong, empty for a healthy
    run."""
    last = history.iloc[-1]
    if pd.isna(last["spread"]):  # others have trained it
        return {"terms": {}, "ill": []}
    known = [name for name in history if name in trivial and history[name].notna().any()]
    terms = {name: [float(history[name].dropna().iloc[-1]), trivial[name]] for name in known}
    ill = [
        f"{name} {value:.3g} is not below its trivial value {least:.3g}"
        for name, (value, least) in terms.items()
        if value > LEARNED * least
    ]
    if last["spread"] < COLLAPSED:
        ill.insert(0, f"collapsed: spread of features {last['spread']:.3g}")
    return {
        "visits": float(last["visits"]),
        "spread": float(last["spread"]),
        "terms": terms,
        "ill": ill,
    }
