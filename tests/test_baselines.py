"""The baselines: every variant learns, and each is what its name says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.data.batches import Batch
from reid_core.layers.two_stream import MODALITIES
from reid_core.losses.triplet import batch_hard_triplet, weighted_regularised_triplet
from reid_core.methods import build, configure
from reid_core.methods.baselines import VARIANTS, Model, ZeroPadding
from reid_core.train import make_optimizer

IDENTITIES = 4


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Four identities, each a pattern that its two pictures of both modalities share with noise."""
    torch.manual_seed(1)
    pattern = torch.randn(IDENTITIES, 1, 48, 24).repeat_interleave(2, 0)
    visible, infrared = (pattern + 0.3 * torch.randn(8, 3, 48, 24) for _ in MODALITIES)
    return Batch(visible, infrared, torch.arange(IDENTITIES).repeat_interleave(2))


def model_of(variant: str, **overrides) -> Model:
    """With a neck that has learned something: a new one hardly changes a feature."""
    torch.manual_seed(0)
    model = build(configure("baselines", variant, "smoke", overrides), IDENTITIES)
    for values in (model.neck.weight, model.neck.running_mean, model.neck.running_var):
        nn.init.uniform_(values, 0.5, 2)
    return model


@pytest.mark.parametrize("pooling", ["gap", "gem"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, pooling, batch):
    run = configure("baselines", variant, "smoke", {"pooling": pooling, "lr": 0.02})
    model = model_of(variant, pooling=pooling)
    optimizer = make_optimizer(run, model)
    totals = []
    for _ in range(8):
        terms = model.losses(batch, epoch=0)
        assert list(terms) == ["identity", "triplet"]
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None}
        assert frozen == {"neck.bias"}
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_embedding_of_one_modality_does_not_depend_on_the_other(variant, batch):
    model = model_of(variant).eval()
    with torch.inference_mode():
        expected = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        both = model.neck(model.features({m: getattr(batch, m) for m in MODALITIES}))
        one = model.embed(batch.visible[3:4], "visible")
    assert expected["visible"].shape == (8, 256)
    torch.testing.assert_close(both, torch.cat([expected[m] for m in MODALITIES]))
    torch.testing.assert_close(one, expected["visible"][3:4])


@pytest.mark.parametrize("variant", VARIANTS)
def test_classifier_sees_what_embed_returns(variant, batch):
    """In both modes of the network, and in the rows' order visible, infrared."""
    for mode in (True, False):
        model, seen = model_of(variant).train(mode), []
        model.classifier.register_forward_hook(lambda *call, seen=seen: seen.append(call[1][0]))
        with torch.no_grad():
            terms = model.losses(batch, epoch=0)
            logits = F.linear(seen[0], model.classifier.weight)
            if not mode:  # in training, the statistics are of both modalities together
                alone = [model.embed(getattr(batch, m), m) for m in MODALITIES]
                torch.testing.assert_close(seen[0], torch.cat(alone))
        identity = torch.cat([batch.identity, batch.identity])
        torch.testing.assert_close(terms["identity"], F.cross_entropy(logits, identity))


def test_triplet_sees_the_feature_before_the_neck(batch):
    for variant, loss in (
        ("two-stream", lambda f, y: batch_hard_triplet(f, y, 0.7)),
        ("two-stream-wrt", weighted_regularised_triplet),
    ):
        model = model_of(variant, margin=0.7)
        with torch.no_grad():
            f = model.features({"visible": batch.visible, "infrared": batch.infrared})
            expected = loss(f, batch.identity.repeat(2))
            torch.testing.assert_close(model.losses(batch, 0)["triplet"], expected)


def test_label_smoothing(batch):
    plain, smooth = (model_of("two-stream", label_smoothing=s).eval() for s in (0.0, 0.1))
    with torch.no_grad():
        for model in (plain, smooth):
            model.classifier.weight.normal_(generator=torch.Generator().manual_seed(2))
        losses = [m.losses(batch, 0)["identity"] for m in (plain, smooth)]
        f = plain.features({"visible": batch.visible, "infrared": batch.infrared})
        uniform = -plain.classifier(plain.neck(f)).log_softmax(1).mean()
    torch.testing.assert_close(losses[1], 0.9 * losses[0] + 0.1 * uniform)


def test_heads_are_float32_under_autocast(batch):
    model = model_of("two-stream")
    logits = []
    model.classifier.register_forward_hook(lambda *call: logits.append(call[2]))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert logits[0].dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_zero_padding_fills_its_own_channel():
    torch.manual_seed(0)
    images = {m: torch.randn(2, 3, 8, 4) for m in MODALITIES}
    padded = ZeroPadding()(images)
    for own, modality in enumerate(MODALITIES):
        expected = torch.zeros(2, 3, 8, 4)
        expected[:, own] = (
            images[modality][:, 0] + images[modality][:, 1] + images[modality][:, 2]
        ) / 3
        torch.testing.assert_close(padded[modality], expected)


def test_zero_padding_keeps_the_modalities_weights_apart(batch):
    """Visible images are blind to the first layer's weights on the infrared channel, and both to
    those on the third."""
    model = model_of("zero-padding").eval()
    first = model.backbone.shared[0][0].weight
    with torch.inference_mode():
        before = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        first[:, 2] = torch.randn_like(first[:, 2])
        third = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        first[:, 1] = torch.randn_like(first[:, 1])
        after = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
    for modality in MODALITIES:
        torch.testing.assert_close(third[modality], before[modality])
    torch.testing.assert_close(after["visible"], before["visible"])
    assert not torch.allclose(after["infrared"], before["infrared"])


def test_variants_share_what_they_say():
    stages = {variant: len(model_of(variant).backbone.private["visible"]) for variant in VARIANTS}
    assert stages == {"one-stream": 0, "zero-padding": 0, "two-stream": 1, "two-stream-wrt": 1}


def test_neck_keeps_features_centred():
    model = model_of("two-stream")
    assert not model.neck.bias.requires_grad and not model.neck.bias.any()
    assert model.classifier.bias is None
