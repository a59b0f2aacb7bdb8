"""The methods: one file each, and how a run of one is put together."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import ModuleType
from typing import Any

from torch import nn

from reid_core.config import ConfigError, RunConfig, load_profile, strictly
from reid_core.methods import baselines

METHODS: dict[str, ModuleType] = {"baselines": baselines}


def configure(
    method: str,
    variant: str,
    profile: str = "demo",
    overrides: Mapping[str, Any] | None = None,
    **identity: Any,
) -> RunConfig:
    """A run's whole configuration.

    From weak to strong: the paper's recipe (the method's ``RECIPE`` and ``Config`` defaults), the
    profile, the variant, ``overrides``. Keys are fields of ``RunConfig`` or of the method's
    ``Config``; ``identity`` holds dataset, seed and trial.

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
    content = load_profile(profile)
    layers = [
        module.RECIPE,
        content.get("overrides", {}),
        module.VARIANTS[variant],
        dict(overrides or {}),
    ]
    merged = {key: value for layer in layers for key, value in layer.items()}
    own = [f.name for f in fields(module.Config)]
    general = [f.name for f in fields(RunConfig) if f.name not in ("method", "variant", "model")]
    for key in merged:
        if key not in own + general:
            raise ConfigError(
                f"overrides: unknown setting '{key}'. Of {method}: {', '.join(own)}. "
                f"Of every run: {', '.join(general)}."
            )
    name = f"{method}/{variant}"
    model = strictly(module.Config, {k: v for k, v in merged.items() if k in own}, name)
    run = {k: v for k, v in merged.items() if k not in own}
    run |= {"method": method, "variant": variant, "profile": profile, "model": asdict(model)}
    return strictly(RunConfig, run | identity, name)


def build(run: RunConfig, identities: int) -> nn.Module:
    """The run's model for ``identities`` training identities."""
    module = METHODS[run.method]
    return module.Model(strictly(module.Config, run.model, run.method), identities)
