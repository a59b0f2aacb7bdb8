"""CrossViT for images of any height and width (§1.2, crossvit_csa; Chen, Fan and Panda, ICCV
2021).

Two vision transformers see one image: branch F in fine patches, branch C in coarse ones, with
more blocks and wider tokens. In each of L multi-scale encoders both first run by themselves, then
the class token of each looks at the other's patches. Tokens are (B, 1 + n, D): the class token,
then the patches, row by row.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from reid_core.layers.crossvit_weights import Embedding, Grid, Size, load_pretrained
from reid_core.layers.pooling import at_least_float32

FINE, COARSE = 0, 1  # the place of each branch in every pair below
Residual = Literal["class", "encoder"]
Patches = Literal["own", "other"]
_STRIDES = {8: (2, 1), 12: (3, 1), 16: (2, 2)}  # of the second and third convolution, by patch size


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``softmax(q kᵀ / √(e/h)) v`` (Eq. 6), softmax at least in float32: q (B, h, m, e/h), k and v
    (B, h, n, e/h) to (B, m, e)."""
    weights = at_least_float32(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class MSA(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, n, D) to the same shape."""
        qkv = self.qkv(z).unflatten(2, (3, self.heads, -1))
        return self.proj(attend(*qkv.permute(2, 0, 3, 1, 4)))


class Block(nn.Module):
    """A transformer block (Eq. 2, 3): ``z' = MSA(LN(z)) + z``, ``MLP(LN(z')) + z'``. In training
    each sum leaves its first part out for an image with probability ``drop``."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop: float = 0.0):
        super().__init__()
        hidden = mlp_ratio * width
        self.ln1, self.ln2 = layer_norm(width), layer_norm(width)
        self.msa = MSA(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = StochasticDepth(drop, "row")

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, n, D) to the same shape."""
        z = self.drop(self.msa(self.ln1(z))) + z
        return self.drop(self.mlp(self.ln2(z))) + z


class CrossA(nn.Module):
    """Cross-attention of LN(z) (Eq. 6): its class token asks, all its tokens answer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln = layer_norm(width)
        self.Vq, self.Vk, self.Vv, self.proj = (nn.Linear(width, width) for _ in range(4))

    def queries(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q (B, h, 1, e/h), k and v (B, h, n, e/h)."""
        z = self.ln(z)
        qkv = self.Vq(z[:, :1]), self.Vk(z), self.Vv(z)
        return tuple(x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in qkv)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, 1 + n, D) to (B, 1, D)."""
        return self.proj(attend(*self.queries(z)))


class MultiScaleEncoder(nn.Module):
    """Both branches' blocks, then Eq. 5 to 8 for each branch.

    ``patches`` reads Eq. 8: "own" leaves every branch its patches, as CrossViT does and as the
    paper's prose has it (the class token returns to its own branch); "other" as printed, where
    ``BP([z_CLS; I_patch])`` has the *other* branch's patches, which so change places after each
    encoder.

    ``residual`` is the multi-scale residual connection: "class" is Eq. 7's, from the projected
    class token across the attention; "encoder" adds one from an encoder's input to its output.

    ``drops`` are the rates of stochastic depth, one for each block of the deeper branch: a block
    of either branch has its number's, the sum of Eq. 7 the last one.
    """

    def __init__(
        self,
        size: Size,
        patches: Patches = "own",
        residual: Residual = "class",
        drops: Sequence[float] | None = None,
    ):
        super().__init__()
        self.patches, self.residual = patches, residual
        drops = [0.0] * max(size.depths) if drops is None else drops
        self.vit = nn.ModuleList(
            nn.Sequential(*(Block(width, size.heads, size.mlp_ratio, r) for r in drops[:depth]))
            for width, depth in zip(size.widths, size.depths, strict=True)
        )
        self.drop = StochasticDepth(drops[-1], "row")

        def projection(width: int, to: int) -> nn.Module:
            return nn.Sequential(layer_norm(width), nn.GELU(), nn.Linear(width, to))

        pairs = [size.widths, size.widths[::-1]]  # of each branch: its own width, the other's
        self.P = nn.ModuleList(projection(own, other) for own, other in pairs)
        self.cross = nn.ModuleList(CrossA(other, size.heads) for _, other in pairs)
        self.BP = nn.ModuleList(projection(other, own) for own, other in pairs)

    def forward(self, z: list[torch.Tensor]) -> list[torch.Tensor]:
        """Tokens of F and C, each (B, 1 + n, D), to the same shapes; with ``patches`` "other", n
        and n change places."""
        inner = [vit(tokens) for vit, tokens in zip(self.vit, z, strict=True)]
        out = []
        for own, other in ((FINE, COARSE), (COARSE, FINE)):
            I_cls, I_patch = self.P[own](inner[own][:, :1]), inner[other][:, 1:]
            z_own = torch.cat([I_cls, I_patch], dim=1)  # Eq. 5
            z_cls = I_cls + self.drop(self.cross[own](z_own))  # Eq. 7
            if self.patches == "other":
                out.append(self.BP[own](torch.cat([z_cls, I_patch], dim=1)))  # Eq. 8 as printed
            else:
                out.append(torch.cat([self.BP[own](z_cls), inner[own][:, 1:]], dim=1))
        if self.residual == "encoder":
            return [before + after for before, after in zip(z, out, strict=True)]
        return out


def convolutions(patch: int, width: int, normalise: bool) -> nn.Sequential:
    """Three convolutions in place of a linear map of each patch: (B, 3, H, W) to (B, ``width``,
    H / patch, W / patch), each token with a look beyond its patch's edges. They are CrossViT†'s
    ("dagger"), whose authors have patches of 12 and 16 pixels; 8 is made alike. With batch
    normalisation after each ("stem") a transformer learns sooner from nothing (Xiao et al.,
    NeurIPS 2021, have it between theirs)."""
    second, third = _STRIDES[patch]  # 4 comes before them
    layers = [
        nn.Conv2d(3, width // 4, 7, stride=4, padding=3),
        nn.ReLU(),
        nn.Conv2d(width // 4, width // 2, 3, stride=second, padding=0 if second == 3 else 1),
        nn.ReLU(),
        nn.Conv2d(width // 2, width, 3, stride=third, padding=1),
    ]
    if normalise:
        for place in (5, 3, 1):  # behind each convolution, from the last one on
            layers.insert(place, nn.BatchNorm2d(layers[place - 1].out_channels))
    return nn.Sequential(*layers)


def embedding(kind: Embedding, patch: int, width: int) -> nn.Module:
    """x_patch of Eq. 1: (B, 3, H, W) to (B, ``width``, H / patch, W / patch). Initialised so that
    the numbers of a token are about as large as those of a normalised image, 1, whatever its
    ``kind``: position embeddings are added to them."""
    if kind == "linear":
        layer = nn.Conv2d(3, width, patch, stride=patch)
    else:
        layer = convolutions(patch, width, normalise=kind == "stem")
    convs = [m for m in layer.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:  # with torch's own start each would make them smaller by √3 or more
        last = conv is convs[-1]
        nn.init.kaiming_normal_(conv.weight, nonlinearity="linear" if last else "relu")
        nn.init.zeros_(conv.bias)
        if conv is not convs[0]:  # behind a ReLU all is above 0: filters of mean 0 leave out what
            with torch.no_grad():  # is then the same in all images
                conv.weight -= conv.weight.mean((1, 2, 3), keepdim=True)
    return layer


class CrossViT(nn.Module):
    """CrossViT without its classifiers, for images of one height and width.

    Parameters
    ----------
    image : (height, width) of the images in pixels, multiples of both patch sizes
    size : Size
    weights : str
        "imagenet" (the authors', downloaded once, for the sizes of ``PUBLISHED``), "none" (random),
        or the path of a state dict of the authors' or of timm's CrossViT. Position embeddings of
        another grid are interpolated. The authors shrink an image of 240 × 240 to 224 × 224 for
        branch C, whose patch size does not divide 240; here both branches see the same pixels.
    patches, residual
        See `MultiScaleEncoder`.
    drop_path : float
        Rate of stochastic depth (Huang et al., ECCV 2016) in the last block; it grows linearly
        from 0 in the first one.

    Raises
    ------
    ValueError
        A patch size does not divide the image or has no convolutions, heads do not divide a width,
        ``patches`` and ``residual`` exclude each other, or the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        image: tuple[int, int],
        size: Size,
        weights: str = "none",
        patches: Patches = "own",
        residual: Residual = "class",
        drop_path: float = 0.0,
    ):
        super().__init__()
        _check(image, size, patches, residual)
        self.image, self.size = image, size
        self.grids: list[Grid] = [(image[0] // p, image[1] // p) for p in size.patches]
        self.patch = nn.ModuleList(
            embedding(size.embedding, p, width)
            for p, width in zip(size.patches, size.widths, strict=True)
        )
        self.x_cls = nn.ParameterList(torch.zeros(1, 1, width) for width in size.widths)
        self.E_pos = nn.ParameterList(
            torch.zeros(1, 1 + rows * columns, width)
            for (rows, columns), width in zip(self.grids, size.widths, strict=True)
        )
        deepest = max(size.depths)
        drops = torch.linspace(0, drop_path, size.encoders * deepest).split(deepest)
        self.encoders = nn.ModuleList(
            MultiScaleEncoder(size, patches, residual, rates.tolist()) for rates in drops
        )
        self.norm = nn.ModuleList(layer_norm(width) for width in size.widths)
        if patches == "other" and size.encoders % 2:
            self.out_grids = self.grids[::-1]
        else:
            self.out_grids = self.grids
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # as the first ViT
                nn.init.zeros_(module.bias)
        # A fifth of what a patch brings (see `embedding`). The usual 0.02 fits a long training: at
        # first it hardly tells one place from another
        for tokens in (*self.x_cls, *self.E_pos):
            nn.init.trunc_normal_(tokens, std=0.2)
        if weights != "none":
            load_pretrained(self, size, self.grids, weights)

    def embed(self, images: torch.Tensor) -> list[torch.Tensor]:
        """z_0 of both branches (Eq. 1): (B, 3, H, W) to (B, 1 + n, D) each."""
        if images.shape[2:] != self.image:
            raise ValueError(
                f"size: found images of {tuple(images.shape[2:])} pixels, expected {self.image}, "
                "for which the position embeddings are. Set `size` to the run's height and width."
            )
        tokens = []
        for patch, cls, pos in zip(self.patch, self.x_cls, self.E_pos, strict=True):
            x_patch = patch(images).flatten(2).mT
            tokens.append(torch.cat([cls.expand(len(images), -1, -1), x_patch], dim=1) + pos)
        return tokens

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) to the normalised tokens of F and C, each (B, 1 + n, D): Eq. 4, of all
        tokens."""
        z = self.embed(images)
        for encoder in self.encoders:
            z = encoder(z)
        return [norm(tokens) for norm, tokens in zip(self.norm, z, strict=True)]


def to_map(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Patch tokens (B, 1 + rows · columns, D) as a map (B, D, rows, columns)."""
    return tokens[:, 1:].mT.unflatten(2, grid)


def _check(image: tuple[int, int], size: Size, patches: Patches, residual: Residual) -> None:
    for p in size.patches:
        if image[0] % p or image[1] % p:
            raise ValueError(
                f"patches: found {p} pixels for images of {image[0]} × {image[1]}, expected a "
                "divisor of both."
            )
        if size.embedding != "linear" and p not in _STRIDES:
            raise ValueError(
                f"patches: found {p} pixels with embedding '{size.embedding}', expected of "
                f"{[*_STRIDES]}."
            )
    if any(width % size.heads for width in size.widths):
        raise ValueError(
            f"heads: found {size.heads} for widths {size.widths}, expected a divisor of both."
        )
    if patches == "other" and residual == "encoder":
        raise ValueError(
            "residual: 'encoder' adds an encoder's input to its output, but with 'other' patches "
            "the two are of different grids; expected 'class'."
        )
