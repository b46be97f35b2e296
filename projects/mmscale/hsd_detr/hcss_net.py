"""HCSSNet, the backbone: SPDMixer as its stem and four stages of HCSS-Fusion.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), sections 3.2 and 3.3. The paper's text as we have it gives the two
modules, not how a backbone is made of them. Ours is:

    image -- SPDMixer -- blocks -- down -- blocks -- down -- blocks -- down -- blocks
             stride 4    stage 1           stage 2           stage 3           stage 4

    block: x + HCSS-Fusion(BN(x)), then x + 1x1 (1x1 (x))      down: SPDMixer's last two blocks, stride 2

in three sizes, of which the small one makes an RT-DETR lighter than ResNet-18 does, as the paper asks.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the image
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmscale.layers import init_as_torch
from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr.official_weights import check_stages

from .hcss_fusion import HCSSFusion
from .spd_mixer import ReparamDownsample, SPDMixer

__all__ = ['HCSSNet']

# Width and blocks of every stage.
ARCHS = {
    'tiny': dict(widths=(32, 64, 128, 256), depths=(1, 1, 2, 1)),
    'small': dict(widths=(48, 96, 192, 384), depths=(1, 2, 4, 2)),
    'base': dict(widths=(64, 128, 256, 512), depths=(2, 2, 6, 2)),
}


@MODELS.register_module()
class HCSSNet(BaseModule):
    """Maps of stride 4, 8, 16 and 32.

    Args:
        arch (str or dict): ``'tiny'``, ``'small'``, ``'base'``, or ``dict(widths=..., depths=...)`` with a width and a
            number of blocks for each of four stages. Defaults to ``'small'``.
        stem (str or dict): What makes the map of stride 4.

            - ``'spd_mixer'``: :class:`~mmscale.hsd_detr.SPDMixer`, the default; a dict is its options.
            - ``'conv'``: three 3x3 convolutions and a max pooling, as in RT-DETR's ResNet-vd, for ablations.
        out_indices (Sequence[int]): Stages whose maps are returned, from 0; those behind the last are not built.
            Defaults to ``(1, 2, 3)``, strides 8 to 32.
        fusion (dict, optional): Options of :class:`~mmscale.hsd_detr.HCSSFusion` but ``in_channels`` and ``norm_cfg``.
            Defaults to None.
        feedforward_ratio (float): Hidden width of a block's feed-forward part over its width. Defaults to 2.0.
        drop_path_rate (float): Of the last block's residual parts; it grows from 0 in the first one. Defaults to 0.0.
        frozen_stages (int): The stem and as many stages are not trained; -1 for none. Defaults to -1.
        norm_eval (bool): Whether batch norms keep their statistics. Defaults to False.
        with_cp (bool): Whether blocks are computed again in the backward pass, which saves memory; their batch norms
            then see every batch twice, as in MMDetection's backbones. Defaults to False.
        norm_cfg (dict, optional): Normalisation. Defaults to None, ``dict(type='BN')``.
        act_cfg (dict, optional): Activation of stem, feed-forward parts and downsampling. Defaults to None,
            ``dict(type='SiLU', inplace=True)``, that of RT-DETR's encoder.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own.

    Raises:
        ValueError: If an argument is unknown or out of its range.

    Example:
        >>> backbone = HCSSNet('tiny')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 128, 4, 6), (1, 256, 2, 3)]
        >>> backbone.out_channels
        [64, 128, 256]
    """

    def __init__(
        self,
        arch: str | dict = 'small',
        stem: str | dict = 'spd_mixer',
        out_indices: Sequence[int] = (1, 2, 3),
        fusion: dict | None = None,
        feedforward_ratio: float = 2.0,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        widths, depths = _checked_arch(arch)
        count = len(widths)
        check_stages(out_indices, frozen_stages, count)
        if feedforward_ratio <= 0 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f'feedforward_ratio={feedforward_ratio} of HCSSNet should be above 0, and '
                f'drop_path_rate={drop_path_rate} from 0 to below 1'
            )
        check_options('fusion', HCSSFusion, fusion or {}, reserved=('in_channels', 'norm_cfg', 'init_cfg'))
        self.widths, self.out_indices = widths, tuple(out_indices)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        cfg = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='SiLU', inplace=True))
        self.stem = _build_stem(stem, widths[0], cfg)
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * block / last for block in range(sum(depths))])

        def stage(i: int) -> nn.Sequential:
            down = ReparamDownsample(widths[i - 1], widths[i], **cfg) if i else nn.Identity()
            options = (fusion, feedforward_ratio)
            blocks = [HCSSBlock(widths[i], *options, next(rates), with_cp, **cfg) for _ in range(depths[i])]
            return nn.Sequential(down, *blocks)

        used = max(out_indices) + 1  # the weights of the others would have no gradient
        self.stages = nn.ModuleList(stage(i) for i in range(used))
        self._freeze()

    @property
    def out_channels(self) -> list[int]:
        """Channels of the maps that are returned."""
        return [self.widths[i] for i in self.out_indices]

    def init_weights(self) -> None:
        """PyTorch's own distributions for convolutions; the scans have their own."""
        init_as_torch(self)
        super().init_weights()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode a batch of images.

        Args:
            image (Tensor): ``(B, 3, H, W)``.

        Returns:
            tuple[Tensor]: ``(B, widths[i], ceil(H / s), ceil(W / s))`` for every stage i of ``out_indices``, of stride
            s = 4, 8, 16 or 32.
        """
        x, outs = self.stem(image), []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'HCSSNet':
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        if mode:
            for part in self._frozen_parts():
                part.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        for part in self._frozen_parts():
            part.eval()
            for parameter in part.parameters():
                parameter.requires_grad = False


class HCSSBlock(nn.Module):
    """HCSS-Fusion, then a feed-forward part, both in residual sums; ours.

    Args:
        channels (int): C.
        fusion (dict, optional): Options of HCSS-Fusion.
        feedforward_ratio (float): Hidden width of the feed-forward part over C.
        drop_path (float): Rate at which an image passes without a residual part, in training.
        with_cp (bool): Whether it is computed again in the backward pass.
        norm_cfg (dict): Normalisation.
        act_cfg (dict): Activation of the feed-forward part.
    """

    def __init__(
        self,
        channels: int,
        fusion: dict | None,
        feedforward_ratio: float,
        drop_path: float,
        with_cp: bool,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        hidden = int(channels * feedforward_ratio)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.fusion = HCSSFusion(channels, norm_cfg=norm_cfg, **(fusion or {}))
        self.feedforward = nn.Sequential(
            ConvModule(channels, hidden, 1, norm_cfg=norm_cfg, act_cfg=act_cfg),
            ConvModule(hidden, channels, 1, norm_cfg=norm_cfg, act_cfg=None),
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.fusion(self.norm(x)))
        return x + self.drop_path(self.feedforward(x))


def _build_stem(stem: str | dict, width: int, cfg: dict) -> nn.Module:
    if isinstance(stem, dict):
        if 'in_channels' in stem:
            raise ValueError(f'stem.in_channels={stem["in_channels"]!r} cannot be set: an image has three')
        check_options('stem', SPDMixer, stem, reserved=('in_channels', 'out_channels'))
        return SPDMixer(out_channels=width, **{**cfg, **stem})
    if stem == 'spd_mixer':
        return SPDMixer(out_channels=width, **cfg)
    if stem != 'conv':
        raise ValueError(f"stem={stem!r} of HCSSNet should be 'spd_mixer', options of SPDMixer, or 'conv'")
    half = width // 2
    return nn.Sequential(
        OrderedDict(
            conv1=ConvModule(3, half, 3, stride=2, padding=1, **cfg),
            conv2=ConvModule(half, half, 3, padding=1, **cfg),
            conv3=ConvModule(half, width, 3, padding=1, **cfg),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def _checked_arch(arch: str | dict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'arch={arch!r} of HCSSNet is none of {tuple(ARCHS)}')
        arch = ARCHS[arch]
    if not isinstance(arch, dict) or set(arch) != {'widths', 'depths'}:
        raise ValueError(f'arch={arch!r} of HCSSNet should be a name, or a dict with the keys widths and depths')
    for name, least in (('widths', 1), ('depths', 0)):
        values = arch[name]
        whole = isinstance(values, tuple | list) and all(isinstance(x, int) and x >= least for x in values)
        if not whole or len(values) != 4:
            raise ValueError(f'{name}={values!r} of HCSSNet should be four whole numbers from {least}, one for a stage')
    return tuple(arch['widths']), tuple(arch['depths'])
