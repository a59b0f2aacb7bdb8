"""The human-region mask that MRDA computes from the pixels alone (mrda)."""

from typing import Literal

import torch

Bound = Literal["clamp", "scale", "none"]


def human_mask(images: torch.Tensor, bound: Bound = "clamp") -> torch.Tensor:
    """``M⁺ = ‖(x − min x) / (max x − min x)‖₂`` (Eq. 1, mrda), the norm over the colour channels.

    The minimum and the maximum are those of each whole image x, one number each, so an image's
    colours keep their ratio. An image of one colour has no range: its mask is 0. The background's
    mask is ``M⁻ = 1 − M⁺`` (Eq. 2).

    Parameters
    ----------
    images : (B, C, H, W) float pixels, in any unit
    bound : str
        The norm of C numbers of 0..1 reaches √C, and then M⁻ would be negative. "clamp" cuts it at
        1: Eq. 1 wherever both masks can exist. "scale" divides it by √C: no image saturates, all
        fade. "none" takes the equations as printed.

    Returns
    -------
    (B, 1, H, W), in 0..1, with "none" in 0..√C

    Raises
    ------
    ValueError
        ``bound`` is none of the three.
    """
    if bound not in ("clamp", "scale", "none"):
        raise ValueError(f"bound: found '{bound}', expected clamp, scale or none.")
    low, high = (images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True))
    eps = torch.finfo(images.dtype).tiny
    norm = ((images - low) / (high - low).clamp(min=eps)).norm(dim=1, keepdim=True)
    if bound == "clamp":
        return norm.clamp(max=1)
    return norm / images.shape[1] ** 0.5 if bound == "scale" else norm
