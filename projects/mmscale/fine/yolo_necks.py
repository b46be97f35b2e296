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

(with :class:`FINEYOLOv6RepBiPAFPN` in the mixin's place for a child of MMYOLO's ``YOLOv6RepBiPAFPN``). What rounds
widths in a way of its own says them in :meth:`FINEYOLOMixin.told_widths`.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from mmengine.model import ModuleDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mmscale.options import are_whole_numbers, check_options
from mmscale.registry import MODELS
from mmscale.yolo.api import (
    YOLOv5PAFPN,
    YOLOv6RepBiPAFPN,
    YOLOv6RepPAFPN,
    YOLOv8PAFPN,
)
from mmscale.yolo.necks import CheckedNeckMixin, YOLOv10PAFPN, YOLOv12PAFPN, check_maps, scaled_widths

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


class _WidthError(Exception):
    """A layer gets a map of another width than it has weights for."""


@contextmanager
def _widths_checked(neck: nn.Module):
    """In it, a convolution or a norm of the neck raises :class:`_WidthError` if it gets another width than its own."""

    def check(layer: nn.Module, args: tuple) -> None:
        width, got = widths[layer], args[0].shape[1]
        if got != width:
            raise _WidthError(f"its layer '{names[layer]}' has weights for {width} channels, but gets {got}")

    names = {layer: name for name, layer in neck.named_modules()}
    widths = {layer: getattr(layer, 'in_channels', None) or getattr(layer, 'num_features', None) for layer in names}
    hooks = [layer.register_forward_pre_hook(check) for layer in names if isinstance(layer, (_ConvNd, _NormBase))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cut_widths(channels: Sequence[int], widen_factor: float) -> list[int]:
    """Widths at a scale as YOLOv6's necks round them, which is down."""
    return [int(width * widen_factor) for width in channels]


class FINEYOLOMixin(CheckedNeckMixin):
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
        ValueError: If a level does not exist, lists differ in length, widths do not fit together, or an option is
            unknown.
    """

    EXTRA_MAPS = 0  # finer ones that come in without an output of their own

    def __init__(
        self,
        *args,
        fine: dict | None = None,
        fine_levels: Sequence[int] | None = None,
        fine_kernels: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        given = dict(zip(('in_channels', 'out_channels'), args, strict=False)) | kwargs
        self._check_lists(given)
        with DefaultScope.overwrite_default_scope('mmyolo'):  # YOLOv6's necks name their blocks without it
            super().__init__(*args, **kwargs)
        self.fusions = list(range(len(self.in_channels) - 1))
        low, high = self._fused_widths(given)
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
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        check_maps(self, inputs)
        return self._fuse_all(inputs, self._align)

    def _align(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """F_low_aligned of eq. 3."""
        key = str(level)
        if key not in self.fine:
            return low
        if key in self.fine_project:
            high = self.fine_project[key](high)
        return self.fine[key](low, high)

    def _fuse_all(self, inputs: Sequence[Tensor], align: Callable[[int, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        below, inputs = inputs[: self.EXTRA_MAPS], inputs[self.EXTRA_MAPS :]
        maps = [reduce(x) for reduce, x in zip(self.reduce_layers, inputs, strict=True)]
        for step, level in enumerate(reversed(self.fusions)):
            low = align(level, maps[level], maps[level + 1])
            fused = self._concatenate(step, low, maps[level + 1], [*below, *maps[:level]])
            maps[level] = self.top_down_layers[step](fused)
        outs = maps[:1]
        for level in self.fusions:
            down = self.downsample_layers[level](outs[-1])
            outs.append(self.bottom_up_layers[level](torch.cat([down, maps[level + 1]], dim=1)))
        return tuple(layer(x) for layer, x in zip(self.out_layers, outs, strict=True))

    def _concatenate(self, step: int, low: Tensor, high: Tensor, unfused: Sequence[Tensor]) -> Tensor:
        """The maps of a fusion as the neck puts them together; ``unfused`` are the ones below low, finest first."""
        up = self.upsample_layers[step](high)
        return torch.cat([up, low] if self.upsample_feats_cat_first else [low, up], dim=1)

    def _check_lists(self, given: dict) -> None:
        """Refuse widths that are no list, or of another number than the outputs; ``given`` holds the neck's options."""
        widths, outs = given.get('in_channels'), given.get('out_channels')
        if widths is not None and not are_whole_numbers(widths):
            raise ValueError(f'in_channels={widths!r} of {type(self).__name__} should be a list of widths')
        if isinstance(outs, Sequence) and widths is not None and len(outs) != len(widths) - self.EXTRA_MAPS:
            raise ValueError(
                f'out_channels={outs} of {type(self).__name__} should have {len(widths) - self.EXTRA_MAPS} widths for '
                f'in_channels={widths}'
            )

    def told_widths(self) -> list[int] | None:
        """Channels of the maps that come in, finest first; None for a neck that does not say them.

        MMScale's own necks say them: ``input_widths``. Where nothing does, they are the neck's ``in_channels`` if it
        has scaled these itself (YOLOX), and else found by trial.
        """
        return getattr(self, 'input_widths', None)

    def _fused_widths(self, given: dict) -> tuple[dict[int, int], dict[int, int]]:
        """Channels of every fusion's low and high map: they differ by family, and a small input shows them.

        Args:
            given (dict): The options that the neck was built with.
        """
        name = type(self).__name__
        if any(layer is None for layers in (self.top_down_layers, self.bottom_up_layers) for layer in layers):
            raise ValueError(f'{name} has no blocks for {len(self.in_channels)} maps: in_channels={self.in_channels}')
        told = self.told_widths()
        if told is not None:
            trials = [told]
        elif list(self.in_channels) != list(given.get('in_channels', self.in_channels)):
            trials = [list(self.in_channels)]
        else:
            scale = self.in_channels, self.widen_factor
            trials = [scaled_widths(*scale), cut_widths(*scale), list(self.in_channels)]
        reason = None
        for widths in trials:
            try:
                found = self._try_widths(widths)
            except _WidthError as error:
                reason = reason or f'with maps of {widths} channels, {error}'
            except RuntimeError:
                if reason is None:  # the neck's own fault, not its widths'
                    raise
            else:
                self.input_widths = widths
                return found
        keys = ('in_channels', 'out_channels', 'widen_factor')
        said = ', '.join(f'{key}={given[key]}' for key in keys if key in given)
        raise ValueError(f'{said} of {name} do not fit together: {reason}')

    def _try_widths(self, widths: list[int]) -> tuple[dict[int, int], dict[int, int]]:
        """What :meth:`_fused_widths` returns, if maps of these widths pass the neck."""
        low_widths, high_widths = {}, {}

        def note(level: int, low: Tensor, high: Tensor) -> Tensor:
            low_widths[level], high_widths[level] = low.shape[1], high.shape[1]
            return low

        sides = [PROBE * 2**place for place in reversed(range(len(widths)))]
        training = self.training
        self.eval()
        with torch.no_grad(), _widths_checked(self):
            maps = [torch.zeros(1, width, side, side) for width, side in zip(widths, sides, strict=True)]
            self._fuse_all(maps, note)
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

    def told_widths(self) -> list[int]:
        """Up to multiples of eight."""
        return scaled_widths(self.in_channels, self.widen_factor)


@MODELS.register_module()
class FINEYOLOv6RepPAFPN(FINEYOLOMixin, YOLOv6RepPAFPN):
    """YOLOv6's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv6RepPAFPN``."""

    def told_widths(self) -> list[int]:
        """Rounded down."""
        return cut_widths(self.in_channels, self.widen_factor)


@MODELS.register_module()
class FINEYOLOv6RepBiPAFPN(FINEYOLOMixin, YOLOv6RepBiPAFPN):
    """YOLOv6 3.0's neck with FINE: the level that BiFusion calls the current one is aligned.

    Its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv6RepBiPAFPN``.
    """

    EXTRA_MAPS = 1

    def told_widths(self) -> list[int]:
        """Rounded down."""
        return cut_widths([self.extra_in_channel, *self.in_channels], self.widen_factor)

    def _concatenate(self, step: int, low: Tensor, high: Tensor, unfused: Sequence[Tensor]) -> Tensor:
        return self.upsample_layers[step]([high, low, unfused[-1]])


@MODELS.register_module()
class FINEYOLOv8PAFPN(FINEYOLOMixin, YOLOv8PAFPN):
    """YOLOv8's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of MMYOLO's ``YOLOv8PAFPN``."""

    def told_widths(self) -> list[int]:
        """Up to multiples of eight."""
        return scaled_widths(self.in_channels, self.widen_factor)


@MODELS.register_module()
class FINEYOLOv10PAFPN(FINEYOLOMixin, YOLOv10PAFPN):
    """YOLOv10's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of ``mmscale.YOLOv10PAFPN``."""


@MODELS.register_module()
class FINEYOLOv12PAFPN(FINEYOLOMixin, YOLOv12PAFPN):
    """YOLOv12's neck with FINE; its options are those of :class:`FINEYOLOMixin` and of ``mmscale.YOLOv12PAFPN``."""
