"""The baselines: every variant learns, and each is what its name says."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.data.batches import Batch
from reid_core.layers.attention import NonLocal
from reid_core.layers.two_stream import MODALITIES
from reid_core.losses.hetero_center import hetero_center_triplet
from reid_core.losses.triplet import batch_hard_triplet, weighted_regularised_triplet
from reid_core.methods import build, configure
from reid_core.methods.baselines import VARIANTS, Model, ZeroPadding
from reid_core.train import make_optimizer

IDENTITIES = 4


GLOBAL = [variant for variant in VARIANTS if variant != "pcb"]


def model_of(variant: str, **overrides) -> Model:
    """With norms in the head that have learned something: new ones hardly change a feature."""
    torch.manual_seed(0)
    model = build(configure("baselines", variant, "smoke", overrides), IDENTITIES)
    for norm in model.head.modules():
        if isinstance(norm, nn.BatchNorm1d):
            for values in (norm.weight, norm.running_mean, norm.running_var):
                nn.init.uniform_(values, 0.5, 2)
    return model


def maps_of(model: Model, batch: Batch) -> torch.Tensor:
    return model.backbone({m: getattr(batch, m) for m in MODALITIES})


@pytest.mark.parametrize("pooling", ["gap", "gem"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, pooling, batch):
    run = configure("baselines", variant, "smoke", {"pooling": pooling, "lr": 0.02})
    model = model_of(variant, pooling=pooling)
    optimizer = make_optimizer(run, model)
    totals = []
    for _ in range(8):
        terms = model.losses(batch, epoch=0)
        assert list(terms) == ["identity", "triplet"] + ["part_triplet"] * (variant == "pcb")
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None}
        parts = {f"head.necks.{n}.bias" for n in range(3)}
        assert frozen == (parts if variant == "pcb" else {"head.neck.bias"})
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_embedding_of_one_modality_does_not_depend_on_the_other(variant, batch):
    model = model_of(variant).eval()
    with torch.inference_mode():
        expected = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        both = model.head(model.backbone(model.inputs({m: getattr(batch, m) for m in MODALITIES})))
        one = model.embed(batch.visible[3:4], "visible")
    assert expected["visible"].shape == (8, 3 * 256 if variant == "pcb" else 256)
    torch.testing.assert_close(both, torch.cat([expected[m] for m in MODALITIES]))
    torch.testing.assert_close(one, expected["visible"][3:4])


@pytest.mark.parametrize("variant", GLOBAL)
def test_classifier_sees_what_embed_returns(variant, batch):
    """In both modes of the network, and in the rows' order visible, infrared."""
    for mode in (True, False):
        model, seen = model_of(variant).train(mode), []
        model.head.classifier.register_forward_hook(
            lambda *call, seen=seen: seen.append(call[1][0])
        )
        with torch.no_grad():
            terms = model.losses(batch, epoch=0)
            logits = F.linear(seen[0], model.head.classifier.weight)
            if not mode:  # in training, the statistics are of both modalities together
                alone = [model.embed(getattr(batch, m), m) for m in MODALITIES]
                torch.testing.assert_close(seen[0], torch.cat(alone))
        identity = torch.cat([batch.identity, batch.identity])
        torch.testing.assert_close(terms["identity"], F.cross_entropy(logits, identity))


def test_triplet_sees_the_feature_before_the_neck(batch):
    for metric, loss in (
        ("batch_hard", lambda f, y: batch_hard_triplet(f, y, 0.7)),
        ("weighted_regularised", weighted_regularised_triplet),
        ("hetero_center", lambda f, y: hetero_center_triplet(f[:8], f[8:], y[:8], 0.7)),
    ):
        model = model_of("one-stream", metric=metric, margin=0.7)
        with torch.no_grad():
            f = model.head.pool(maps_of(model, batch))
            expected = loss(f, batch.identity.repeat(2))
            torch.testing.assert_close(model.losses(batch, 0)["triplet"], expected)


def test_label_smoothing(batch):
    plain, smooth = (model_of("two-stream", label_smoothing=s).eval() for s in (0.0, 0.1))
    with torch.no_grad():
        for model in (plain, smooth):
            model.head.classifier.weight.normal_(generator=torch.Generator().manual_seed(2))
        losses = [m.losses(batch, 0)["identity"] for m in (plain, smooth)]
        f = plain.head.pool(maps_of(plain, batch))
        uniform = -plain.head.classifier(plain.head.neck(f)).log_softmax(1).mean()
    torch.testing.assert_close(losses[1], 0.9 * losses[0] + 0.1 * uniform)


@pytest.mark.parametrize("variant", ["two-stream", "pcb"])
def test_heads_are_float32_under_autocast(variant, batch):
    model = model_of(variant)
    logits = []
    for judge in model.head.modules():
        if isinstance(judge, nn.Linear):
            judge.register_forward_hook(lambda *call: logits.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert set(logits) == {torch.float32}
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
    assert stages.pop("pcb") == 2
    assert stages.pop("one-stream") == stages.pop("zero-padding") == 0
    assert set(stages.values()) == {1}


def test_neck_keeps_features_centred():
    model = model_of("two-stream")
    assert not model.head.neck.bias.requires_grad and not model.head.neck.bias.any()
    assert model.head.classifier.bias is None


# ------------------------------------------------------------------------------------------- AGW


@pytest.mark.parametrize(("width", "inner"), [("half", 32), ("one", 1)])
def test_agw_has_non_local_blocks_in_stages_2_and_3(width, inner):
    model = model_of("agw", non_local=width)
    blocks = [m for m in model.backbone.modules() if isinstance(m, NonLocal)]
    assert [b.W.out_channels for b in blocks] == [64, 128]  # one in each: resnet10 has no more
    assert blocks[0].theta.out_channels == inner
    assert model.backbone.shared[1][-1][-1] is blocks[0]
    assert not any(isinstance(m, NonLocal) for m in model_of("two-stream").modules())


def test_agw_on_resnet50_is_the_published_one():
    """Two blocks at the end of layer2's four and three at the end of layer3's six."""
    model = build(configure("baselines", "agw", "paper", {"weights": "none"}), IDENTITIES)
    places = [
        (stage, block)
        for stage, blocks in enumerate(model.backbone.shared, 1)
        for block, module in enumerate(blocks)
        if any(isinstance(m, NonLocal) for m in module.modules())
    ]
    assert places == [(2, 2), (2, 3), (3, 3), (3, 4), (3, 5)]
    config = configure("baselines", "agw", "paper").model
    assert (config["pooling"], config["metric"]) == ("gem", "weighted_regularised")
    assert config["non_local"] == "half"
    assert model.backbone.shared[1][-1][-1].theta.out_channels == 512 // 2


# ------------------------------------------------------------------------------------------- PCB


@pytest.mark.parametrize("part_neck", [False, True])
def test_parts_against_loops(part_neck, batch):
    """GeM over each stripe, its own linear map, normalisation and ReLU; then the three losses. With
    a neck the triplets see the linear map, classifiers and retrieval its normalisation."""
    settings = {"part_metric": 0.5, "margin": 0.7, "label_smoothing": 0.1}
    model = model_of("pcb", part_neck=part_neck, **settings).eval()
    head = model.head
    with torch.no_grad():
        for judge in head.classifiers:
            nn.init.normal_(judge.weight)  # new ones are undecided, smoothed or not
        maps = maps_of(model, batch)
        terms = model.losses(batch, epoch=0)
        parts, judged = [], []
        for n in range(3):  # rows of the smoke profile's map
            pooled = maps[:, :, n].clamp(min=1e-6).pow(3).mean(-1).pow(1 / 3)
            conv, norm = (head.reduce[n], head.necks[n]) if part_neck else head.reduce[n][:2]
            x = pooled @ conv.weight.T
            normed = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
            normed = normed * norm.weight + norm.bias
            judged.append(normed if part_neck else normed.clamp(min=0))
            parts.append(x if part_neck else judged[-1])
        y = torch.cat([batch.identity, batch.identity])
        whole = torch.cat(parts, dim=1)
        expected = {"identity": 0.0, "triplet": 0.0, "part_triplet": 0.0}
        for part, seen, judge in zip(parts, judged, head.classifiers, strict=True):
            logits = seen @ judge.weight.T + judge.bias
            expected["identity"] += F.cross_entropy(logits, y, label_smoothing=0.1)
            of_part = hetero_center_triplet(part[:8], part[8:], batch.identity, 0.7)
            expected["part_triplet"] += 0.5 * of_part
        expected["triplet"] = hetero_center_triplet(whole[:8], whole[8:], batch.identity, 0.7)
        torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
        found = model.embed(batch.infrared, "infrared")
        torch.testing.assert_close(found, torch.cat(judged, dim=1)[8:], rtol=1e-4, atol=1e-5)


def test_a_neck_keeps_what_the_triplets_shrink(batch):
    """The reason for ``part_neck``: features a thousand times smaller are judged alike."""
    model = model_of("pcb", part_neck=True).train()
    with torch.no_grad():
        before = model.losses(batch, 0)["identity"]
        for conv in model.head.reduce:
            conv.weight.mul_(1e-3)
        for norm in model.head.necks:
            norm.eps *= 1e-6
        torch.testing.assert_close(model.losses(batch, 0)["identity"], before, rtol=1e-3, atol=0)


def test_losses_of_parts_do_not_know_the_rows_order(batch):
    model = model_of("pcb").eval()
    order = torch.randperm(8)
    mixed = Batch(batch.visible[order], batch.infrared[order], batch.identity[order])
    with torch.no_grad():
        torch.testing.assert_close(model.losses(mixed, 0), model.losses(batch, 0))


def test_pcb_of_the_paper_profile():
    """Six parts of a map of 18 rows, 256 channels each; stages 0 and 1 private."""
    run = configure("baselines", "pcb", "paper", {"weights": "none", "backbone": "resnet18"})
    model = build(run, IDENTITIES).eval()
    with torch.inference_mode():
        assert model.embed(torch.zeros(1, 3, 288, 144), "visible").shape == (1, 6 * 256)


def test_impossible_parts_are_refused(batch):
    with pytest.raises(ValueError, match="parts: the feature map has 3 rows, which 2 parts cannot"):
        model_of("pcb", parts=2).embed(batch.visible, "visible")


def test_metric_margin_and_pooling_of_every_variant():
    kinds = {
        "one-stream": "batch_hard",
        "zero-padding": "batch_hard",
        "two-stream": "batch_hard",
        "two-stream-wrt": "weighted_regularised",
        "agw": "weighted_regularised",
        "pcb": "hetero_center",
    }
    for variant, metric in kinds.items():
        model = configure("baselines", variant, "paper").model
        assert (model["metric"], model["margin"], model["label_smoothing"]) == (metric, 0.3, 0.0)
        assert model["pooling"] == ("gem" if variant in ("agw", "pcb") else "gap")
    assert configure("mutual_prediction", "fgfl-cmimpl", "paper").model["margin"] == 0.3
