"""Devices by name; which of them compute in bfloat16, and where it would only slow things down."""

import torch

from reid_core.config import ConfigError

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # x86's; what torch makes of ARM's was not measured


def device_named(name: str) -> torch.device:
    """The torch device that ``name`` names; "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        There is none of that name here.
    """
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except RuntimeError:
        device = None
    there = {"cpu": 1, "cuda": gpus}
    if device is None or (device.index or 0) >= there.get(device.type, 0):
        raise ConfigError(
            f"device: found '{name}', expected auto, cpu or one of the {gpus} GPUs that torch "
            "finds here, such as cuda; name one of these"
        )
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16. Elsewhere torch emulates them, which makes
    a training on a CPU ten times as slow as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in _INSTRUCTIONS)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16, if ``precision`` is "bf16" and ``device``
    computes in it; else all in float32."""
    enabled = precision == "bf16" and computes_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled)
