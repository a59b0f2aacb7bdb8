"""ResNet in five stages, the first of them private to each modality, the rest shared.

Stage 0 is conv1, bn1, relu and maxpool; stages 1 to 4 are ``layer1`` to ``layer4``.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from reid_core.layers.attention import NonLocal

MODALITIES = ("visible", "infrared")
Backbone = Literal["resnet10_half", "resnet18", "resnet34", "resnet50"]
BACKBONES = get_args(Backbone)
NonLocalWidth = Literal["none", "half", "one"]


def resnet_stages(name: str, weights: str = "none", last_stride: int = 1) -> nn.ModuleList:
    """The five stages of a ResNet.

    Parameters
    ----------
    name : str
        One of ``BACKBONES``; "resnet10_half" has one basic block in a stage and half of
        ResNet-18's channels, a network that learns in minutes on two CPU cores.
    weights : str
        "imagenet" (torchvision's; downloaded once), "none" (random), or the path of a file with
        the state dict of torchvision's network.
    last_stride : int
        1 keeps stage 4 at stage 3's resolution, as person re-identification usually does.

    Raises
    ------
    ValueError
        Unknown name or stride; ImageNet weights asked for a network that has none, or that cannot
        be downloaded; a weights file that is missing, damaged or of another network.
    """
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride: found {last_stride}, expected 1 or 2.")
    if name == "resnet10_half":
        if weights != "none":
            raise ValueError(f"weights: found '{weights}', but resnet10_half has none to load.")
        stages = _half_stages()
    elif name in BACKBONES:
        network = getattr(models, name)()
        if weights != "none":
            _load(network, name, weights)
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        layers = (network.layer1, network.layer2, network.layer3, network.layer4)
        stages = nn.ModuleList([stem, *layers])
    else:
        raise ValueError(f"backbone: found '{name}', expected one of {', '.join(BACKBONES)}.")
    if last_stride == 1:
        first = stages[4][0]
        strided = first.conv2 if hasattr(first, "conv3") else first.conv1
        strided.stride = first.downsample[0].stride = (1, 1)
    return stages


def _half_stages() -> nn.ModuleList:
    stem = nn.Sequential(
        nn.Conv2d(3, 32, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    stages = nn.ModuleList([stem, nn.Sequential(BasicBlock(32, 32))])
    for channels in (32, 64, 128):
        shortcut = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False),
            nn.BatchNorm2d(2 * channels),
        )
        stages.append(nn.Sequential(BasicBlock(channels, 2 * channels, 2, shortcut)))
    for module in stages.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return stages


def _load(network: nn.Module, name: str, weights: str) -> None:
    enum = models.get_model_weights(name).IMAGENET1K_V1
    if weights == "imagenet":
        try:
            state = enum.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network; a download that was damaged
            raise ValueError(
                f"weights: torchvision's {enum} cannot be downloaded ({error}). On a machine with "
                f"network, fetch {enum.url}, put it into data/weights and give its name instead, "
                "or choose 'none' to train from scratch."
            ) from None
    else:
        state = read_state(weights)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]  # torch lists every key
        raise ValueError(f"weights: '{weights}' does not fit {name}: {reason} …") from None


def read_state(path: str) -> dict[str, torch.Tensor]:
    """A state dict's file; ValueError where it is missing or damaged."""
    if not Path(path).is_file():
        raise ValueError(
            f"weights: found no file '{path}', expected 'imagenet', 'none' or a state dict's."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes torch.load may make any
        raise ValueError(
            f"weights: '{path}' is not a state dict ({type(error).__name__}); get the file again."
        ) from None


def _channels(stage: nn.Sequential) -> int:
    last = stage[-1]
    return (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels


def _add_non_local(stages: nn.ModuleList, width: NonLocalWidth) -> None:
    """Non-local blocks after the last two of stage 2's blocks and the last three of stage 3's, as
    in AGW's ResNet-50; where a stage has fewer, after each of them."""
    for number, count in ((2, 2), (3, 3)):
        stage, channels = stages[number], _channels(stages[number])
        inner = channels // 2 if width == "half" else 1
        for i in range(max(0, len(stage) - count), len(stage)):
            stage[i] = nn.Sequential(stage[i], NonLocal(channels, inner))


class TwoStreamResNet(nn.Module):
    """Stages below ``share_from`` exist once per modality, those from it on once.

    Parameters
    ----------
    name, weights, last_stride
        As for `resnet_stages`.
    share_from : int
        0 is a one-stream network, 1 the usual two-stream one, 5 shares nothing.
    non_local : str
        "half" or "one" inner channel (see `NonLocal`) adds AGW's non-local blocks.
    attention : callable, optional
        (modality, channels) to a module of maps, which only that modality's maps pass, between
        stage ``attend_after`` and the next one, also where both of these are shared.
    """

    def __init__(
        self,
        name: str,
        weights: str = "none",
        share_from: int = 1,
        last_stride: int = 1,
        *,
        non_local: NonLocalWidth = "none",
        attention: Callable[[str, int], nn.Module] | None = None,
        attend_after: int = 4,
    ):
        super().__init__()
        if not 0 <= share_from <= 5:
            raise ValueError(f"share_from: found {share_from}, expected a stage 0..5.")
        first = max(1, share_from - 1)
        if not first <= attend_after <= 4:
            raise ValueError(
                f"attend_after: found {attend_after}, expected a stage {first}..4: a residual one, "
                f"and none before the last private one, which share_from {share_from} sets."
            )
        stages = resnet_stages(name, weights, last_stride)
        self.stage_channels = [_channels(stage) for stage in stages[1:]]  # of stages 1 to 4
        self.channels, channels = self.stage_channels[-1], self.stage_channels[attend_after - 1]
        if non_local != "none":
            _add_non_local(stages, non_local)
        cut = attend_after + 1
        private = nn.Sequential(*stages[:share_from])
        self.private = nn.ModuleDict({m: copy.deepcopy(private) for m in MODALITIES})
        self.shared = nn.Sequential(*stages[share_from:cut])
        specific = {m: attention(m, channels) for m in MODALITIES} if attention else {}
        self.attention = nn.ModuleDict(specific)
        self.after = nn.Sequential(*stages[cut:])

    def forward(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """``{modality: (B_m, 3, H, W)}`` to the last maps ``(ΣB_m, C, h, w)``, in the dict's order.

        All modalities pass the shared stages as one batch, so they share its statistics.
        """
        maps = self.shared(torch.cat([self.private[m](x) for m, x in images.items()]))
        if self.attention:
            own = zip(images, maps.split([len(x) for x in images.values()]), strict=True)
            maps = torch.cat([self.attention[m](x) for m, x in own])
        return self.after(maps)

    def stage(self, number: int, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Stage ``number`` alone, of a network without ``attention``: ``{modality: what the stage
        before gave}`` to ``{modality: (B_m, C, h, w)}``. A shared one sees all as one batch."""
        own = len(self.private["visible"])
        if number < own:
            return {m: self.private[m][number](x) for m, x in maps.items()}
        together = self.shared[number - own](torch.cat(list(maps.values())))
        return dict(zip(maps, together.split([len(x) for x in maps.values()]), strict=True))
