"""Multi-granularity attention: what stands in each branch, where, and that every variant learns."""

from typing import get_args

import pytest
import torch
from torch import nn

from reid_core.data.batches import Batch
from reid_core.layers.attention import CBAM, MGSA, DualAttention, InBlocks, SpatialAttention
from reid_core.layers.two_stream import MODALITIES
from reid_core.losses.metric import Metric
from reid_core.methods import build, configure
from reid_core.methods.multi_granularity import SWEEPS, VARIANTS, Model
from reid_core.train import make_optimizer

IDENTITIES = 4


def model_of(variant: str, profile: str = "smoke", **overrides) -> Model:
    torch.manual_seed(0)
    return build(configure("multi_granularity", variant, profile, overrides), IDENTITIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_a_fixed_batch(variant, batch):
    run = configure("multi_granularity", variant, "smoke", {"lr": 0.002})
    model = model_of(variant)
    optimizer = make_optimizer(run, model)
    totals = []
    for _ in range(12):
        terms = model.losses(batch, epoch=0)
        assert list(terms) == ["identity", "triplet", "part_triplet"]
        total = sum(terms.values())
        optimizer.zero_grad()
        total.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.3 * totals[0]


def test_shared_weights_survive_a_checkpoint(batch, tmp_path):
    """The kernel that whole map and blocks share learns once a step, and is one after resuming."""
    run = configure("multi_granularity", "mgsa-msam", "smoke")

    def step(model: Model, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        sum(model.losses(batch, 0).values()).backward()
        optimizer.step()

    model, again = model_of("mgsa-msam"), build(run, IDENTITIES)
    optimizer, other = make_optimizer(run, model), make_optimizer(run, again)
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    step(model, optimizer)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    step(model, optimizer)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again.load_state_dict(state[0])
    other.load_state_dict(state[1])
    step(again, other)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    whole, block = again.backbone.attention["visible"].spatial.f
    assert block.conv.weight is whole.conv.weight


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_fits_the_demo_profile(variant):
    """Stage 2 has 12 rows there, stage 1 has 24."""
    model = model_of(variant, "demo")
    images = torch.randn(4, 3, 96, 48)
    terms = model.losses(Batch(images, images.flip(1), torch.tensor([0, 0, 1, 1])), 0)
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("variant", ["mgsa-msam", "i1-6", "i2-4", "after-stage-1"])
def test_divisions_fit_the_paper_profile(variant):
    """After stage 2 the map has 36 rows."""
    model = model_of(variant, "paper", weights="none", backbone="resnet18").eval()
    with torch.inference_mode():
        assert model.embed(torch.zeros(1, 3, 288, 144), "visible").shape == (1, 6 * 256)


@pytest.mark.parametrize("variant", VARIANTS)
def test_embedding_of_one_modality_does_not_depend_on_the_other(variant, batch):
    model = model_of(variant).eval()
    with torch.inference_mode():
        both = model.head(model.backbone({m: getattr(batch, m) for m in MODALITIES}))
        alone = [model.embed(getattr(batch, m), m) for m in MODALITIES]
        one = model.embed(batch.infrared[2:3], "infrared")
    torch.testing.assert_close(both, torch.cat(alone))
    torch.testing.assert_close(one, alone[1][2:3])


def test_infrared_branch_is_always_plain_cbam():
    for variant in VARIANTS:
        attention = model_of(variant).backbone.attention
        if variant == "baseline":
            assert not attention
        else:
            assert type(attention["infrared"]) is CBAM


def test_visible_branches_of_table_1():
    visible = {v: model_of(v).backbone.attention["visible"] for v in VARIANTS if v != "baseline"}
    mgsa, msam, both = visible["mgsa"], visible["msam"], visible["mgsa-msam"]
    assert type(mgsa) is DualAttention and type(mgsa.spatial) is MGSA and mgsa.spatial.blocks == 4
    assert type(msam) is InBlocks and msam.blocks == 2
    assert type(msam.each[0].spatial) is SpatialAttention
    assert type(both.channel) is InBlocks and both.channel.blocks == 2
    assert type(both.spatial) is MGSA and both.spatial.blocks == 4 and both.spatial.double_sigmoid
    assert not visible["single-sigmoid"].spatial.double_sigmoid
    assert len(visible["own-blocks"].spatial.f) == 5
    assert len(visible["own-blocks"].channel.each) == 2


def test_settings_of_every_variant():
    """Of the paper profile, written out: a changed default or variant shall not go unseen."""
    models = {
        v: configure("multi_granularity", v, "paper", dataset="regdb").model for v in VARIANTS
    }
    full = models["mgsa-msam"]
    assert full == {
        "backbone": "resnet50",
        "weights": "imagenet",
        "share_from": 2,
        "last_stride": 1,
        "parts": 6,
        "part_channels": 256,
        "pooling": "gem",
        "gem_p": 10.0,
        "metric": "hetero_center",
        "margin": 0.3,
        "part_metric": 2.0,
        "label_smoothing": 0.0,
        "part_neck": False,
        "attention": True,
        "i1": 4,
        "i2": 2,
        "attend_after": 2,
        "double_sigmoid": True,
        "both": "joined",
        "shared_blocks": True,
        "reduction": 16,
    }
    changed = {v: {k: x for k, x in m.items() if x != full[k]} for v, m in models.items()}
    assert changed == {
        "baseline": {"attention": False},
        "mgsa": {"i2": 1},
        "msam": {"i1": 1},
        "mgsa-msam": {},
        "cbam": {"i1": 1, "i2": 1},
        "i1-2": {"i1": 2, "i2": 1},
        "i1-3": {"i1": 3, "i2": 1},
        "i1-6": {"i1": 6, "i2": 1},
        "i2-3": {"i1": 1, "i2": 3},
        "i2-4": {"i1": 1, "i2": 4},
        "i2-6": {"i1": 1, "i2": 6},
        "single-sigmoid": {"double_sigmoid": False},
        "after-stage-1": {"attend_after": 1},
        "own-blocks": {"shared_blocks": False},
        "batch-hard": {"metric": "batch_hard"},
    }


@pytest.mark.parametrize("setting", SWEEPS)
def test_sweeps_move_one_setting(setting):
    """Figure 3, at values of ours: 1, 2, 3, 4, 6, the other setting at 1, the rest alike."""
    models = [configure("multi_granularity", v, "paper").model for v in SWEEPS[setting]]
    assert [m[setting] for m in models] == [1, 2, 3, 4, 6]
    others = [{k: v for k, v in m.items() if k != setting} for m in models]
    assert all(other == others[0] for other in others)
    assert others[0]["i2" if setting == "i1" else "i1"] == 1


@torch.no_grad()
def test_one_block_is_cbam_of_each_branch(batch):
    """§4.4: I1 = 1 is CBAM's spatial attention, I2 = 1 a CBAM with weights of its own."""
    attention = model_of("cbam").eval().backbone.attention
    plain = CBAM(32).eval()
    plain.load_state_dict(attention["visible"].state_dict())
    maps = torch.rand(2, 32, 12, 6)
    torch.testing.assert_close(attention["visible"](maps), plain(maps))
    assert not torch.allclose(attention["infrared"](maps), plain(maps))


@torch.no_grad()
def test_nested_takes_equation_1_in_each_block():
    model = model_of("mgsa-msam", both="nested", i1=3).eval()
    visible = model.backbone.attention["visible"]
    maps = torch.rand(2, 32, 12, 6)
    expected = torch.cat([visible.each[0](block) for block in maps.chunk(2, dim=2)], dim=2)
    torch.testing.assert_close(visible(maps), expected)
    assert type(visible.each[0].spatial) is MGSA


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_nested_needs_the_rows_of_stage_1(profile):
    settings = {"both": "nested", "weights": "none", "backbone": "resnet18"}
    run = configure("multi_granularity", "mgsa-msam", profile)
    images = torch.zeros(1, 3, run.height, run.width)
    with torch.inference_mode():
        model_of("mgsa-msam", profile, **settings, attend_after=1).eval().embed(images, "visible")
        with pytest.raises(ValueError, match=r"i1 .* which 4 blocks cannot share"):
            model_of("mgsa-msam", profile, **settings).eval().embed(images, "visible")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"i1": 5}, r"i1 \(blocks of MGSA\): the feature map has 12 rows, which 5 blocks"),
        ({"i2": 5}, r"i2 \(blocks of MSAM\): the feature map has 12 rows, which 5 blocks"),
        ({"both": "nested"}, r"i1 \(blocks of MGSA\): the feature map has 6 rows, which 4 blocks"),
    ],
)
def test_impossible_divisions_are_refused(settings, message, batch):
    with pytest.raises(ValueError, match=message):
        model_of("mgsa-msam", **settings).embed(batch.visible, "visible")


# In the shared part, as the paper has it: the batch is divided, and joined again.
PLACES = [{"attend_after": 1}, {"attend_after": 2, "i1": 3}]


@pytest.mark.parametrize("settings", PLACES)
def test_visible_attention_changes_nothing_of_infrared_pictures(settings, batch):
    model = model_of("mgsa-msam", **settings).eval()
    with torch.inference_mode():
        before = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
        for p in model.backbone.attention["visible"].parameters():
            p.mul_(-3)
        after = {m: model.embed(getattr(batch, m), m) for m in MODALITIES}
    assert torch.equal(before["infrared"], after["infrared"])
    assert not torch.allclose(before["visible"], after["visible"])


@torch.no_grad()
@pytest.mark.parametrize("settings", PLACES)
def test_kept_is_the_mean_attention_of_a_place(settings, batch):
    model = model_of("cbam", **settings).eval()
    shape = (8, 12, 6) if settings["attend_after"] == 1 else (8, 6, 3)
    for m in MODALITIES:
        found = model.kept(getattr(batch, m), m)
        maps = model.backbone.private[m](getattr(batch, m))
        if settings["attend_after"] == 2:
            (stage,) = model.backbone.shared
            maps = stage(maps)
        attention = model.backbone.attention[m]
        weights = attention.channel(maps)
        weights = weights * attention.spatial(weights * maps)
        expected = (weights * maps).sum(1) / maps.sum(1)
        assert found.shape == shape
        torch.testing.assert_close(found, expected)


def test_baseline_is_the_pcb_baseline(batch):
    """Same network, same weights from the same seed: only the recipe differs."""
    model = model_of("baseline").eval()
    torch.manual_seed(0)
    other = build(configure("baselines", "pcb", "smoke"), IDENTITIES).eval()
    with torch.inference_mode():
        assert torch.equal(
            model.embed(batch.visible, "visible"), other.embed(batch.visible, "visible")
        )
        assert {k: v.item() for k, v in model.losses(batch, 0).items()} == {
            k: v.item() for k, v in other.losses(batch, 0).items()
        }


def test_recipe_of_the_paper():
    run = configure("multi_granularity", "mgsa-msam", "paper", dataset="sysu")
    assert (run.epochs, run.lr, run.warmup, run.milestones) == (60, 0.1, 10, (20, 50))
    assert (run.identities, run.images, run.pad, run.flip) == (6, 8, 0, 0.5)
    assert (run.optimizer, run.momentum, run.weight_decay) == ("sgd", 0.9, 5e-4)
    other = configure("multi_granularity", "mgsa-msam", "paper", dataset="regdb")
    assert (other.identities, other.images) == (8, 4)
    assert (run.model["gem_p"], other.model["gem_p"]) == (3.0, 10.0)
    for method, variant in (("multi_granularity", "baseline"), ("baselines", "pcb")):
        parts = {
            kind: configure(method, variant, "paper", dataset=kind).model["part_metric"]
            for kind in ("sysu", "regdb")
        }
        assert parts == {"sysu": 1.0, "regdb": 2.0}


@pytest.mark.parametrize("part_neck", [True, False])
@pytest.mark.parametrize("metric", get_args(Metric))
def test_trivial_values_are_those_of_features_that_carry_nothing(metric, part_neck, batch):
    model = model_of("mgsa-msam", metric=metric, part_neck=part_neck).double()
    for reduce in model.head.reduce.parameters():
        nn.init.zeros_(reduce)
    terms = model.losses(in_float64(batch), 0)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(model.trivial, rel=1e-4)


def in_float64(batch: Batch) -> Batch:
    return Batch(batch.visible.double(), batch.infrared.double(), batch.identity)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_stays_float64(variant, batch):
    model, batch = model_of(variant).double(), in_float64(batch)
    embedded = model.embed(batch.visible, "visible")
    for values in (embedded, *model.losses(batch, 0).values()):
        assert values.dtype == torch.float64 and values.isfinite().all()


def test_terms_are_float32_under_autocast(batch):
    model = model_of("mgsa-msam")
    logits = []
    for judge in model.head.modules():
        if isinstance(judge, nn.Linear):
            judge.register_forward_hook(lambda *call: logits.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch, 0)
    assert set(logits) == {torch.float32}
    assert all(term.dtype == torch.float32 for term in terms.values())
