"""Settings are read strictly, stored as JSON, and laid over each other in one order."""

import json
from dataclasses import asdict, fields
from typing import get_args

import pytest
import yaml

from reid_core import config
from reid_core.config import ConfigError, Dataset, RunConfig, read_profile, strictly
from reid_core.data.datasets import NAMES
from reid_core.methods import METHODS, build, configure, named
from reid_core.methods.baselines import Config
from reid_core.paths import PROFILES, data_folder

PROFILE_NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))
EVERY = [(method, variant) for method, module in METHODS.items() for variant in module.VARIANTS]
NEEDED = {"method": "baselines", "variant": "two-stream"}


def refused(match: str, **values) -> None:
    with pytest.raises(ConfigError, match=match):
        strictly(RunConfig, NEEDED | values, "here")


def test_defaults_are_the_recipe_of_the_fields_baselines():
    run = configure("baselines", "two-stream", "paper")
    assert (run.height, run.width, run.pad, run.flip) == (288, 144, 10, 0.5)
    assert (run.identities, run.images, run.optimizer, run.nesterov) == (8, 4, "sgd", True)
    assert (run.lr, run.backbone_lr, run.momentum, run.weight_decay) == (0.1, 0.1, 0.9, 5e-4)
    assert (run.warmup, run.milestones, run.gamma) == (10, (20, 50), 0.1)
    assert run.model["backbone"] == "resnet50" and run.model["last_stride"] == 1


def test_recipe_of_mutual_prediction_is_the_printed_one():
    """§4.2: 288×144, crop and flip, 32 pictures, SGD, lr 0.1 and its schedule, 80 epochs."""
    run = configure("mutual_prediction", "fgfl-cmimpl", "paper")
    assert (run.height, run.width, run.flip, run.erase, run.grayscale) == (288, 144, 0.5, 0, 0)
    assert (run.identities * run.images, run.optimizer, run.weight_decay) == (32, "sgd", 5e-4)
    assert (run.lr, run.epochs, run.warmup, run.milestones) == (0.1, 80, 10, (20, 50))
    assert (run.gamma, run.trivial_augment) == (0.1, False)
    printed = {"stripes": 6, "stripe_channels": 256, "metric": "batch_hard", "margin": 0.3}
    assert {k: run.model[k] for k in printed} == printed


def test_unknown_key_is_refused_with_the_choices():
    refused(r"^here: unknown setting 'learning_rate'\. Choices: method, .*\blr\b", learning_rate=1)


@pytest.mark.parametrize(
    "key, value",
    [
        ("height", 8.5),
        ("height", "288"),
        ("height", True),
        ("height", 0),
        ("flip", 1.5),
        ("lr", -0.1),
        ("lr", True),
        ("lr", None),
        ("seed", -1),
        ("seed", 2**31),
        ("trial", 11),
        ("identities", 1),
        ("optimizer", "rmsprop"),
        ("dataset", "market"),
        ("nesterov", 1),
        ("milestones", 20),
        ("milestones", [20, "50"]),
        ("model", []),
    ],
)
def test_wrong_type_or_range_is_refused_by_name(key, value):
    refused(rf"^here: {key}(\.\d)? is ", **{key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, PROFILES])
def test_what_json_cannot_store_is_refused_by_name(value):
    refused(r"^here: lr is .*JSON", lr=value)


def test_nesterov_needs_momentum():
    with pytest.raises(ConfigError, match="momentum is 0, but nesterov needs some"):
        configure("baselines", "two-stream", overrides={"momentum": 0})
    assert not configure("baselines", "agw", overrides={"momentum": 0, "nesterov": False}).momentum


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_needs_a_momentum_below_1(optimizer):
    with pytest.raises(ConfigError, match=f"momentum is 1, but {optimizer} needs less"):
        configure("baselines", "two-stream", overrides={"optimizer": optimizer, "momentum": 1.0})


def test_yaml_reads_1e3_as_text_and_the_error_says_so():
    assert yaml.safe_load("lr: 1.0e-3") == {"lr": 0.001}
    refused(r"lr is '1e-3'.*write 1\.0e-3", **yaml.safe_load("lr: 1e-3"))
    with pytest.raises(ConfigError, match="lr is 'fast'") as error:
        strictly(RunConfig, NEEDED | {"lr": "fast"}, "here")
    assert "YAML" not in str(error.value)


def test_every_problem_is_named_at_once():
    refused("height is 0.*flip is 2", height=0, flip=2)


def test_only_regdb_has_trials():
    refused("trial is 3, but sysu has one split", dataset="sysu", trial=3)
    run = strictly(RunConfig, NEEDED | {"dataset": "paperdolls-regdb", "trial": 3}, "here")
    assert run.folder_name() == "demo/paperdolls-regdb/baselines/two-stream/seed0-trial3"
    assert strictly(RunConfig, NEEDED, "here").folder_name().endswith("/two-stream/seed0")


def test_a_list_stands_for_a_tuple_and_a_whole_number_for_a_float():
    run = strictly(RunConfig, NEEDED | {"milestones": [2, 3.5], "lr": 1}, "here")
    assert run.milestones == (2.0, 3.5) and run.lr == 1.0


@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_every_variant_can_be_configured_and_read_back_from_json(profile):
    for method, variant in EVERY:
        run = configure(method, variant, profile)
        stored = json.loads(json.dumps(run.to_dict()))
        assert strictly(RunConfig, stored, "params.json") == run
        model = strictly(METHODS[method].Config, stored["model"], "params.json")
        assert json.loads(json.dumps(asdict(model))) == run.model, "a list stands for a tuple"


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_of_a_method_has_the_name_of_a_setting_of_the_run(method):
    own = {f.name for f in fields(METHODS[method].Config)}
    assert not own & {f.name for f in fields(RunConfig)}


def test_recipe_profile_variant_overrides_from_weak_to_strong(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text("profile: mine\noverrides: {lr: 2.0, pad: 2, flip: 0.2}\n")
    monkeypatch.setattr(config, "PROFILES", tmp_path)
    module = METHODS["baselines"]
    monkeypatch.setattr(module, "RECIPE", {"lr": 1.0, "pad": 1, "flip": 0.1, "erase": 0.1})
    monkeypatch.setitem(module.VARIANTS, "two-stream", {"pad": 3, "flip": 0.3, "margin": 0.7})
    run = configure("baselines", "two-stream", "mine", {"flip": 0.4})
    assert (run.erase, run.lr, run.pad, run.flip) == (0.1, 2.0, 3, 0.4)
    assert run.model["margin"] == 0.7

    # `papermill -f mine.yaml` passes the profile's own overrides as the notebook's parameter
    handed = read_profile("mine")["overrides"]
    assert configure("baselines", "two-stream", "mine", handed) == configure(
        "baselines", "two-stream", "mine"
    )


def test_a_section_holds_for_its_layout_or_method_alone(monkeypatch):
    module = METHODS["baselines"]
    recipe = {"regdb": {"lr": 2.0, "pad": 2}, "lr": 1.0, "mutual_prediction": {"flip": 0.1}}
    monkeypatch.setattr(module, "RECIPE", recipe)
    of = {d: configure("baselines", "two-stream", "paper", dataset=d) for d in ("sysu", "regdb")}
    assert [(run.lr, run.pad, run.flip) for run in of.values()] == [(1.0, 10, 0.5), (2.0, 2, 0.5)]
    drawn = configure("baselines", "two-stream", "paper", dataset="paperdolls-regdb")
    assert drawn.lr == 2.0, "a drawn dataset takes the section of its layout"

    sections = {"baselines": {"pad": 3, "regdb": {"pad": 4}}, "pad": 5}
    runs = [configure("baselines", "two-stream", "paper", sections, dataset=d) for d in of]
    assert [run.pad for run in runs] == [3, 4]
    with pytest.raises(ConfigError, match=r"overrides, baselines: found 3, expected a mapping"):
        configure("baselines", "two-stream", "paper", {"baselines": 3})
    with pytest.raises(ConfigError, match=r"overrides: unknown setting 'lrr'"):
        configure("baselines", "two-stream", "paper", {"baselines": {"lrr": 3}})


def test_a_section_may_hold_for_a_group_of_variants(monkeypatch):
    """It is stronger than what stands beside it, weaker than a later layer, and its method's."""
    module = METHODS["baselines"]
    monkeypatch.setattr(module, "GROUPS", {"some": ["agw", "two-stream"]}, raising=False)
    monkeypatch.setattr(module, "RECIPE", {"some": {"lr": 2.0, "margin": 0.7}, "lr": 1.0})
    agw, pcb = (configure("baselines", v, "paper") for v in ("agw", "pcb"))
    assert [(run.lr, run.model["margin"]) for run in (agw, pcb)] == [(2.0, 0.7), (1.0, 0.3)]
    assert configure("baselines", "agw", "paper", {"lr": 3.0}).lr == 3.0
    section = {"baselines": {"some": {"pad": 3}}, "pad": 5}
    runs = [configure("baselines", v, "paper", section) for v in ("agw", "pcb")]
    assert [run.pad for run in runs] == [3, 5]
    with pytest.raises(ConfigError, match=r"overrides: unknown setting 'some'. Of mrda"):
        configure("mrda", "baseline", "paper", {"some": {"pad": 3}})


def test_place_of_a_run_is_no_override():
    run = configure("baselines", "two-stream", "smoke", dataset="regdb", seed=4, trial=2)
    assert run.folder_name() == "smoke/regdb/baselines/two-stream/seed4-trial2"
    for key in ("method", "variant", "profile", "dataset", "seed", "trial", "model"):
        with pytest.raises(ConfigError, match=f"overrides: unknown setting '{key}'"):
            configure("baselines", "two-stream", "smoke", {key: getattr(run, key)})


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"method: found 'agw', expected one of .*baselines"):
        configure("agw", "two-stream")
    with pytest.raises(ConfigError, match=r"variant of baselines: found 'x', .*two-stream"):
        configure("baselines", "x")
    with pytest.raises(
        ConfigError, match=r"profile: found 'x', expected one of: demo, gpu, imported"
    ):
        configure("baselines", "two-stream", "x")
    with pytest.raises(ConfigError, match=r"overrides: unknown setting 'p'.*margin.*milestones"):
        configure("baselines", "two-stream", overrides={"p": 1})
    with pytest.raises(ConfigError, match=r"backbone is 'vgg'.*resnet18"):
        configure("baselines", "two-stream", overrides={"backbone": "vgg"})


def test_unknown_setting_is_blamed_on_where_it_stands(monkeypatch):
    monkeypatch.setitem(METHODS["baselines"].VARIANTS, "two-stream", {"odd": 1})
    with pytest.raises(ConfigError, match=r"variant two-stream: unknown setting 'odd'"):
        configure("baselines", "two-stream")


@pytest.mark.parametrize(
    "content",
    ["", "profile: odd", "profile: demo\noverrides: {}", "profile: odd\noverrides:", "[]", "{"],
)
def test_profile_of_another_form_is_refused(monkeypatch, tmp_path, content):
    (tmp_path / "odd.yaml").write_text(content)
    monkeypatch.setattr(config, "PROFILES", tmp_path)
    with pytest.raises(ConfigError, match=r"odd\.yaml: expected 'profile: odd'"):
        read_profile("odd")


def test_profiles():
    assert PROFILE_NAMES == ["demo", "gpu", "imported", "paper", "smoke"]
    assert read_profile("paper")["overrides"] == {}


@pytest.mark.parametrize("path", ["/home/me/resnet.pth", "weights/resnet.pth"])
def test_weights_are_named_and_never_a_path_that_would_be_published(path):
    with pytest.raises(ConfigError, match=r"weights is .*name of a file in data/weights"):
        configure("baselines", "two-stream", overrides={"weights": path})


def test_weights_are_looked_for_in_the_data_folder():
    overrides = {"backbone": "resnet18", "weights": "absent.pth"}
    run = configure("baselines", "two-stream", "smoke", overrides)
    assert run.model["weights"] == "absent.pth"
    with pytest.raises(ValueError, match=str(data_folder() / "weights" / "absent.pth")):
        build(run, 2)


def test_datasets_of_a_run_have_readers():
    assert set(get_args(Dataset)) == set(NAMES)


def test_settings_cannot_change():
    with pytest.raises(AttributeError):
        Config().margin = 1.0


@pytest.mark.parametrize("name", ["two-stream", "baselines/", "baselines/two-stream/seed0"])
def test_a_run_is_named_by_method_and_variant(name):
    assert named("baselines/two-stream") == ("baselines", "two-stream")
    with pytest.raises(ConfigError, match=f"run: found '{name}', expected method/variant"):
        named(name)
