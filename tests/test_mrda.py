"""MRDA: every variant learns, and its parts are put together as the paper's equations say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_core.config import ConfigError
from reid_core.data.augment import denormalise, normalise
from reid_core.data.batches import Batch
from reid_core.layers.attention import CBAM
from reid_core.layers.dynamic_attention import DynamicAttention
from reid_core.layers.mask import human_mask
from reid_core.layers.part_attention import BAM, IWPAM
from reid_core.layers.pooling import GeM
from reid_core.layers.two_stream import MODALITIES
from reid_core.losses.consistency import correlation_consistency
from reid_core.losses.hetero_center import hetero_center_triplet
from reid_core.losses.region_center import region_center_loss
from reid_core.methods import build, configure
from reid_core.methods.mrda import REGIONS, VARIANTS, Model, random_crop, reconstruct
from reid_core.tables import published
from reid_core.train import make_optimizer

IDENTITIES = 4
PAPER = {  # the paper's settings, and what is done where it prints none
    "backbone": "resnet50",
    "weights": "imagenet",
    "last_stride": 1,
    "share_from": 2,
    "crop_pad": 10,
    "mask": True,
    "mask_bound": "clamp",
    "region_stage": 1,
    "region_feature": "pooled",
    "region_between": "images",
    "region_across": "original",
    "region_reduction": "sum",
    "region_scale": "none",
    "region_push": False,
    "region_margin": 3.0,
    "attention": "dam",
    "regions": 6,
    "top_k": 2,
    "selection": "regions",
    "scaled": False,
    "gem_p": 3.0,
    "neck": True,
    "label_smoothing": 0.1,
    "margin": 0.3,
    "negatives": "both",
    "center_reduction": "mean",
    "gram": "row",
    "consistency_between": "images",
}


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Four identities, each a pattern that its two images of both modalities share with noise."""
    torch.manual_seed(1)
    pattern = torch.randint(40, 216, (IDENTITIES, 48, 24, 1)).repeat_interleave(2, 0)
    noise = torch.randint(-20, 20, (2, 8, 48, 24, 3))
    visible, infrared = (normalise((pattern + own).to(torch.uint8)) for own in noise)
    return Batch(visible, infrared, torch.arange(IDENTITIES).repeat_interleave(2))


def model_of(variant: str = "mrm-dam", **overrides) -> Model:
    torch.manual_seed(0)
    return build(configure("mrda", variant, "smoke", overrides), IDENTITIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, batch):
    """And every parameter but the neck's bias gets a gradient that is more than rounding."""
    run = configure("mrda", variant, "smoke", {"lr": 0.01, "crop_pad": 0})
    model = model_of(variant, crop_pad=0)
    optimizer = make_optimizer(run, model)
    expected = ["identity", "hetero_center", "consistency"]
    if run.model["mask"]:
        expected.append("region_center")
    totals = []
    for _ in range(12):
        terms = model.losses(batch, epoch=0)
        assert list(terms) == expected
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None or p.grad.norm() < 1e-6}
        assert frozen == ({"neck.bias"} if run.model["neck"] else set())
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.85 * totals[0]


def test_variants_are_the_papers_rows():
    """What of the paper's settings each of them changes, and the module it then has."""
    changed = {
        "baseline": {"mask": False, "attention": "none"},
        "mrm": {"attention": "none"},
        "dam": {"mask": False},
        "mrm-dam": {},
        "bam": {"attention": "bam"},
        "cbam": {"attention": "cbam"},
        "iwpam": {"attention": "iwpam"},
        "stage-0": {"region_stage": 0},
        "stage-2": {"region_stage": 2},
        "stage-3": {"region_stage": 3},
        "stage-4": {"region_stage": 4},
        "mask-scale": {"mask_bound": "scale"},
        "human-across": {"region_across": "human"},
        "background-push": {"region_push": True},
        "rows-top-k": {"selection": "rows"},
        "scaled-dam": {"scaled": True},
        "without-neck": {"neck": False},
    }
    models = {variant: configure("mrda", variant, "paper").model for variant in VARIANTS}
    found = {v: dict(model.items() - PAPER.items()) for v, model in models.items()}
    assert found == changed
    kinds = {"dam": DynamicAttention, "bam": BAM, "cbam": CBAM, "iwpam": IWPAM, "none": type(None)}
    for name, kind in kinds.items():
        assert type(model_of(attention=name).attention) is kind


def test_human_and_background_regions_are_made_of_pixels(batch):
    """Eq. 2–4 on pixels; together both regions are the image again."""
    pixels = denormalise(batch.visible).permute(0, 3, 1, 2).double()
    for bound in ("clamp", "scale", "none"):
        regions = reconstruct(batch.visible, bound)
        assert list(regions) == list(REGIONS)
        assert regions["original"] is batch.visible
        mask = human_mask(pixels, bound)
        for region, m in (("human", mask), ("background", 1 - mask)):
            expected = normalise((m * pixels).permute(0, 2, 3, 1))
            torch.testing.assert_close(regions[region], expected, atol=1e-5, rtol=1e-5)
        black = normalise(torch.zeros(1, 48, 24, 3))
        whole = regions["human"] + regions["background"] - black
        torch.testing.assert_close(whole, batch.visible, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share_from", range(6))
def test_stages_are_those_of_the_backbone(share_from, batch):
    """The first ones own, the others shared, and nothing of the backbone left out."""
    model = model_of(share_from=share_from).eval()
    images = {m: getattr(batch, m) for m in MODALITIES}
    with torch.no_grad():
        maps = model.stages(images)
        torch.testing.assert_close(maps[-1], model.backbone(images))
        alone = []
        for m, x in images.items():
            own = model.backbone.private[m]
            assert len(own) == share_from
            path = [*own, *model.backbone.shared]
            alone.append([x := stage(x) for stage in path])
    for found, visible, infrared in zip(maps, *alone, strict=True):
        torch.testing.assert_close(found, torch.cat([visible, infrared]))
    assert [tuple(m.shape) for m in maps] == [
        (16, 32, 12, 6), (16, 32, 12, 6), (16, 64, 6, 3), (16, 128, 3, 2), (16, 256, 3, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("stage", range(5))
@pytest.mark.parametrize("push", [False, True])
def test_images_pass_every_stage_together(push, stage, batch):
    """In training mode, where a batch has statistics: each stage is called once, for each modality
    where it is its own, with originals and human regions; backgrounds up to the region stage."""
    model, calls = model_of(region_push=push, region_stage=stage).train(), []
    own, shared = model.backbone.private, model.backbone.shared
    for number, module in enumerate([*own["visible"], *shared]):
        module.register_forward_pre_hook(lambda _, x, n=number: calls.append((n, len(x[0]))))
    for number, module in enumerate(own["infrared"]):
        module.register_forward_pre_hook(lambda _, x, n=number: calls.append((n, len(x[0]))))
    terms = model.losses(batch, 0)
    assert all(torch.isfinite(term) for term in terms.values())
    regions = [3 if push and number <= stage else 2 for number in range(5)]
    expected = [(n, 8 * regions[n]) for n in (0, 0, 1, 1)]
    expected += [(n, 2 * 8 * regions[n]) for n in (2, 3, 4)]
    assert sorted(calls) == expected


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("term", ["region_center", "consistency"])
def test_terms_teach_from_every_image_and_every_human_region(term, push, batch):
    """In evaluation mode, where no gradient takes the way through batch statistics; with a margin
    that no background is beyond."""
    model, inputs = model_of(region_push=push, region_margin=50.0).eval(), {}

    def watch(modality):
        def hook(_, x):
            inputs[modality] = x[0].detach().requires_grad_()
            return inputs[modality]

        return hook

    for m in MODALITIES:
        model.backbone.private[m][0].register_forward_pre_hook(watch(m))
    model.losses(batch, 0)[term].backward()
    for m in MODALITIES:
        moved = inputs[m].grad.flatten(1).norm(dim=1).unflatten(0, (-1, 8))
        assert len(moved) == (3 if push else 2)
        assert (moved[:2] > 0).all(), m
        if push:  # a background serves the region-centre loss alone
            assert (moved[2] > 0).all() == moved[2].any() == (term == "region_center")


@pytest.mark.parametrize("variant", ["mrm-dam", "bam", "cbam", "iwpam"])
def test_attention_teaches_the_backbone_beside_gem(variant):
    model = model_of(variant).eval()
    maps = torch.rand(2, 256, 3, 2, requires_grad=True)
    parts = (model.gem(maps), model.avg(model.attention(maps)), model.enhance(maps))
    gem, attention, both = (torch.autograd.grad(x.sum(), maps)[0] for x in parts)
    assert gem.abs().sum() > 0 and attention.abs().sum() > 0
    torch.testing.assert_close(both, gem + attention)


@pytest.mark.parametrize("variant", ["baseline", "mrm-dam", "bam", "cbam", "iwpam"])
def test_embedding_is_of_the_original_alone_and_of_one_modality(variant, batch):
    """Eq. 16: GeM of the map plus the attention's mean; no other image has a part in it."""
    model = model_of(variant, neck=False, gem_p=5.0).eval()
    with torch.inference_mode():
        both = model.enhance(model.backbone({m: getattr(batch, m) for m in MODALITIES}))
        apart = torch.cat([model.embed(getattr(batch, m), m) for m in MODALITIES])
        maps = model.backbone({"visible": batch.visible})
        expected = GeM(5.0)(maps)
        if variant != "baseline":
            expected = expected + model.attention(maps).mean((2, 3))
        torch.testing.assert_close(both, apart)
        torch.testing.assert_close(model.embed(batch.visible, "visible"), expected)
        one = model.embed(batch.visible[3:4], "visible")
        torch.testing.assert_close(one, expected[3:4])


def test_neck_stands_before_classifier_and_retrieval_only(batch):
    model, seen = model_of(neck=True).eval(), []
    nn.init.uniform_(model.neck.weight, 0.5, 2)
    model.classifier.register_forward_hook(lambda *call: seen.append(call[1][0]))
    with torch.no_grad():
        model.losses(batch, 0)
        embedded = [model.embed(getattr(batch, m), m) for m in MODALITIES]
    originals = seen[0].unflatten(0, (2, 2, 8))[:, 0]
    torch.testing.assert_close(originals, torch.stack(embedded))
    assert not model.neck.bias.requires_grad and not model.neck.bias.any()
    assert model.classifier.bias is None and model.classifier.weight.std() < 0.0011


def parts_of(model: Model, batch: Batch) -> tuple[dict, dict]:
    """F̄ and the pooled stage maps of each modality and region, each region sent alone."""
    enhanced, pooled = {}, {}
    for m in MODALITIES:
        for region, x in reconstruct(getattr(batch, m), model.config.mask_bound).items():
            maps = model.stages({m: x})
            enhanced[m, region] = model.enhance(maps[-1])
            pooled[m, region] = maps[model.config.region_stage].mean((2, 3))
    return enhanced, pooled


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("stage", range(5))
def test_losses_are_those_of_the_equations(stage, push, batch):
    """In evaluation mode an image's features do not depend on its batch, so each region may pass
    alone: originals and human regions count as images, the background only where it pushes."""
    read = {"region_stage": stage, "region_push": push, "region_margin": 5.0, "margin": 7.0}
    model = model_of(**read, neck=False).eval()
    y = batch.identity
    with torch.no_grad():
        terms = model.losses(batch, 0)
        f, pooled = parts_of(model, batch)
        v, r = (torch.cat([f[m, region] for region in REGIONS[:2]]) for m in MODALITIES)
        logits = model.classifier(torch.cat([v, r]))
        identity = F.cross_entropy(logits, y.repeat(4), label_smoothing=0.1)
        expected = {
            "identity": identity,
            "hetero_center": hetero_center_triplet(v, r, y.repeat(2), 7.0),
            "consistency": correlation_consistency(v, r, y.repeat(2)),
            "region_center": region_center_loss(
                *({k: pooled[m, k] for k in REGIONS} for m in MODALITIES),
                y,
                margin=5.0 if push else None,
            ),
        }
    assert terms.keys() == expected.keys()
    assert all(value > 0 for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)


def test_other_readings_of_eq_7(batch):
    with torch.no_grad():
        model = model_of().eval()
        maps = {
            m: {
                k: model.stages({m: x})[1].flatten(1)
                for k, x in reconstruct(getattr(batch, m)).items()
            }
            for m in MODALITIES
        }
        chosen = {"between": "identities", "across": "human", "reduction": "mean"}
        chosen["scale"] = "spread"
        read = {f"region_{name}": value for name, value in chosen.items()}
        model = model_of(region_feature="map", **read).eval()
        found = model.losses(batch, 0)["region_center"]
    torch.testing.assert_close(found, region_center_loss(*maps.values(), batch.identity, **chosen))


def test_settings_reach_their_parts(batch):
    read = {"selection": "rows", "top_k": 1, "scaled": True, "gram": "matrix"}
    read |= {"consistency_between": "identities", "mask_bound": "scale"}
    read |= {"negatives": "cross", "margin": 9.0, "center_reduction": "sum"}
    model = model_of(**read, neck=False).eval()
    dam = model.attention
    assert (dam.selection, dam.regions, dam.top_k, dam.factor) == ("rows", 3, 1, 1 / 16)
    with torch.no_grad():
        found = model.losses(batch, 0)
        f, _ = parts_of(model, batch)
        v, r = (torch.cat([f[m, region] for region in REGIONS[:2]]) for m in MODALITIES)
    people = batch.identity.repeat(2)
    expected = correlation_consistency(v, r, people, "matrix", "identities")
    torch.testing.assert_close(found["consistency"], expected)
    expected = hetero_center_triplet(v, r, people, 9.0, "cross", "sum")
    torch.testing.assert_close(found["hetero_center"], expected)
    assert expected != hetero_center_triplet(v, r, people, 9.0, "both", "sum")


def test_label_smoothing_is_eq_18(batch):
    """q is 1 − ξ (N − 1) / N on the own class and ξ / N on the others."""
    model = model_of(label_smoothing=0.2, mask=False, neck=False).eval()
    with torch.no_grad():
        f = torch.cat([model.embed(getattr(batch, m), m) for m in MODALITIES])
        logits, total = model.classifier(f), 0.0
        for row, own in zip(logits.log_softmax(1), batch.identity.repeat(2), strict=True):
            for y in range(IDENTITIES):
                q = 1 - 0.2 * 3 / 4 if y == own else 0.2 / 4
                total -= q * row[y].item()
        found = model.losses(batch, 0)["identity"].item()
    assert found == pytest.approx(total / 16, rel=1e-5)


@pytest.mark.parametrize("variant", ["mrm-dam", "cbam", "background-push"])
def test_order_of_rows_does_not_matter(variant, batch):
    """That of all rows never does. That of one identity's images in one modality matters to Eq. 7
    and 21 as printed, and not between identities."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    within = torch.tensor([1, 0, 3, 2, 4, 5, 7, 6])
    moved = Batch(batch.visible[order], batch.infrared[order], batch.identity[order])
    swapped = Batch(batch.visible, batch.infrared[within], batch.identity)
    paired = {"region_center", "consistency"}
    for between in ("images", "identities"):
        read = {"region_between": between, "consistency_between": between, "crop_pad": 0}
        model = model_of(variant, **read)  # in training mode, where a batch has statistics
        with torch.no_grad():
            expected, *found = (model.losses(b, 0) for b in (batch, moved, swapped))
        for other in found:
            for name, value in expected.items():
                same = torch.allclose(other[name], value, rtol=1e-4, atol=1e-4)
                chance = other is found[1] and between == "images" and name in paired
                assert same != chance, (between, name)


def cropped(x: torch.Tensor, pad: int, top: int, left: int) -> torch.Tensor:
    """Pixels (3, H, W), padded with zeros and cut, place by place."""
    _, height, width = x.shape
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            y, column = i + top - pad, j + left - pad
            if 0 <= y < height and 0 <= column < width:
                out[:, i, j] = x[:, y, column]
    return out


def pixels_of(images: torch.Tensor) -> torch.Tensor:
    return denormalise(images).permute(0, 3, 1, 2)


def test_random_crop_cuts_an_image_and_its_regions_alike_and_reaches_every_place():
    """Two pixels of padding, 5 × 5 places. Black is black in pixels; no pixel of the image is, so
    a cut image tells its place."""
    torch.manual_seed(0)
    pixels = torch.randint(1, 256, (4, 6, 5, 3), dtype=torch.uint8)
    regions = {"original": normalise(pixels), "human": normalise(255 - pixels)}
    places = {(y, x) for y in range(5) for x in range(5)}
    seen = [set() for _ in pixels]
    for _ in range(200):
        found = {region: pixels_of(x) for region, x in random_crop(regions, 2).items()}
        for i, image in enumerate(pixels.permute(0, 3, 1, 2)):
            (place,) = (
                p for p in places if torch.equal(cropped(image, 2, *p), found["original"][i])
            )
            seen[i].add(place)
            assert torch.equal(found["human"][i], cropped(255 - image, 2, *place))
    assert all(of_image == places for of_image in seen)


@pytest.mark.parametrize("push", [False, True])
def test_masks_are_those_of_the_whole_image_and_crops_are_for_training(push, batch):
    """With white in one corner and black in another the crop takes the range of Eq. 1 away from
    many images; the mask is cut out of the whole one's all the same."""
    visible = batch.visible.clone()
    white, zero = normalise(
        torch.tensor([255, 0], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 1, 1, 3)
    )
    visible[:, :, :1, :1], visible[:, :, -1:, -1:] = white, zero
    marked = Batch(visible, batch.infrared, batch.identity)
    model = model_of(region_push=push, crop_pad=4)
    torch.manual_seed(5)
    found = model.train().images(marked)
    torch.manual_seed(5)
    for m, x in marked.images.items():
        used = REGIONS if push else REGIONS[:2]
        whole = {region: reconstruct(x)[region] for region in used}
        expected = random_crop(whole, 4)
        assert found[m].keys() == expected.keys() == set(used)
        for region in used:
            assert torch.equal(found[m][region], expected[region])
            assert not torch.equal(found[m][region], whole[region])
        # a mask of the cut image, padded with black, is another one
        assert not torch.allclose(reconstruct(expected["original"])["human"], expected["human"])
    for same in (model.eval(), model_of(region_push=push, crop_pad=0).train()):
        for m, x in marked.images.items():
            assert same.images(marked)[m]["original"] is x
            torch.testing.assert_close(same.images(marked)[m]["human"], reconstruct(x)["human"])


def test_the_baseline_is_cropped_too(batch):
    model = model_of("baseline", crop_pad=4).train()
    found = model.images(batch)["visible"]
    assert list(found) == ["original"] and not torch.equal(found["original"], batch.visible)
    assert model.eval().images(batch)["visible"]["original"] is batch.visible


@pytest.mark.parametrize("variant", VARIANTS)
def test_trivial_values_are_those_of_features_that_carry_nothing(variant, batch):
    """A classifier without weights, behind features that are all one point: gray images."""
    model = model_of(variant, margin=0.7).eval()
    nn.init.zeros_(model.classifier.weight)
    gray = normalise(torch.full((8, 48, 24, 3), 90, dtype=torch.uint8))
    alike = model.backbone.private  # both modalities' own stages as one
    alike["infrared"].load_state_dict(alike["visible"].state_dict())
    features = model.embed(gray, "visible")
    model.enhance = lambda maps: features[:1].expand(len(maps), -1)
    terms = model.losses(Batch(gray, gray, batch.identity), 0)
    assert model.trivial == {"identity": pytest.approx(math.log(IDENTITIES)), "hetero_center": 0.7}
    for name, value in model.trivial.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5)
    assert "hetero_center" not in model_of(variant, center_reduction="sum").trivial


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_runs_in_float64(variant, batch):
    """As far as its images allow, it computes what float32 computes, and nothing is cast away."""
    images = (x.double() for x in (batch.visible, batch.infrared))
    exact = Batch(*images, batch.identity)
    model = model_of(variant).eval()
    with torch.no_grad():
        rounded = model.losses(batch, 0)
        features = model.double().embed(exact.visible, "visible")
        terms = model.losses(exact, 0)
    assert features.dtype == torch.float64 and torch.isfinite(features).all()
    for name, term in terms.items():
        assert term.dtype == torch.float64
        torch.testing.assert_close(term.float(), rounded[name], rtol=1e-3, atol=1e-4)
    model.train()
    assert all(term.dtype == torch.float64 for term in model.losses(exact, 0).values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_float32_under_autocast(variant, batch):
    model, logits = model_of(variant), []
    model.classifier.register_forward_hook(lambda *call: logits.append(call[2]))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert logits[0].dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in terms.values())


@pytest.mark.parametrize("variant", ["mrm-dam", "bam", "cbam", "iwpam"])
def test_attentions_run_in_float32_under_autocast(variant):
    model, maps = model_of(variant).eval(), torch.rand(2, 256, 3, 2).bfloat16()
    with torch.no_grad():
        expected = model.gem(maps.float()) + model.avg(model.attention(maps.float()))
        with torch.autocast("cpu", torch.bfloat16):
            found = model.enhance(maps)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_is_refused(batch):
    with pytest.raises(ValueError, match="regions: the feature map has 3 rows, which 2 regions"):
        model_of(regions=2).losses(batch, 0)
    with pytest.raises(ValueError, match="top_k: found 4, expected at most regions = 3"):
        model_of(top_k=4)
    with pytest.raises(ConfigError, match="region_stage"):
        configure("mrda", "mrm-dam", "smoke", {"region_stage": 5})


def test_recipe_is_the_papers():
    """§3.2: 3 people × 6 pictures × 2 modalities, SGD with momentum 0.9, warm-up, steps at 20 and
    50; and what is not printed there."""
    run = configure("mrda", "mrm-dam", "paper")
    assert (run.identities, run.images, run.optimizer, run.momentum) == (3, 6, "sgd", 0.9)
    assert (run.lr, run.warmup, run.milestones, run.gamma) == (0.1, 10, (20, 50), 0.1)
    assert (run.backbone_lr, run.nesterov, run.weight_decay, run.epochs) == (0.1, True, 5e-4, 80)
    assert (run.height, run.width, run.flip, run.precision) == (288, 144, 0.5, "bf16")
    assert (run.erase, run.grayscale, run.trivial_augment, run.pad) == (0, 0, False, 0)
    assert run.model == PAPER


@pytest.mark.parametrize(("profile", "pad"), [("paper", 10), ("demo", 4), ("smoke", 2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_run_crops_behind_the_mask(variant, profile, pad):
    """A black border would set the minimum of Eq. 1 in training alone; and a person is visited as
    often as in a run of any other method."""
    run = configure("mrda", variant, profile)
    assert (run.pad, run.model["crop_pad"]) == (0, pad)
    other = configure("baselines", "two-stream", profile)
    if profile == "demo":
        assert (run.steps, run.identities, run.images) == (
            other.steps,
            other.identities,
            other.images,
        )


def test_printed_tables_add_up():
    """Columns re-added by hand from the paper, and every row there."""
    printed = published("mrda")
    for table, metric, total in (
        ("T1", "mAP", 63.89 + 62.17 + 60.95 + 61.29),
        ("T2", "rank1", 63.21 + 68.39 + 68.47 + 70.55),
        ("T3", "rank1", 526.73),
        ("T4", "mAP", 551.37),
        ("T5", "rank1", 674.11),
        ("T5", "rank20", 559.80),
    ):
        column = printed.query("table == @table and metric == @metric")["value"]
        assert column.sum() == pytest.approx(total), (table, metric)
    assert printed["table"].value_counts().to_dict() == {
        "T1": 4 * 2, "T2": 4 * 2, "T3": 11 * 4, "T4": 9 * 4, "T5": 11 * 4
    }  # fmt: skip
    ours = printed.loc[printed["variant"].str.startswith("mrda/"), "variant"]
    assert {v.removeprefix("mrda/") for v in ours} <= set(VARIANTS)


def test_the_wrong_rows_of_table_5_are_marked():
    """They are other rows of the literature: HCML's on RegDB (its mAP with two digits changed) and
    Hi-CMD's own on SYSU-MM01, as mutual_prediction's and this paper's other tables print them."""
    t5 = published("mrda").query("table == 'T5'")
    marked = t5[t5["reference"].str.contains("wrong")]
    rows = {m: group.set_index("metric")["value"] for m, group in marked.groupby("method")}
    assert set(rows) == {"cmGAN", "Hi-CMD"}
    hcml = published("mutual_prediction").query(
        "method == 'HCML' and mode == 'visible-to-infrared'"
    )
    hcml = hcml.set_index("metric")["value"]
    ranks = ["rank1", "rank10", "rank20"]
    assert rows["cmGAN"][ranks].tolist() == hcml[ranks].tolist()
    assert (rows["cmGAN"]["mAP"], hcml["mAP"]) == (20.08, 20.80)
    t3 = (
        published("mrda").query("table == 'T3' and method == 'Hi-CMD'").set_index("metric")["value"]
    )
    assert rows["Hi-CMD"].dropna().to_dict() == t3.dropna().to_dict()
