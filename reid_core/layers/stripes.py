"""Horizontal stripes of a feature map."""

import torch


def require_even(maps: torch.Tensor, count: int, setting: str, parts: str) -> None:
    """Refuses to share the rows of ``maps`` (B, C, H, W) among ``count`` ``parts`` where some would
    get more than others; ``setting`` is the field to change.

    Raises
    ------
    ValueError
        H is no multiple of ``count``.
    """
    height = maps.shape[2]
    if height % count:
        possible = ", ".join(str(n) for n in range(1, height + 1) if height % n == 0)
        raise ValueError(
            f"{setting}: the feature map has {height} rows, which {count} {parts} cannot share "
            f"evenly. Expected one of {possible}; or choose another place or height of the "
            "pictures."
        )
