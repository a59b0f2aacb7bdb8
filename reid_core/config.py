"""What identifies a run: ``RunConfig``, read strictly, and the profiles that set it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from reid_core.paths import PROFILES

T = TypeVar("T")
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Dataset = Literal["paperdolls-sysu", "paperdolls-regdb", "paperdolls-full", "sysu", "regdb", "llcm"]


class ConfigError(ValueError):
    """A setting is unknown or wrong; the message says which, and what is possible."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's numbers. Defaults are the usual recipe of the field's
    baselines (Ye et al., TPAMI 2021); a method's ``RECIPE`` and a profile change them."""

    method: str
    variant: str
    dataset: Dataset = "paperdolls-sysu"
    profile: str = "demo"
    seed: Annotated[int, Field(ge=0)] = 0
    trial: Annotated[int, Field(ge=1, le=10)] = 1  # of RegDB's ten splits; elsewhere always 1

    # "val" trains on the training ids alone and measures on the validation ids: for choosing
    # settings, which must never see the test ids
    evaluate_on: Literal["test", "val"] = "test"

    height: Positive = 288  # pixels
    width: Positive = 144
    pad: Annotated[int, Field(ge=0)] = 10  # pixels around the image before the random crop
    flip: Probability = 0.5
    erase: Probability = 0.0
    grayscale: Probability = 0.0  # of visible training images
    trivial_augment: bool = False

    identities: Positive = 8  # P, in a batch
    images: Positive = 4  # K, of each identity and modality
    steps: Annotated[int, Field(ge=0)] = 0  # in an epoch; 0 is as many as show every image once
    epochs: Positive = 80
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: NotNegative = 0.1
    backbone_lr: NotNegative = 0.1  # factor on lr for the pretrained part
    momentum: Probability = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 5e-4
    warmup: NotNegative = 10  # epochs of linear growth
    milestones: tuple[float, ...] = (20, 50)  # epochs at which lr is multiplied by gamma
    gamma: NotNegative = 0.1
    precision: Literal["bf16", "fp32"] = "bf16"

    model: dict[str, Any] = field(default_factory=dict)  # fields of the method's Config

    def folder_name(self) -> str:
        """Where the run lives below ``results/runs``."""
        trial = f"-trial{self.trial}" if self.dataset.endswith("regdb") else ""
        parts = (self.profile, self.dataset, self.method, self.variant)
        return "/".join((*parts, f"seed{self.seed}{trial}"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON would give it back, for ``params.json``."""
        return json.loads(json.dumps(asdict(self)))


def strictly(cls: type[T], values: Mapping[str, Any], name: str) -> T:
    """An instance of the dataclass ``cls`` from ``values``.

    Raises
    ------
    ConfigError
        A key is unknown or a value has the wrong type or range; names ``name``, the key, what was
        found and what is possible.
    """
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{name}: unknown setting '{key}'. Choices: {', '.join(known)}.")
    try:
        # JSON is the form in which settings are stored, and there a list may stand for a tuple
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'settings'} is {e['input']!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(f"{name}: " + "; ".join(problems) + ".") from None


def load_profile(name: str) -> dict[str, Any]:
    """The content of ``notebooks/profiles/<name>.yaml``; papermill reads the same file with ``-f``.

    Raises
    ------
    ConfigError
        There is no such profile.
    """
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise ConfigError(f"profile: found '{name}', expected one of: {known}.")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
