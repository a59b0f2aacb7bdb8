"""Where bfloat16 is computed in, and where it would only slow things down."""

import torch

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # x86's; what torch makes of ARM's was not measured


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
