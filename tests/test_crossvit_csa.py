"""CrossViT with attention: every variant learns, and its parts are put together as is said."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from reid_core.data.augment import denormalise, normalise
from reid_core.data.batches import Batch
from reid_core.layers.attention import ChannelAttention, DualAttention, SpatialAttention
from reid_core.layers.crossvit import to_map
from reid_core.layers.two_stream import MODALITIES, TwoStreamResNet
from reid_core.losses.center import CenterLoss
from reid_core.losses.triplet import (
    adaptive_weighted_triplet,
    batch_hard_triplet,
    soft_batch_hard_triplet,
)
from reid_core.methods import build, configure
from reid_core.methods.crossvit_csa import (
    GROUPS,
    VARIANTS,
    Model,
    PooledSpatialAttention,
    SummedSpatialAttention,
    companion,
)
from reid_core.retrieval.explain import grad_cam
from reid_core.tables import published
from reid_core.train import learning_rate, make_optimizer

IDENTITIES = 4
FULL = "ta-crossvit-csa-wt"
METRIC = {"center": ["center"], "none": []}


def model_of(variant: str = FULL, profile: str = "smoke", varied: bool = False, **changes) -> Model:
    """``varied``: with weights large enough that every one matters."""
    torch.manual_seed(0)
    model = build(configure("crossvit_csa", variant, profile, changes), IDENTITIES)
    if varied:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def terms_of(run) -> list[str]:
    fused = ["fused_identity"] * (run.model["csa"] and run.model["fusion"] == "pair")
    return ["identity", *fused, *METRIC.get(run.model["metric"], ["triplet"])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, batch):
    run = configure("crossvit_csa", variant, "smoke")
    rates = {"sgd": 0.02, "adam": 0.003, "adamw": 0.003}
    run = replace(run, lr=rates[run.optimizer])
    model = model_of(variant)
    optimizer = make_optimizer(run, model)
    totals = []
    for _ in range(25):
        terms = model.losses(batch, epoch=0)
        assert list(terms) == terms_of(run)
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None}
        assert frozen <= {"neck.bias", "fused_neck.bias"}
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_demo_profile(variant):
    model = model_of(variant, "demo")
    images = torch.randn(4, 3, 96, 48)
    terms = model.losses(Batch(images, images.flip(1), torch.tensor([0, 0, 1, 1])), 0)
    assert all(torch.isfinite(term) for term in terms.values())


def test_the_paper_profile_fits_its_pictures():
    model = model_of(FULL, "paper", weights="none").eval()
    with torch.inference_mode():
        assert model.embed(torch.zeros(1, 3, 288, 144), "infrared").shape == (1, 192 + 384)
    assert model.backbone[0].grids == [(24, 12), (18, 9)]


# ------------------------------------------------------------------------------ what a query uses


@pytest.mark.parametrize("variant", VARIANTS)
def test_embedding_of_one_modality_does_not_depend_on_the_other(variant, batch):
    model = model_of(variant).eval()
    with torch.inference_mode():
        scales = model.scales({m: getattr(batch, m) for m in MODALITIES})
        both = model.neck(model.feature(scales))
        alone = [model.embed(getattr(batch, m), m) for m in MODALITIES]
        one = model.embed(batch.infrared[2:3], "infrared")
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one, alone[1][2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("private", [False, True])
def test_training_gives_all_views_the_same_statistics(private, batch):
    """One CrossViT sees both modalities' images and companions as one batch, as it must in
    evaluation; two have their own."""
    model = model_of(private=private, gray="both").train()
    seen = []
    for vit in model.backbone:
        vit.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    model.scales({m: getattr(batch, m) for m in MODALITIES})
    pictures = {m: getattr(batch, m) for m in MODALITIES}
    each = [torch.cat([x, companion(x)]) for x in pictures.values()]
    expected = each if private else [torch.cat(each)]
    assert all(x.equal(y) for x, y in zip(seen, expected, strict=True))


@torch.no_grad()
def test_feature_of_a_query_by_hand(batch):
    """The class tokens of picture and companion averaged, and their maps, behind CSA, over space;
    the scales side by side."""
    model = model_of(varied=True).eval()
    pictures = batch.infrared
    own, gray = (model.backbone[0](x) for x in (pictures, companion(pictures)))
    parts = []
    for attention, x, y, grid in zip(model.attention, own, gray, [(6, 3), (4, 2)], strict=True):
        tokens = (x + y) / 2
        m = to_map(tokens, grid)
        m1 = attention.channel(m) * m  # Eq. 9
        m2 = attention.spatial(m1) * m1  # Eq. 11
        parts.append(tokens[:, 0] + m2.mean((2, 3)))
    expected = model.neck(torch.cat(parts, dim=1))
    torch.testing.assert_close(model.embed(pictures, "infrared"), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_companions_join_where_they_are_asked_for(batch):
    plain, both, visible = (
        model_of(varied=True, gray=g).eval() for g in ("none", "both", "visible")
    )
    for modality, same in (("visible", False), ("infrared", True)):
        x = getattr(batch, modality)
        assert torch.allclose(plain.embed(x, modality), visible.embed(x, modality)) == same
        assert not torch.allclose(plain.embed(x, modality), both.embed(x, modality))
    gray = companion(batch.visible)
    for model in (both, visible):  # a gray picture is its own companion
        torch.testing.assert_close(
            model.embed(gray, "visible"), plain.embed(gray, "visible"), rtol=1e-4, atol=1e-5
        )


def test_companion_is_the_pictures_brightness():
    pixels = torch.randint(256, (2, 4, 3, 3)).to(torch.uint8)
    found = denormalise(companion(normalise(pixels)))
    red, green, blue = pixels.double().unbind(-1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert (found == found[..., :1]).all()
    assert ((found[..., 0] - luma).abs() <= 0.5 + 1e-4).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(denormalise(companion(normalise(pixels))), found)


@torch.no_grad()
def test_a_crossvit_of_its_own_for_each_modality(batch):
    model = model_of(private=True, varied=True).eval()
    before = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
    for parameter in model.backbone[MODALITIES.index("visible")].parameters():
        parameter.mul_(-2)
    after = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
    assert torch.equal(before["infrared"], after["infrared"])
    assert not torch.allclose(before["visible"], after["visible"])
    assert len(model_of().backbone) == 1


# --------------------------------------------------------------------------------------------- CSA


@torch.no_grad()
def test_channel_attention_is_equation_10():
    torch.manual_seed(0)
    attention, maps = ChannelAttention(8, 2), torch.randn(2, 8, 4, 3)
    c1, _, c2 = attention.mlp
    average, largest = maps.mean((2, 3)), maps.flatten(2).max(2).values
    logits = sum(c2(c1(x).clamp(min=0)) for x in (average, largest))
    expected = 1 / (1 + (-logits).exp())
    found = attention(maps)
    torch.testing.assert_close(found, expected[:, :, None, None].expand_as(maps))


@torch.no_grad()
def test_summed_spatial_attention_by_hand():
    """Eq. 12 with a convolution that looks at one place: σ(w (average + maximum) + b)."""
    attention = SummedSpatialAttention(kernel_size=1)
    attention.conv.weight.fill_(2.0), attention.conv.bias.fill_(-1.0)
    maps = torch.tensor([1.0, 3.0, -1.0, -2.0]).view(1, 2, 1, 2)  # channels (1, 3) and (−1, −2)
    expected = torch.tensor([2 * (0 + 1) - 1, 2 * (0.5 + 3) - 1.0]).sigmoid()
    torch.testing.assert_close(attention(maps).flatten(), expected)


@torch.no_grad()
def test_prose_attention_knows_no_place():
    """Averages and maxima over all places side by side, and no place weighs more than another."""
    torch.manual_seed(0)
    attention, maps = PooledSpatialAttention(3), torch.randn(2, 3, 4, 2)
    found = attention(maps)
    assert found.shape == (2, 3, 1, 1)
    torch.testing.assert_close(attention(maps.flip(2, 3)), found)
    weight, bias = attention.conv.weight, attention.conv.bias
    logits = maps.mean((2, 3)) @ weight[:, :3].T + maps.amax((2, 3)) @ weight[:, 3:].T + bias
    torch.testing.assert_close(found[:, :, 0, 0], logits.sigmoid())


def test_which_attention_stands_where():
    kinds = {"equation": SummedSpatialAttention, "cbam": SpatialAttention}
    kinds["prose"] = PooledSpatialAttention
    for spatial, kind in kinds.items():
        attention = model_of(spatial=spatial).attention
        assert len(attention) == 2 and all(type(a.spatial) is kind for a in attention)
    assert type(model_of("crossvit").attention[0]) is nn.Identity
    (of_resnet,) = model_of("csa").attention
    assert type(of_resnet) is DualAttention


@torch.no_grad()
def test_fused_maps_against_a_loop(batch):
    model = model_of("pair", varied=True)
    scales = model.scales({m: getattr(batch, m) for m in MODALITIES})
    people = batch.identity
    for cls, maps in scales:
        for x, found in zip((cls, maps), model.fuse((cls, maps), people), strict=True):
            for row in range(8):
                others = [o for o in range(8) if people[o] == people[row]]
                infrared = sum(x[8 + o] for o in others) / len(others)
                visible = sum(x[o] for o in others) / len(others)
                torch.testing.assert_close(found[row], (x[row] + infrared) / 2)
                torch.testing.assert_close(found[8 + row], (x[8 + row] + visible) / 2)


@torch.no_grad()
@pytest.mark.parametrize("variant", [FULL, "printed-eq8"])
def test_heard_is_the_softmax_of_the_last_encoder(variant, batch):
    """Without the class token's own share; F's token on C's grid and C's on F's, if no patches are
    exchanged before."""
    model = model_of(variant, varied=True).eval()
    (vit,) = model.backbone
    z = vit.embed(batch.visible)
    inner = [blocks(tokens) for blocks, tokens in zip(vit.encoders[-1].vit, z, strict=True)]
    found = model.heard(batch.visible, "visible")
    for own, other, grid in ((0, 1, (4, 2)), (1, 0, (6, 3))):
        cross = vit.encoders[-1].cross[own]
        joined = [vit.encoders[-1].P[own](inner[own][:, :1]), inner[other][:, 1:]]
        normed = cross.ln(torch.cat(joined, dim=1))
        total = 0.0
        for q, k in zip(
            cross.Vq(normed[:, :1]).chunk(2, dim=-1), cross.Vk(normed).chunk(2, dim=-1), strict=True
        ):
            total = total + (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        torch.testing.assert_close(found[own], (total / 2)[:, 0, 1:].unflatten(1, grid))


def test_readout():
    """Class tokens alone; CSA could not reach them."""
    model = model_of("ta-crossvit", readout="class", varied=True).eval()
    images = torch.randn(2, 3, 48, 24)
    with torch.no_grad():
        tokens = model.tokens({"visible": images})
        expected = model.neck(torch.cat([z[:, 0] for z in tokens], dim=1))
        torch.testing.assert_close(model.embed(images, "visible"), expected)
    with pytest.raises(ValueError, match="readout: found 'class' with csa, expected 'both'"):
        model_of(readout="class")


# ------------------------------------------------------------------------------------------ losses


@torch.no_grad()
@pytest.mark.parametrize(
    "metric", ["adaptive_weighted", "batch_hard", "batch_hard_soft", "center", "none"]
)
def test_losses_by_hand(metric, batch):
    changes = {"metric": metric, "margin": 0.7, "label_smoothing": 0.2, "center_weight": 0.5}
    model = model_of("pair", varied=True, **changes).eval()
    scales = model.scales({m: getattr(batch, m) for m in MODALITIES})
    f, y = model.feature(scales), batch.identity.repeat(2)
    fused = model.feature([model.fuse(scale, batch.identity) for scale in scales])

    def smoothed(x: torch.Tensor) -> torch.Tensor:  # Eq. 13
        p = model.classifier(x).softmax(1)
        total = 0.0
        for row, own in zip(p, y, strict=True):
            for i in range(IDENTITIES):
                q = 1 - (IDENTITIES - 1) / IDENTITIES * 0.2 if i == own else 0.2 / IDENTITIES
                total -= q * row[i].log()
        return total / len(y)

    expected = {"identity": smoothed(model.neck(f))}
    expected["fused_identity"] = smoothed(model.fused_neck(fused))
    if metric == "adaptive_weighted":
        expected["triplet"] = adaptive_weighted_triplet(f, y, 0.7)
    elif metric == "batch_hard":
        expected["triplet"] = batch_hard_triplet(f, y, 0.7)
    elif metric == "batch_hard_soft":
        expected["triplet"] = soft_batch_hard_triplet(f, y)
    elif metric == "center":
        expected["center"] = 0.5 * 0.5 * f.square().sum(1).mean()  # centres start at zero
    torch.testing.assert_close(model.losses(batch, 0), expected, rtol=1e-4, atol=1e-5)
    alone = model_of(**changes).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    del expected["fused_identity"]
    torch.testing.assert_close(alone.losses(batch, 0), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("variant", [FULL, "pair", "hard-triplet", "no-hinge", "csa", "center"])
def test_trivial_values_are_those_of_features_that_carry_nothing(variant, batch):
    """All features are one point, and the classifier tells nobody apart."""
    model = model_of(variant, margin=0.7)
    nn.init.zeros_(model.classifier.weight)
    model.feature = lambda scales: torch.ones(16, model.classifier.in_features)
    terms = model.losses(batch, 0)
    assert model.trivial == {n: pytest.approx(terms[n].item()) for n in terms if n != "center"}
    assert model.trivial["identity"] == math.log(IDENTITIES)


@torch.no_grad()
@pytest.mark.parametrize("variant", [FULL, "pair", "center", "csa", "printed-eq8"])
def test_float64_stays(variant, batch):
    model = model_of(variant).double()
    fine = Batch(batch.visible.double(), batch.infrared.double(), batch.identity)
    terms = model.losses(fine, 0)
    feature = model.eval().embed(fine.visible, "visible")
    for x in (feature, *terms.values()):
        assert x.dtype == torch.float64 and x.isfinite().all()


@pytest.mark.parametrize("variant", ["pair", "center", "hard-triplet"])
def test_losses_do_not_know_the_rows_order(variant, batch):
    """Of whole rows, and of one modality's pictures of the same person."""
    model = model_of(variant).eval()
    order = torch.randperm(8)
    mixed = Batch(batch.visible[order], batch.infrared[order], batch.identity[order])
    swapped = Batch(batch.visible, batch.infrared[[1, 0, 3, 2, 5, 4, 7, 6]], batch.identity)
    with torch.no_grad():
        for other in (mixed, swapped):
            torch.testing.assert_close(model.losses(other, 0), model.losses(batch, 0))


def test_terms_are_float32_under_autocast(batch):
    model, logits = model_of("pair"), []
    model.classifier.register_forward_hook(lambda *call: logits.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert logits == [torch.float32] * 2
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_centres_follow_their_identity():
    """Two rows of identity 0 and one of 2: c ← c + rate · Σ (x − c) / (1 + n)."""
    loss = CenterLoss(3, 2, rate=0.5)
    x = torch.tensor([[2.0, 0.0], [4.0, 2.0], [0.0, 6.0]], requires_grad=True)
    y = torch.tensor([0, 0, 2])
    value = loss(x, y)
    assert value.item() == pytest.approx(0.5 * (4 + 20 + 36) / 3)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, x.detach() / 3)
    expected = torch.tensor([[0.5 * 6 / 3, 0.5 * 2 / 3], [0, 0], [0, 0.5 * 6 / 2]])
    torch.testing.assert_close(loss.centres, expected)
    assert not list(loss.parameters()) and "centres" in loss.state_dict()
    loss.eval()(x, y)
    torch.testing.assert_close(loss.centres, expected)
    exact = CenterLoss(3, 2, rate=0.5).double()
    assert exact(x.double(), y).dtype == exact.centres.dtype == torch.float64
    torch.testing.assert_close(exact.centres, expected.double())
    shuffled = CenterLoss(3, 2)
    shuffled(x[[2, 0, 1]], y[[2, 0, 1]])
    torch.testing.assert_close(shuffled.centres, expected)


# ------------------------------------------------------------------------- settings and pictures


@torch.no_grad()
def test_rows_without_crossvit_are_the_two_stream_baseline(batch):
    model = model_of("baseline", neck=True).eval()
    assert type(model.backbone) is TwoStreamResNet and model.config.gray == "none"
    torch.manual_seed(0)
    plain = build(configure("baselines", "two-stream", "smoke"), IDENTITIES).eval()
    for m in MODALITIES:
        x = getattr(batch, m)
        torch.testing.assert_close(model.embed(x, m), plain.embed(x, m))


def test_variants_are_the_papers_rows():
    """Table 3: TA, CrossViT, CSA, weighted triplet; Table 4's losses; and nothing else changes."""
    runs = {v: configure("crossvit_csa", v, "paper") for v in VARIANTS}
    ticks = {
        v: "".join(
            "x" if tick else "-"
            for tick in (
                run.trivial_augment,
                run.model["crossvit"],
                run.model["csa"],
                run.model["metric"] == "adaptive_weighted",
            )
        )
        for v, run in runs.items()
    }
    rows = published("crossvit_csa").query("table == 'T3'")["variant"].unique()
    assert [ticks[row.split("/")[1]] for row in rows] == [
        "----", "x---", "-x--", "--x-", "xx--", "xxx-", "xxxx"
    ]  # fmt: skip
    losses = published("crossvit_csa").query("table == 'T4'")["variant"].unique()
    assert [runs[v.split("/")[1]].model["metric"] for v in losses] == [
        "center", "batch_hard", "adaptive_weighted"
    ]  # fmt: skip
    full = runs[FULL]
    for v, run in runs.items():
        allowed = {"crossvit", "csa", "metric", "gray", "drop_path"}
        if run.model["crossvit"]:  # companions and stochastic depth leave with CrossViT alone
            allowed -= {"gray", "drop_path"}
        changed = {k for k, x in run.model.items() if x != full.model[k]}
        if v in [row.split("/")[1] for row in (*rows, *losses)]:
            assert changed <= allowed, v
            assert run.erase == 0.5


SETTINGS = ["optimizer", "lr", "backbone_lr", "momentum", "nesterov", "weight_decay", "warmup"]
SETTINGS += ["schedule", "milestones", "gamma", "clip", "steps"]


@pytest.mark.parametrize("profile", ["demo", "gpu", "paper"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resnet_trains_as_any_resnet_and_a_transformer_as_one(variant, profile):
    """Rows without CrossViT learn as baselines/two-stream does; those with it by AdamW."""
    dataset = "sysu" if profile == "paper" else "paperdolls-sysu"
    run = configure("crossvit_csa", variant, profile, dataset=dataset)
    resnet = configure("baselines", "two-stream", profile, dataset=dataset)
    assert (variant in GROUPS["with_crossvit"]) == run.model["crossvit"]
    if not run.model["crossvit"]:
        names = [name for name in SETTINGS if name != "steps" or profile != "gpu"]
        assert [getattr(run, n) for n in names] == [getattr(resnet, n) for n in names]
    elif variant not in ("printed-adam", "printed-sgd"):
        assert run.optimizer == "adamw" and run.lr < 0.002 and run.weight_decay == 1e-4


def test_recipe_of_the_paper():
    run = configure("crossvit_csa", FULL, "paper", dataset="sysu")
    assert (run.identities, run.images, run.epochs, run.erase) == (8, 4, 100, 0.5)
    assert [run.height, run.width] == [288, 144]
    assert run.trivial_augment and run.model["margin"] == 1.0 and run.model["neck"]
    found = (run.optimizer, run.lr, run.backbone_lr, run.weight_decay, run.warmup, run.schedule)
    assert found == ("adamw", 3e-4, 0.5, 1e-4, 3, "cosine"), "PMT's"
    assert run.model["drop_path"] == 0.1
    assert configure("crossvit_csa", "baseline", "paper").model["drop_path"] == 0.0


@pytest.mark.parametrize("variant, kind", [("printed-adam", "Adam"), ("printed-sgd", "SGD")])
@pytest.mark.parametrize("profile", ["paper", "demo"])
def test_what_the_paper_prints_can_be_run(variant, kind, profile):
    """§2.1: 16 images of each modality, a rate of 0.1, 0.01 from epoch 20 and 0.001 from 50."""
    run = configure("crossvit_csa", variant, profile)
    assert run.identities * run.images == 16 and not run.model["neck"]
    assert run.model["drop_path"] == run.warmup == 0
    optimizer = make_optimizer(run, model_of("baseline"))
    assert type(optimizer).__name__ == kind
    for g in optimizer.param_groups:
        momentum = g["betas"][0] if kind == "Adam" else g["momentum"]
        assert (g["lr"], g["factor"], momentum, g["weight_decay"]) == (0.1, 1.0, 0.9, 5e-4)
    if profile == "paper":
        rates = [learning_rate(run, epoch) for epoch in (0, 19, 20, 49, 50, 99)]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_position_embeddings_are_of_the_runs_pictures(profile):
    run = configure("crossvit_csa", FULL, profile)
    assert list(run.model["size"]) == [run.height, run.width]


@pytest.mark.parametrize("variant", ["baseline", "csa", "crossvit", FULL])
def test_grad_cam_of_both_backbones(variant, batch):
    model = model_of(variant, varied=variant != "baseline").eval()
    with torch.no_grad():
        references = model.embed(batch.visible[:2], "visible")
    heat = grad_cam(model, batch.infrared[:2], "infrared", references)
    assert heat.maps.shape == (2, 48, 24)
    assert heat.grid == ((6, 3) if model.config.crossvit else (3, 2))
    assert heat.maps.max() > 0
