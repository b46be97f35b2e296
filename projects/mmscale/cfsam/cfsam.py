"""CFSAM, the cross-layer feature self-attention module: attention over the pixels of all levels at once.

Paper: "Cross-Layer Feature Self-Attention Module for Multi-Scale Object Detection" (Xie, Lan, Pang, Ning, Zeng and
Zheng, arXiv 2510.14726), section 3, figs. 1 and 2. No code of the authors is public.

    F1 -- 3x3 -- 1x1 --> L1 --+                +-- Partition -- Transformer -- Combine --> L' --+
    F2 -- 3x3 -- 1x1 --> L2 --+-- flatten, L --+                                                +-- cat -- 1x1 --> R
    F3 -- 3x3 -- 1x1 --> L3 --+                +------------------------------------------------+

    R -- slice -- 1x1 --> R1, R2, R3, of the shapes of F1, F2, F3

From the paper: the drawing, the 256 channels of the tokens, two parts. Ours, because the paper is silent:

- the Transformer: three pre-norm layers, 8 heads, a feed-forward part of 384 channels, no norm at the end (L and L'
  meet at one scale) and no positions. The paper's cost decided depth and widths: SSD300-CFSAM has 45.18 M parameters
  and 44.9 GMACs with them, the paper prints 45.16 and 45.22;
- the 1x1 convolutions that give each level its own width back (:mod:`.ffr`);
- table 5's rows without FFR: they keep those 1x1 convolutions, since the head needs its maps' widths, and miss the
  concatenation and its convolution;
- a length that P does not divide: stretched before Partition, shrunk after the fusion (:mod:`.partition`).
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from mmscale.layers.levels import check_widths, checked_levels
from mmscale.registry import MODELS

from .ffr import Fusion, Recover
from .gfe import GlobalFeatureExtraction, flatten_levels
from .lfe import LocalFeatureExtraction
from .partition import shrink, stretch

__all__ = ['CFSAM']

STAGES = ('lfe', 'gfe', 'ffr')


@MODELS.register_module()
class CFSAM(BaseModule):
    """Any number of maps of any widths and sizes to as many maps of the same shapes.

    In a detector it stands behind the neck: ``neck=[dict(type='SSDNeck', ...), dict(type='mmscale.CFSAM',
    in_channels=(512, 1024, 512, 256, 256, 256))]``. Padding that the data pre-processor added to the images is part of
    the maps: a neck sees no mask.

    Args:
        in_channels (Sequence[int]): Width of every map.
        channels (int): Width of the tokens, a multiple of ``num_heads``. Defaults to 256.
        num_parts (int): P, the sequences that the tokens are dealt out to; attention costs 1 / P. Defaults to 2.
        num_layers (int): Layers of the Transformer. Defaults to 3.
        num_heads (int): Heads of its attention. Defaults to 8.
        feedforward_channels (int): Hidden width of its feed-forward parts. Defaults to 384.
        levels (Sequence[int], optional): Indices of the maps that take part, in ascending order; the others are passed
            on as they are (table 6). Defaults to None, all.
        stages (Sequence[str]): The first one, two or three of ``'lfe'``, ``'gfe'``, ``'ffr'`` (table 5). Defaults to
            all three.
        depthwise (bool): Whether LFE's 3x3 convolutions are depthwise. Ours, for light models. Defaults to False.
        norm_cfg (dict, optional): Normalisation between LFE's two convolutions. Defaults to None, as in eq. 1.
        act_cfg (dict, optional): Activation between LFE's two convolutions. Defaults to None, as in eq. 1.
        dropout (float): In the Transformer. Defaults to 0.0.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form, of all but the Transformer, which
            has its own (:class:`.gfe.GlobalFeatureExtraction`). Defaults to Xavier's uniform one for convolutions and
            linear layers, as in MMDetection's SSD neck and head; ours.

    Raises:
        ValueError: If an argument is out of its range, or the maps of ``forward`` are not those of ``in_channels``.

    Example:
        >>> import torch
        >>> cfsam = CFSAM(in_channels=[64, 128, 32], channels=64)
        >>> maps = [torch.rand(2, 64, 9, 9), torch.rand(2, 128, 5, 5), torch.rand(2, 32, 3, 3)]
        >>> [tuple(x.shape) for x in cfsam(maps)]
        [(2, 64, 9, 9), (2, 128, 5, 5), (2, 32, 3, 3)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        num_parts: int = 2,
        num_layers: int = 3,
        num_heads: int = 8,
        feedforward_channels: int = 384,
        levels: Sequence[int] | None = None,
        stages: Sequence[str] = STAGES,
        depthwise: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        dropout: float = 0.0,
        init_cfg: dict | list | None = dict(type='Xavier', layer=['Conv2d', 'Linear'], distribution='uniform'),  # noqa: B006
    ) -> None:
        super().__init__(init_cfg)
        for name, value in dict(
            channels=channels,
            num_parts=num_parts,
            num_layers=num_layers,
            feedforward_channels=feedforward_channels,
        ).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} of CFSAM should be a whole number from 1')
        self.in_channels = list(in_channels)
        self.levels = checked_levels('CFSAM', levels, len(self.in_channels))
        self.stages = _checked_stages(stages)
        self.num_parts = num_parts
        widths = [self.in_channels[level] for level in self.levels]
        self.lfe = LocalFeatureExtraction(widths, channels, depthwise, norm_cfg, act_cfg)
        if 'gfe' in self.stages:
            self.gfe = GlobalFeatureExtraction(
                channels, num_parts, num_layers, num_heads, feedforward_channels, dropout
            )
        if 'ffr' in self.stages:
            self.fusion = Fusion(channels)
        self.recover = Recover(channels, widths)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Let all levels see each other.

        Args:
            inputs (Sequence[Tensor]): One map per entry of ``in_channels``, ``(B, in_channels[i], H_i, W_i)``.

        Returns:
            tuple[Tensor]: As many maps of the same shapes.

        Raises:
            ValueError: If the number of maps or a map's width is not what the module was built for.
        """
        check_widths('CFSAM', inputs, self.in_channels)
        outs = list(inputs)
        maps = [inputs[level] for level in self.levels]
        sizes = [x.shape[-2:] for x in maps]
        tokens = flatten_levels(self.lfe(maps))  # L, eq. 1
        if 'gfe' in self.stages:
            tokens = self._global(tokens)
        for level, x in zip(self.levels, self.recover(tokens, sizes), strict=True):
            outs[level] = x
        return tuple(outs)

    def _global(self, tokens: Tensor) -> Tensor:
        """L to R, eqs. 2 to 5, both ``(B, N, C)``."""
        before = stretch(tokens, self.num_parts)
        after = self.gfe(before)
        fused = self.fusion(before, after) if 'ffr' in self.stages else after
        return shrink(fused, tokens.shape[1]) if self.num_parts > 1 else fused


def _checked_stages(stages: Sequence[str]) -> tuple[str, ...]:
    stages = (stages,) if isinstance(stages, str) else tuple(stages)
    if not stages or stages != STAGES[: len(stages)]:
        choices = ', '.join(str(list(STAGES[:end])) for end in range(1, len(STAGES) + 1))
        raise ValueError(
            f'stages={list(stages)} of CFSAM should be one of {choices}: each stage stands on those before it'
        )
    return stages
