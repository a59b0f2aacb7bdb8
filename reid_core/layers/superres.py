"""Super-resolution of the luminance: SRCNN (Dong et al., TPAMI 2016) as Table 7 of fprnet has it.

Images are (B, 3, H, W) RGB or (B, 1, H, W) luminance, 0 to 1.
"""

import torch
from torch import nn
from torch.nn import functional

# ITU-R BT.601 at full range, as in JPEG; Cb and Cr lie around 0 here
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def bicubic(images: torch.Tensor, factor: float) -> torch.Tensor:
    """(B, C, H, W) to (B, C, factor·H, factor·W); reducing, each pixel averages what it covers."""
    size = [round(factor * side) for side in images.shape[2:]]
    return functional.interpolate(images, size=size, mode="bicubic", antialias=True)


def to_ycbcr(images: torch.Tensor) -> torch.Tensor:
    """RGB (B, 3, H, W) to luminance and two differences of colour."""
    return torch.einsum("ij,bjhw->bihw", images.new_tensor(_TO_YCBCR), images)


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_ycbcr`."""
    back = torch.linalg.inv(torch.tensor(_TO_YCBCR, dtype=torch.float64)).to(images)
    return torch.einsum("ij,bjhw->bihw", back, images)


def psnr(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio (B,) of each image in dB, what leaves 0..1 cut off."""
    error = (images.clamp(0, 1) - target).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


class SRCNN(nn.Module):
    """Bicubic ×2, then three convolutions: features, their mapping, the image (Table 7, fprnet).

    Parameters
    ----------
    shuffle : int
        Open point. Table 7 has the network's last layer enlarge by 2 once more (PixelShuffle),
        128 to 512 in all, and the text says its output is 256 × 256. With 1 nothing is shuffled:
        256, and SRCNN as Dong et al. built it. With 2 the output has the table's 512. (Averaging
        that to 256 is no third reading: the mean of shuffled channels is one convolution again.)
    dropout : float
        Before the last convolution; the paper prints a rate and no place.
    start : "image" or "random"
        How the convolutions begin, which the paper does not print: the first channel hands the
        luminance through, the others hold a tenth of torch's random weights; or all are random.
    """

    def __init__(self, shuffle: int = 1, dropout: float = 0.0, start: str = "image"):
        super().__init__()
        self.factor = 2 * shuffle
        features = nn.Conv2d(1, 64, 9, padding=4)
        mapping = nn.Conv2d(64, 32, 1)
        image = nn.Conv2d(32, shuffle**2, 5, padding=2)
        if start == "image":
            for layer in (features, mapping, image):
                _hand_through(layer)
        self.layers = nn.Sequential(
            features, nn.ReLU(), mapping, nn.ReLU(), nn.Dropout(dropout), image,
            nn.PixelShuffle(shuffle),
        )  # fmt: skip

    def forward(self, luminance: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) to (B, 1, factor·H, factor·W)."""
        return self.layers(bicubic(luminance, 2))


@torch.no_grad()
def _hand_through(layer: nn.Conv2d) -> None:
    first = layer.weight if layer.in_channels == 32 else layer.weight[:1]  # the image's: all
    layer.weight.mul_(0.1)
    layer.bias.zero_()
    middle = layer.kernel_size[0] // 2
    first.zero_()
    first[:, 0, middle, middle] = 1


@torch.no_grad()
def super_resolve(network: SRCNN, images: torch.Tensor) -> torch.Tensor:
    """RGB (B, 3, H, W) to (B, 3, factor·H, factor·W): the luminance by ``network``, the colours,
    of which an eye sees less detail, by bicubic interpolation (§4.3.1, fprnet)."""
    luminance, colours = to_ycbcr(images).split((1, 2), dim=1)
    large = torch.cat([network(luminance), bicubic(colours, network.factor)], dim=1)
    return to_rgb(large).clamp(0, 1)
