"""MMYOLO's necks, and those of YOLOv10 and YOLOv12, with FINE before their top-down fusions.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", eqs. 3 and 10, section C, tables 1 and 8.

    P5 ------------------------------+--------------------------------------- bottom-up --> 32
                            1x1      | up
                             |       |
    P4 ---- FINE(., 1x1(P5)), k = 1 -+- concat, block --> F4 ------------------ bottom-up --> 16
                                                     1x1  |  up
                                                      |   |
    P3 ----------------------- FINE(., 1x1(F4)), k = 2 ---+- concat, block --> F3 ----------> 8

The low level stays as it is; the high one, as the neck upsamples it, passes a 1x1 convolution where its width differs
(eq. 10: YOLOv6, v8, v10, v12; YOLOv5's neck has equal widths there already). The bottom-up path is the neck's.

One mixin serves all of MMYOLO's necks that stand on its ``BaseYOLONeck``; a family of your own is two lines::

    @MODELS.register_module()
    class FINEYOLOXPAFPN(FINEYOLOMixin, YOLOXPAFPN):
        ...
"""

from collections.abc import Sequence

import torch
from mmengine.model import ModuleDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.yolo.api import (
    YOLOv5PAFPN,
    YOLOv6RepBiPAFPN,
    YOLOv6RepPAFPN,
    YOLOv8PAFPN,
    make_divisible,
)
from mmscale.yolo.necks import YOLOv10PAFPN, YOLOv12PAFPN

from .placement import aligning_modules

__all__ = [
    'FINEYOLOMixin',
    'FINEYOLOv10PAFPN',
    'FINEYOLOv12PAFPN',
    'FINEYOLOv5PAFPN',
    'FINEYOLOv6RepBiPAFPN',
    'FINEYOLOv6RepPAFPN',
    'FINEYOLOv8PAFPN',
]

PROBE = 2  # positions along a side of the coarsest map that the widths are found with
# How the families scale their inputs' widths: up to multiples of eight, cut (YOLOv6), or before they say them (YOLOX).
SCALES = (make_divisible, lambda width, factor: int(width * factor), lambda width, factor: width)


class FINEYOLOMixin:
    """FINE for a neck on MMYOLO's ``BaseYOLONeck``: put it before the neck in a class.

    A level is named by its place among the maps that the neck fuses, finest first: 0, 1 and 2 have the strides 8, 16
    and 32. Weights of the plain neck fit; FINE's own are all that is missing in them.

    Args:
        *args: As the neck.
        fine (dict, optional): Options of :class:`~mmscale.fine.FINE` for all its modules (``ratio``, ``num_heads``,
            ``down``, ``attention``, ``modulation``), or another aligning module by ``type``; it is built with
            ``channels`` and ``kernel`` and called with ``(low, high)``. Defaults to None, the paper's settings.
        fine_levels (Sequence[int], optional): The low levels to align. Defaults to the two below the top, the paper's.
        fine_kernels (Sequence[int], optional): k of each level in ``fine_levels``. Defaults to 1 below the top, doubled
            with every level further down (the paper's 1 and 2).
        **kwargs: As the neck.

    Raises:
        ValueError: If a level does not exist, lists differ in length, or an option is unknown.
    """

    def __init__(
        self,
        *args,
        fine: dict | None = None,
        fine_levels: Sequence[int] | None = None,
        fine_kernels: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        with DefaultScope.overwrite_default_scope('mmyolo'):  # YOLOv6's necks name their blocks without it
            super().__init__(*args, **kwargs)
        self.fusions = list(range(len(self.in_channels) - 1))
        low, high = self._fused_widths()
        self.fine = aligning_modules(self, fine, fine_levels, fine_kernels, widths=low)
        self.fine_project = ModuleDict(  # eq. 10
            {
                level: nn.Conv2d(high[int(level)], low[int(level)], 1)
                for level in self.fine
                if high[int(level)] != low[int(level)]
            }
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fuse, each aligned level just before its fusion.

        Args:
            inputs (Sequence[Tensor]): The backbone's maps, finest first.

        Returns:
            tuple[Tensor]: The neck's maps, as the plain neck's.

        Raises:
            ValueError: If their number is not the neck's.
        """
        return self._fuse_all(inputs, self._align)

    def _align(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """F_low_aligned of eq. 3."""
        key = str(level)
        if key not in self.fine:
            return low
        if key in self.fine_project:
            high = self.fine_project[key](high)
        return self.fine[key](low, high)

    def _fuse_all(self, inputs: Sequence[Tensor], align) -> tuple[Tensor, ...]:
        levels = len(self.in_channels)
        below = int(isinstance(self, YOLOv6RepBiPAFPN))  # one more map, the finest, without an output of its own
        if len(inputs) != levels + below:
            raise ValueError(f'{type(self).__name__} got {len(inputs)} maps, but was built for {levels + below}')
        maps = [reduce(x) for reduce, x in zip(self.reduce_layers, inputs[below:], strict=True)]
        unfused = [*inputs[:below], *maps]  # BiFusion takes the level below as it came
        for step, level in enumerate(reversed(self.fusions)):
            low = align(level, maps[level], maps[level + 1])
            fused = self._concatenate(step, low, maps[level + 1], unfused[level] if below else None)
            maps[level] = self.top_down_layers[step](fused)
        outs = maps[:1]
        for level in self.fusions:
            down = self.downsample_layers[level](outs[-1])
            outs.append(self.bottom_up_layers[level](torch.cat([down, maps[level + 1]], dim=1)))
        return tuple(layer(x) for layer, x in zip(self.out_layers, outs, strict=True))

    def _concatenate(self, step: int, low: Tensor, high: Tensor, lower: Tensor | None) -> Tensor:
        """The fusion's maps as the neck puts them together."""
        upsample = self.upsample_layers[step]
        if lower is not None:
            return upsample([high, low, lower])
        pair = [upsample(high), low] if self.upsample_feats_cat_first else [low, upsample(high)]
        return torch.cat(pair, dim=1)

    def _fused_widths(self) -> tuple[dict[int, int], dict[int, int]]:
        """Channels of every fusion's low and high map: they differ by family, and a small input shows them."""
        low_widths, high_widths = {}, {}

        def note(level: int, low: Tensor, high: Tensor) -> Tensor:
            low_widths[level], high_widths[level] = low.shape[1], high.shape[1]
            return low

        channels = list(self.in_channels)
        if isinstance(self, YOLOv6RepBiPAFPN):
            channels.insert(0, self.extra_in_channel)
        sides = [PROBE * 2**place for place in reversed(range(len(channels)))]
        training = self.training
        self.eval()
        for scale in SCALES:
            maps = [
                torch.zeros(1, scale(width, self.widen_factor), side, side)
                for width, side in zip(channels, sides, strict=True)
            ]
            try:
                with torch.no_grad():
                    self._fuse_all(maps, note)
                break
            except RuntimeError:  # of other widths
                if scale is SCALES[-1]:
                    raise
        self.train(training)
        return low_widths, high_widths

    def _check_fusions(self, name: str, levels: Sequence[int]) -> None:
        """Refuse a level into which nothing is fused; ``name`` is the argument that lists the levels."""
        for level in levels:
            if level not in self.fusions:
                raise ValueError(
                    f'{name}={list(levels)} names level {level}, but this neck fuses into the levels {self.fusions} '
                    f'(in_channels={list(self.in_channels)})'
                )

    def init_weights(self) -> None:
        """The neck's start; then FINE's own, whatever that did to it, and PyTorch's for the 1x1 convolutions."""
        super().init_weights()
        for layer in self.fine_project.values():
            layer.reset_parameters()
        for part in (self.fine, *self.fine.values()):
            part._is_init = False  # whether or not the neck has started it: MMEngine would warn of a second time
        self.fine.init_weights()


@MODELS.register_module()
class FINEYOLOv5PAFPN(FINEYOLOMixin, YOLOv5PAFPN):
    """YOLOv5's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv5PAFPN``."""


@MODELS.register_module()
class FINEYOLOv6RepPAFPN(FINEYOLOMixin, YOLOv6RepPAFPN):
    """YOLOv6's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv6RepPAFPN``."""


@MODELS.register_module()
class FINEYOLOv6RepBiPAFPN(FINEYOLOMixin, YOLOv6RepBiPAFPN):
    """YOLOv6 3.0's neck with FINE: the level that BiFusion calls the current one is aligned.

    Its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv6RepBiPAFPN``.
    """


@MODELS.register_module()
class FINEYOLOv8PAFPN(FINEYOLOMixin, YOLOv8PAFPN):
    """YOLOv8's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv8PAFPN``."""


@MODELS.register_module()
class FINEYOLOv10PAFPN(FINEYOLOMixin, YOLOv10PAFPN):
    """YOLOv10's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of ``mmscale.YOLOv10PAFPN``."""


@MODELS.register_module()
class FINEYOLOv12PAFPN(FINEYOLOMixin, YOLOv12PAFPN):
    """YOLOv12's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of ``mmscale.YOLOv12PAFPN``."""
