"""The methods: one file each, and how a run of one is put together.

A method's module has ``Config``, ``RECIPE`` (what its paper changes of ``RunConfig``), ``VARIANTS``
and ``Model(config, identities)`` with ``embed``, ``losses`` and the part ``backbone``, which learns
at its own rate. ``LATE`` may name settings that act from some epoch on; see ``shared_start``.
``GROUPS`` may name variants that share settings; see ``configure``. What a model draws at random,
it draws from torch's global generator, which the trainer seeds for every epoch. A model whose
``backbone`` is no ``TwoStreamResNet`` names in ``cam_layers`` what Grad-CAM shall look at; see
``retrieval.explain.grad_cam``. Where several
processes train one model, they share the rows of each batch that it gives to ``backbone`` or to a
module in it; ``per_picture`` may name other costly parts that treat each row for itself; see
``distributed.spread``.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from types import ModuleType
from typing import Any

from torch import nn

from reid_core.config import ConfigError, RunConfig, read_profile, strictly
from reid_core.data import DATASETS
from reid_core.data.datasets import layout
from reid_core.errors import ReidError
from reid_core.methods import (
    baselines,
    crossvit_csa,
    fprnet,
    mrda,
    multi_granularity,
    mutual_prediction,
)
from reid_core.paths import data_folder

METHODS: dict[str, ModuleType] = {
    "baselines": baselines,
    "fprnet": fprnet,
    "multi_granularity": multi_granularity,
    "mutual_prediction": mutual_prediction,
    "crossvit_csa": crossvit_csa,
    "mrda": mrda,
}
_PLACE = ("method", "variant", "profile", "dataset", "seed", "trial")  # they name the run's folder


def named(run: str) -> tuple[str, str]:
    """Method and variant of "method/variant".

    Raises
    ------
    ConfigError
        It has another form.
    """
    method, _, variant = run.partition("/")
    if not variant or "/" in variant:
        raise ConfigError(
            f"run: found '{run}', expected method/variant, such as baselines/two-stream."
        )
    return method, variant


def configure(
    method: str,
    variant: str,
    profile: str = "demo",
    overrides: Mapping[str, Any] | None = None,
    *,
    dataset: str = "paperdolls-sysu",
    seed: int = 0,
    trial: int = 1,
) -> RunConfig:
    """A run's whole configuration.

    From weak to strong: the paper's recipe (the method's ``RECIPE`` and ``Config`` defaults), the
    profile, the variant, ``overrides``. Keys are fields of ``RunConfig``, other than those that
    name the run's folder, or of the method's ``Config``; a key that names a layout (sysu, regdb,
    llcm), a method or one of its ``GROUPS`` of variants holds a mapping of settings for it alone,
    stronger than those beside it.

    Raises
    ------
    ConfigError
        The method, variant or profile does not exist, or a setting is unknown or wrong.
    """
    if method not in METHODS:
        raise ConfigError(f"method: found '{method}', expected one of {', '.join(METHODS)}.")
    module = METHODS[method]
    if variant not in module.VARIANTS:
        known = ", ".join(module.VARIANTS)
        raise ConfigError(f"variant of {method}: found '{variant}', expected one of {known}.")
    of_profile = read_profile(profile)["overrides"]
    if overrides == of_profile:  # `papermill -f` hands the profile over once more: still a profile
        overrides = {}
    layers = {
        f"recipe of {method}": module.RECIPE,
        f"profile {profile}": of_profile,
        f"variant {variant}": module.VARIANTS[variant],
        "overrides": overrides or {},
    }
    own = [f.name for f in fields(module.Config)]
    general = [f.name for f in fields(RunConfig) if f.name not in (*_PLACE, "model")]
    groups = getattr(module, "GROUPS", {})
    sections = {name: name in (layout(dataset), method) for name in (*DATASETS, *METHODS)}
    sections |= {name: variant in members for name, members in groups.items()}
    merged: dict[str, Any] = {}
    for source, layer in layers.items():
        chosen = _applying(layer, source, sections)
        for key in chosen:
            if key not in own + general:
                raise ConfigError(
                    f"{source}: unknown setting '{key}'. Of {method}: {', '.join(own)}. "
                    f"Of every run: {', '.join(general)}."
                )
        merged |= chosen
    name = f"{method}/{variant}"
    model = strictly(module.Config, {k: v for k, v in merged.items() if k in own}, name)
    run = {k: v for k, v in merged.items() if k in general}
    place = dict(zip(_PLACE, (method, variant, profile, dataset, seed, trial), strict=True))
    return strictly(RunConfig, run | place | {"model": asdict(model)}, name)


def _applying(
    layer: Mapping[str, Any], source: str, sections: Mapping[str, bool]
) -> dict[str, Any]:
    """The settings in ``layer`` that hold for a run; ``sections`` says of each name of a section
    whether it is the run's."""
    if not isinstance(layer, Mapping):
        raise ConfigError(f"{source}: found {layer!r}, expected a mapping of settings.")
    chosen = {k: v for k, v in layer.items() if k not in sections}
    for name, applies in sections.items():
        if applies and name in layer:
            chosen |= _applying(layer[name], f"{source}, {name}", sections)
    return chosen


def build(run: RunConfig, identities: int) -> nn.Module:
    """The run's model for ``identities`` training identities; a weights file is looked for in
    ``data/weights``.

    Raises
    ------
    ConfigError
        The settings do not make a model, or its weights cannot be had.
    """
    module = METHODS[run.method]
    config = strictly(module.Config, run.model, run.method)
    weights = getattr(config, "weights", "none")
    if weights not in ("imagenet", "none"):
        config = replace(config, weights=str(data_folder() / "weights" / weights))
    with errors_of(run):
        return module.Model(config, identities)


@contextmanager
def errors_of(run: RunConfig) -> Iterator[None]:
    """A layer knows no run: what it refuses with a ValueError is a ConfigError that names it."""
    try:
        yield
    except ReidError:
        raise
    except ValueError as error:
        raise ConfigError(f"{run.method}/{run.variant}: {error}") from error
