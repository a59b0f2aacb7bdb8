"""What identifies a run: ``RunConfig``, read strictly, and the profiles that set it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from reid_core.errors import ReidError
from reid_core.paths import PROFILES, shown

T = TypeVar("T")
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]  # a larger whole number may overflow a float
Probability = Annotated[float, Field(ge=0, le=1)]
Dataset = Literal[
    "paperdolls-sysu",
    "paperdolls-regdb",
    "paperdolls-full",
    "paperdolls-tiny",
    "paperdolls-tiny-regdb",
    "sysu",
    "regdb",
    "llcm",
]


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def _file_name(value: str) -> str:
    if Path(value).name != value:
        raise ValueError("expected 'imagenet', 'none' or the name of a file in data/weights")
    return value


# A name and never a path: settings are published, and mean the same on another machine.
Weights = Annotated[str, AfterValidator(_file_name)]


class ConfigError(ReidError, ValueError):
    """A setting is unknown or wrong; the message says which, and what is possible."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's numbers. Defaults are the usual recipe of the field's
    baselines (Ye et al., TPAMI 2021); a method's ``RECIPE`` and a profile change them."""

    method: str
    variant: str
    dataset: Dataset = "paperdolls-sysu"
    profile: str = "demo"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
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
    superres: bool = False  # visible training images are first super-resolved, see superres.py
    superres_reading: Literal["working", "printed"] = "working"  # of how that network is trained
    superres_steps: Positive = 800  # of its training

    identities: Annotated[int, Field(ge=2)] = 8  # P, in a batch: one alone has no negatives
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
    # then "steps": lr is multiplied by gamma at every milestone, an epoch; or "cosine": it falls
    # to 0 along half a cosine, and milestones and gamma do nothing
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[NotNegative, ...] = (20, 50)
    gamma: NotNegative = 0.1
    clip: NotNegative = 0.0  # longest gradient of all parameters together; 0 clips nothing
    # "bf16" is bfloat16 where the device computes in it, else float32 too; see precision.py
    precision: Literal["bf16", "fp32"] = "bf16"
    rerank: bool = False  # measure every protocol with re-ranking too, see retrieval/rerank.py

    model: dict[str, Any] = field(default_factory=dict)  # fields of the method's Config

    def __post_init__(self) -> None:
        if self.trial != 1 and not self.dataset.endswith("regdb"):
            raise ConfigError(f"trial is {self.trial}, but {self.dataset} has one split only: 1")
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ConfigError("momentum is 0, but nesterov needs some: set nesterov to false")
        if self.optimizer != "sgd" and self.momentum == 1:
            raise ConfigError(
                f"momentum is 1, but {self.optimizer} needs less: its mean never moves"
            )

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
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{name}: unknown setting '{key}'. Choices: {', '.join(known)}.")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ConfigError(f"{name}: {key} is {value!r}, which JSON cannot store.") from None
    try:
        # JSON is the form in which settings are stored, and there a list may stand for a tuple
        return _adapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = "; ".join(_problem(e) for e in error.errors())
        raise ConfigError(f"{name}: {problems}.") from None


@cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(cls)


def _problem(error: Mapping[str, Any]) -> str:
    if not error["loc"]:  # of the settings together, not of one
        return error["msg"].removeprefix("Value error, ")
    where, found = ".".join(map(str, error["loc"])), error["input"]
    text = f"{where} is {found!r}: {error['msg'].removeprefix('Value error, ')}"
    if isinstance(found, str) and error["type"] == "float_type" and "e" in found:
        text += " (YAML reads 1e-3 as text; write 1.0e-3)"
    return text


def profile_datasets(name: str) -> dict[str, str]:
    """The datasets on which a profile's artefacts are measured, PaperDolls where its file has no
    ``sysu`` or ``regdb``. Raises as `read_profile` does."""
    drawn = {"sysu": "paperdolls-sysu", "regdb": "paperdolls-regdb"}
    return drawn | {k: v for k, v in read_profile(name).items() if k in drawn}


def read_profile(name: str) -> dict[str, Any]:
    """The content of ``notebooks/profiles/<name>.yaml``; papermill reads the same file with ``-f``,
    hence its form: notebook parameters, of them ``profile`` (its own name).

    Raises
    ------
    ConfigError
        There is no such profile, or its file has another form.
    """
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
        raise ConfigError(f"profile: found '{name}', expected one of: {known}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except yaml.YAMLError:
        content = None
    overrides = content.get("overrides") if isinstance(content, dict) else None
    if not isinstance(overrides, dict) or content.get("profile") != name:
        raise ConfigError(f"{shown(path)}: expected 'profile: {name}' and a mapping 'overrides'.")
    return content
