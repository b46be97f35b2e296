"""The necks of YOLOv10 and YOLOv12 in MMYOLO's form: YOLOv8's path, other blocks on it.

    P5 ---------------+----------------------------------- concat -- block --> 32
                      up                                      |
    P4 ------------ concat -- block --+------- concat -- block +- down
                                      up          |
    P3 ---------------------------- concat -- block +- down -------------------> 8

Papers: as :mod:`.backbones`.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.options import are_whole_numbers, check_options
from mmscale.registry import MODELS

from .api import BaseYOLONeck, make_divisible, make_round
from .attention import A2C2f
from .blocks import ACT, NORM, C2f, C2fCIB, C3k2, SCDown, conv

__all__ = ['CheckedNeckMixin', 'YOLOv10PAFPN', 'YOLOv12PAFPN', 'check_maps', 'check_three_maps', 'scaled_widths']


def check_three_maps(owner: str, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
    """Refuse widths of other maps than those of the strides 8, 16 and 32; ``owner`` is the neck's name."""
    if not are_whole_numbers(in_channels, count=3) or not are_whole_numbers(out_channels, count=3):
        raise ValueError(
            f'in_channels={in_channels!r} and out_channels={out_channels!r} of {owner} should both name the three maps '
            'of the strides 8, 16 and 32'
        )


def scaled_widths(channels: Iterable[int], widen_factor: float) -> list[int]:
    """Widths at a scale, as MMYOLO's networks round them: up to multiples of eight."""
    return [make_divisible(width, widen_factor) for width in channels]


def check_maps(neck: BaseYOLONeck, maps: Sequence[Tensor]) -> None:
    """Refuse maps of another number or of other widths than a neck was built for.

    Args:
        neck (BaseYOLONeck): With ``input_widths``, the list of its inputs' channels at its scale.
        maps (Sequence[Tensor]): ``(B, Ci, Hi, Wi)`` each.

    Raises:
        ValueError: If they differ.
    """
    name, widths = type(neck).__name__, neck.input_widths
    if len(maps) != len(widths):
        raise ValueError(f'{name} got {len(maps)} maps, but was built for {len(widths)}')
    if torch.jit.is_tracing():  # where a width is no number of Python's
        return
    got = [x.shape[1] for x in maps]
    if got != widths:
        raise ValueError(
            f'{name} got maps with {got} channels, but its in_channels at widen_factor={neck.widen_factor} are {widths}'
        )


class CheckedNeckMixin:
    """Before a neck of MMYOLO's in a class: it checks its maps, and ``train`` and ``eval`` return it."""

    def train(self, mode: bool = True) -> 'CheckedNeckMixin':
        """As MMYOLO's, which does not return itself: ``module.eval()(maps)`` would fail."""
        super().train(mode)
        return self

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fuse.

        Args:
            inputs (Sequence[Tensor]): ``(B, Ci, Hi, Wi)`` of the strides 8, 16 and 32.

        Returns:
            tuple[Tensor]: As many maps of the same sizes.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        check_maps(self, inputs)
        return super().forward(inputs)


class _YOLONeck(CheckedNeckMixin, BaseYOLONeck):
    """What both have in common: maps are taken as they are, upsampled to the nearest, and returned as they are."""

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        freeze_all: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        check_three_maps(type(self).__name__, in_channels, out_channels)
        super().__init__(
            in_channels,
            out_channels,
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            freeze_all=freeze_all,
            norm_cfg=norm_cfg or NORM,
            act_cfg=act_cfg or ACT,
            init_cfg=init_cfg,
        )
        self.input_widths = scaled_widths(in_channels, widen_factor)

    @property
    def layer_cfg(self) -> dict:
        """Normalisation and activation, for the blocks."""
        return dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def in_width(self, idx: int) -> int:
        """Channels of an input at this scale."""
        return make_divisible(self.in_channels[idx], self.widen_factor)

    def out_width(self, idx: int) -> int:
        """Channels of an output at this scale."""
        return make_divisible(self.out_channels[idx], self.widen_factor)

    def depth(self, blocks: int) -> int:
        """A block's depth at this scale."""
        return make_round(blocks, self.deepen_factor)

    def build_reduce_layer(self, idx: int) -> nn.Module:
        """None: the maps are concatenated as they are."""
        return nn.Identity()

    def build_upsample_layer(self, idx: int) -> nn.Module:
        """To the nearest, by two."""
        return nn.Upsample(scale_factor=2, mode='nearest')

    def build_downsample_layer(self, idx: int) -> nn.Module:
        """A 3x3 convolution of stride 2."""
        width = self.out_width(idx)
        return conv(width, width, 3, stride=2, **self.layer_cfg)

    def build_out_layer(self, idx: int) -> nn.Module:
        """None."""
        return nn.Identity()

    def top_down_widths(self, idx: int) -> tuple[int, int]:
        """Channels into and out of the block that fuses level ``idx`` into the one below."""
        high = self.in_width(idx) if idx == len(self.in_channels) - 1 else self.out_width(idx)
        return high + self.in_width(idx - 1), self.out_width(idx - 1)

    def bottom_up_widths(self, idx: int) -> tuple[int, int]:
        """Channels into and out of the block that fuses level ``idx`` into the one above."""
        top = len(self.in_channels) - 2
        above = self.in_width(idx + 1) if idx == top else self.out_width(idx + 1)
        return self.out_width(idx) + above, self.out_width(idx + 1)

    def init_weights(self) -> None:
        """PyTorch's own start for every layer (as in MMYOLO), then the blocks' own."""
        if self.init_cfg is None:
            init_as_torch(self)
        else:
            super().init_weights()


@MODELS.register_module()
class YOLOv10PAFPN(_YOLONeck):
    """YOLOv10's neck: YOLOv8's with SCDown to stride 32 and CIB in the deeper blocks.

    Args:
        in_channels (Sequence[int]): Channels of the maps of the strides 8, 16 and 32 before ``widen_factor``.
        out_channels (Sequence[int]): Channels of the outputs, likewise.
        cib (Sequence[str]): The blocks that are C2fCIB: ``'top_down_16'``, ``'bottom_up_16'``, ``'bottom_up_32'``. n
            and s have the last, m the last two, b, l and x all. Defaults to ('bottom_up_32',).
        large_kernel (bool): Whether these have large kernels, as in n and s. Defaults to False.
        deepen_factor (float): As the backbone's. Defaults to 1.0.
        widen_factor (float): As the backbone's. Defaults to 1.0.
        freeze_all (bool): As MMYOLO's. Defaults to False.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.
        init_cfg (dict or list[dict], optional): Defaults to None: PyTorch's own start.

    Raises:
        ValueError: If there are not three maps, ``cib`` names another block, or an option is unknown.
    """

    CIB_BLOCKS = ('top_down_16', 'bottom_up_16', 'bottom_up_32')

    def __init__(
        self, *args, cib: Sequence[str] = ('bottom_up_32',), large_kernel: bool = False, **kwargs
    ) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        if isinstance(cib, str) or not isinstance(cib, Sequence) or not all(isinstance(name, str) for name in cib):
            raise ValueError(f'cib={cib!r} of YOLOv10PAFPN should be a list; there is {list(self.CIB_BLOCKS)}')
        wrong = sorted(set(cib) - set(self.CIB_BLOCKS))
        if wrong:
            raise ValueError(f'cib={list(cib)} of YOLOv10PAFPN names {wrong[0]!r}; there is {list(self.CIB_BLOCKS)}')
        self.cib = tuple(cib)
        self.large_kernel = large_kernel
        super().__init__(*args, **kwargs)

    def _block(self, name: str, widths: tuple[int, int]) -> nn.Module:
        if name in self.cib:
            return C2fCIB(*widths, self.depth(3), large_kernel=self.large_kernel, **self.layer_cfg)
        return C2f(*widths, self.depth(3), **self.layer_cfg)

    def build_top_down_layer(self, idx: int) -> nn.Module:
        """C2f or C2fCIB at stride 16 (``idx`` 2), C2f at stride 8."""
        return self._block(f'top_down_{8 * 2 ** (idx - 1)}', self.top_down_widths(idx))

    def build_downsample_layer(self, idx: int) -> nn.Module:
        """A convolution of stride 2 to stride 16, SCDown to stride 32."""
        width = self.out_width(idx)
        return SCDown(width, width, **self.layer_cfg) if idx == 1 else super().build_downsample_layer(idx)

    def build_bottom_up_layer(self, idx: int) -> nn.Module:
        """C2f or C2fCIB."""
        return self._block(f'bottom_up_{16 * 2**idx}', self.bottom_up_widths(idx))


@MODELS.register_module()
class YOLOv12PAFPN(_YOLONeck):
    """YOLOv12's neck: R-ELAN with C3k blocks, and C3k2 at stride 32.

    Args:
        in_channels (Sequence[int]): Channels of the maps of the strides 8, 16 and 32 before ``widen_factor``.
        out_channels (Sequence[int]): Channels of the outputs, likewise.
        deepen_factor (float): As the backbone's. Defaults to 1.0.
        widen_factor (float): As the backbone's. Defaults to 1.0.
        freeze_all (bool): As MMYOLO's. Defaults to False.
        norm_cfg (dict, optional): Defaults to None: batch norm with momentum 0.03 and epsilon 0.001.
        act_cfg (dict, optional): Defaults to None: SiLU.
        init_cfg (dict or list[dict], optional): Defaults to None: PyTorch's own start.

    Raises:
        ValueError: If there are not three maps, or an option is unknown.
    """

    def __init__(self, *args, **kwargs) -> None:
        check_options(type(self).__name__, type(self), kwargs)
        super().__init__(*args, **kwargs)

    def build_top_down_layer(self, idx: int) -> nn.Module:
        """A2C2f without attention."""
        return A2C2f(*self.top_down_widths(idx), self.depth(2), **self.layer_cfg)

    def build_bottom_up_layer(self, idx: int) -> nn.Module:
        """A2C2f without attention at stride 16, C3k2 of C3k blocks at stride 32."""
        widths = self.bottom_up_widths(idx)
        if idx == 0:
            return A2C2f(*widths, self.depth(2), **self.layer_cfg)
        return C3k2(*widths, self.depth(2), c3k=True, **self.layer_cfg)
