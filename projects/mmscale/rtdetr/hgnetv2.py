"""HGNetV2, the backbone of the larger RT-DETRs and of D-FINE.

There is no paper: Baidu published code and weights in PaddleClas (``pp_hgnet_v2.py``, Apache-2.0). RT-DETR
(github.com/lyuwenyu/RT-DETR, Apache-2.0) calls B4, B5 and B6 L, X and H; D-FINE (github.com/Peterande/D-FINE,
Apache-2.0) uses B0, B2, B4 and B5. All of them agree in what is computed:

    stem     3x3/2 --+-- 2x2 -- 2x2 --+-- concatenate -- 3x3/2 -- 1x1        2x2 with one row and column of zeros
                     +-- 2x2 max -----+                                      on the right and below
    stage    [3x3/2 depthwise, no activation, from the second on] -- block -- block + identity -- ...
    block    x -- layer -- layer -- ... ; x and all layers concatenated -- 1x1 squeeze -- 1x1 excitation
    layer    k x k in the stages 1 and 2 (k = 3); 1x1 without activation, then k x k depthwise in 3 and 4 (k = 5)

Every convolution is followed by batch norm, ReLU and, in B0 to B3, a learnable affine block of two scalars.

B, C, H, W: batch, channels, height and width.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmscale.registry import MODELS

from .official_weights import OfficialWeights, check_stages

__all__ = ['HGNetV2']


@dataclass(frozen=True)
class Architecture:
    """The numbers in which one HGNetV2 differs from another."""

    stem: tuple[int, int]  # channels within the stem, and behind it
    mid: tuple[int, ...]  # channels of a block's layers, by stage
    out: tuple[int, ...]  # channels of the stage's map
    blocks: tuple[int, ...]
    layers: int  # in every block
    lab: bool = False


ARCHITECTURES = {
    'B0': Architecture((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, lab=True),
    'B1': Architecture((24, 32), (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1), 3, lab=True),
    'B2': Architecture((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, lab=True),
    'B3': Architecture((24, 32), (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1), 5, lab=True),
    'B4': Architecture((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6),
    'B5': Architecture((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6),
    'B6': Architecture((48, 96), (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3), 6),
}
ARCHITECTURES |= {'L': ARCHITECTURES['B4'], 'X': ARCHITECTURES['B5'], 'H': ARCHITECTURES['B6']}

# Our names are PaddleClas's. RT-DETR wraps the padded convolutions of the stem, D-FINE the two of an aggregation.
_AGGREGATION = ['aggregation_squeeze_conv', 'aggregation_excitation_conv']
_PADDED = re.compile(r'^(stem\.stem2[ab]\.conv)\.(?:1\.)?(\w+)$')


@MODELS.register_module()
class HGNetV2(OfficialWeights):
    """HGNetV2 with the names and the initialisation of RT-DETR's PyTorch code.

    Convolutions start with ``kaiming_normal_`` (fan in), batch norm and the affine blocks at 1 and 0. Only the stages
    up to the last of ``out_indices`` are built. The ImageNet weights of RT-DETR
    (``https://github.com/lyuwenyu/storage/releases/download/v0.1/PPHGNetV2_L_ssld_pretrained_from_paddle.pth``; X, H)
    and of D-FINE (``https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_B0_stage1.pth``; B1 to
    B6) load by their address.

    The official ``freeze_norm=True`` is ``norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True``; its
    ``freeze_at`` is ``frozen_stages``, which here holds the statistics of the frozen part as well (the official
    configs that freeze a part freeze all norms). PaddleClas trains the affine blocks with a hundredth of the learning
    rate, the PyTorch codes do not: ``paramwise_cfg=dict(custom_keys={'.lab.': dict(lr_mult=0.01)})`` would.

    Args:
        arch (str): One of

            - ``'B0'`` to ``'B6'``: PaddleClas's names.
            - ``'L'``, ``'X'``, ``'H'``: RT-DETR's names of B4, B5, B6.
        use_lab (bool, optional): Put a learnable affine block behind every activation. Defaults to None: in B0 to B3,
            as PaddleClas and D-FINE do.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (Sequence[int]): Stages whose maps are returned, ascending; 0 to 3 have the strides 4 to 32.
            Defaults to (1, 2, 3).
        frozen_stages (int): -1 for none, 0 for the stem, n for the first n stages too. Defaults to -1.
        norm_cfg (dict): Normalisation. Defaults to ``dict(type='BN', requires_grad=True)``.
        norm_eval (bool): Keep the statistics of batch norm while training. Defaults to False.
        init_cfg (dict | list[dict], optional): As in MMEngine. A checkpoint of type ``Pretrained`` may have
            PaddleClas's, RT-DETR's or D-FINE's names, and must fill the network. Defaults to None.

    Raises:
        ValueError: If ``arch`` is unknown, or ``out_indices`` or ``frozen_stages`` is out of range.

    Example:
        >>> backbone = HGNetV2('B0')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 256, 8, 12), (1, 512, 4, 6), (1, 1024, 2, 3)]
        >>> backbone.out_channels
        [256, 512, 1024]
    """

    def __init__(
        self,
        arch: str,
        use_lab: bool | None = None,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3),
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if arch not in ARCHITECTURES:
            raise ValueError(f'arch={arch!r} is none of {", ".join(ARCHITECTURES)}')
        check_stages(out_indices, frozen_stages, count=4)
        super().__init__(init_cfg)
        numbers = ARCHITECTURES[arch]
        self.arch = arch
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        conv = partial(
            ConvLayer,
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            use_lab=numbers.lab if use_lab is None else use_lab,
        )
        self.stem = Stem(conv, in_channels, *numbers.stem)
        widths = (numbers.stem[1], *numbers.out)
        self.stages = nn.ModuleList(
            Stage(conv, i, widths[i], numbers.mid[i], widths[i + 1], numbers.blocks[i], numbers.layers)
            for i in range(self.out_indices[-1] + 1)
        )
        for part in self._frozen():
            part.requires_grad_(False)

    @property
    def out_channels(self) -> list[int]:
        """Channels of the maps that are returned, finest first."""
        return [ARCHITECTURES[self.arch].out[i] for i in self.out_indices]

    @staticmethod
    def own_name(name: str) -> str:
        for i, own in enumerate(_AGGREGATION):
            name = name.replace(f'.aggregation.{i}.', f'.{own}.')
        return _PADDED.sub(r'\1.\2', name)

    @staticmethod
    def official_name(name: str) -> str:
        """RT-DETR's name of one of our parameters or buffers; any other name stays."""
        return _PADDED.sub(r'\1.1.\2', name)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of an image.

        Args:
            x (Tensor): Images ``(B, in_channels, H, W)``.

        Returns:
            tuple[Tensor]: One map per stage in ``out_indices``, finest first: ``(B, C_i, H_i, W_i)`` with H_i and W_i
            the size divided by the stride, rounded up.
        """
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'HGNetV2':
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    @property
    def _parts(self) -> list[str]:
        return ['stem', *(f'stages.{i}' for i in range(len(self.stages)))]

    def _frozen(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with two scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class ConvLayer(nn.Module):
    """Convolution without bias, normalisation, ReLU, learnable affine block."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        norm_cfg: dict,
        use_lab: bool,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight)
        self.bn = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()
        self.lab = LearnableAffine() if act and use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.lab(self.act(self.bn(self.conv(x))))


class LightConvLayer(nn.Module):
    """1x1 without activation, then a depthwise convolution."""

    def __init__(self, conv: Callable[..., ConvLayer], in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 1, act=False)
        self.conv2 = conv(out_channels, out_channels, kernel, groups=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stem(nn.Module):
    """Image to a map of stride 4."""

    def __init__(self, conv: Callable[..., ConvLayer], in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stem1 = conv(in_channels, mid_channels, 3, stride=2)
        self.stem2a = conv(mid_channels, mid_channels // 2, 2)
        self.stem2b = conv(mid_channels // 2, mid_channels, 2)
        self.stem3 = conv(mid_channels * 2, mid_channels, 3, stride=2)
        self.stem4 = conv(mid_channels, out_channels, 1)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad(self.stem1(x))
        x = torch.cat([self.pool(x), self.stem2b(_pad(self.stem2a(x)))], dim=1)
        return self.stem4(self.stem3(x))


class Block(nn.Module):
    """Layers in a row, and their outputs and the input brought together by two 1x1 convolutions."""

    def __init__(
        self,
        conv: Callable[..., ConvLayer],
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        layers: int,
        light: bool,
        identity: bool,
    ) -> None:
        super().__init__()
        layer = partial(LightConvLayer, conv, kernel=5) if light else partial(conv, kernel=3)
        self.layers = nn.ModuleList(layer(mid_channels if i else in_channels, mid_channels) for i in range(layers))
        self.aggregation_squeeze_conv = conv(in_channels + layers * mid_channels, out_channels // 2, 1)
        self.aggregation_excitation_conv = conv(out_channels // 2, out_channels, 1)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        outs = [x]
        for layer in self.layers:
            outs.append(layer(outs[-1]))
        out = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(torch.cat(outs, dim=1)))
        return out + x if self.identity else out


class Stage(nn.Module):
    """Blocks, behind a depthwise convolution that halves the size in all stages but the first, number 0."""

    def __init__(
        self,
        conv: Callable[..., ConvLayer],
        number: int,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        blocks: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.downsample = (
            conv(in_channels, in_channels, 3, stride=2, groups=in_channels, act=False) if number else nn.Identity()
        )
        self.blocks = nn.Sequential(
            *(
                Block(
                    conv,
                    out_channels if i else in_channels,
                    mid_channels,
                    out_channels,
                    layers,
                    light=number > 1,
                    identity=i > 0,
                )
                for i in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


def _pad(x: Tensor) -> Tensor:
    """One column of zeros on the right and one row below."""
    return F.pad(x, (0, 1, 0, 1))
