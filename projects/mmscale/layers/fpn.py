"""MMDetection's FPN in steps, for the methods that change one of them.

    C5 --+-------------+--> L5 ---------------------> F5 -- 3x3 --> P5 -- extra levels --> P6 ...
         |             |                |
    C4 --+-- laterals -+--> L4 -- fuse -+-----------> F4 -- 3x3 --> P4
         |             |                |
    C3 --+-------------+--> L3 -- fuse -+-----------> F3 -- 3x3 --> P3

A method overrides :meth:`TopDownFPN._laterals` (what becomes of the backbone's maps before the fusions),
:meth:`TopDownFPN._fuse` (one fusion), or both.
"""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import Tensor

from mmscale.options import check_options, options_of

__all__ = ['TopDownFPN']


class TopDownFPN(FPN):
    """MMDetection's FPN: same arguments, same weights, same outputs; a wrong argument is one sentence.

    A level is named by its place in ``in_channels``: with a ResNet's four stages, 0 to 3 have the strides 4 to 32
    whatever ``start_level`` is.

    Args:
        *args: As MMDetection's ``FPN``.
        **kwargs: As MMDetection's ``FPN``.

    Raises:
        ValueError: If an argument is unknown or missing, or the levels do not fit ``in_channels`` and ``num_outs``.

    Example:
        >>> import torch
        >>> neck = TopDownFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=4)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8), (1, 32, 4, 4)]
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(**_checked_arguments(type(self), args, kwargs))

    @property
    def levels(self) -> list[int]:
        """The levels in use, finest first."""
        return list(range(self.start_level, self.backbone_end_level))

    @property
    def fusions(self) -> list[int]:
        """The low level of every fusion, finest first."""
        return self.levels[:-1]

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fuse the backbone's maps.

        Args:
            inputs (Sequence[Tensor]): One map per entry of ``in_channels``, ``(B, in_channels[i], H_i, W_i)``, finest
            first.

        Returns:
            tuple[Tensor]: ``num_outs`` maps ``(B, out_channels, H, W)``, finest first.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        widths = [x.shape[1] for x in inputs]
        if widths != self.in_channels:
            raise ValueError(f'the backbone gives maps with {widths} channels, but in_channels={self.in_channels}')
        top = self.levels[-1]
        fused = self._laterals(inputs)
        for level in reversed(self.fusions):
            fused[level] = self._fuse(level, fused[level], fused[level + 1])
        outs = [conv(fused[level]) for level, conv in zip(self.levels, self.fpn_convs)]  # noqa: B905 (extra convs follow)
        outs.extend(self._extra_levels(inputs[top], fused[top], outs[-1]))
        return tuple(outs)

    def _laterals(self, inputs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The maps that are fused, ``(B, out_channels, H, W)`` by level: one 1x1 convolution each."""
        return {level: conv(inputs[level]) for level, conv in zip(self.levels, self.lateral_convs, strict=True)}

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """One fusion: the lateral map of ``level`` and the fused map above it, here their sum at the low one's size."""
        return low + self._upsample(high, low)

    def _upsample(self, high: Tensor, low: Tensor) -> Tensor:
        """The high level at the low one's size, as ``upsample_cfg`` says."""
        size = {} if 'scale_factor' in self.upsample_cfg else {'size': low.shape[-2:]}
        return F.interpolate(high, **size, **self.upsample_cfg)

    def _extra_levels(self, top_input: Tensor, top_lateral: Tensor, top_out: Tensor) -> list[Tensor]:
        """Levels above the top one: strided convolutions, or subsampling without ``add_extra_convs``."""
        count = len(self.levels)
        if not self.add_extra_convs:
            outs = [top_out]
            for _ in range(self.num_outs - count):
                outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
            return outs[1:]
        x = {'on_input': top_input, 'on_lateral': top_lateral, 'on_output': top_out}[self.add_extra_convs]
        outs = []
        for i, conv in enumerate(self.fpn_convs[count:]):
            x = conv(F.relu(x) if i and self.relu_before_extra_convs else x)
            outs.append(x)
        return outs

    def _check_fusions(self, name: str, levels: Iterable[int]) -> None:
        """Refuse a level into which nothing is fused; ``name`` is the argument that lists the levels."""
        for level in levels:
            if level not in self.fusions:
                raise ValueError(
                    f'{name}={list(levels)} names level {level}, but this FPN fuses into the levels '
                    f'{self.fusions} (in_channels={self.in_channels}, start_level={self.start_level})'
                )


def _checked_arguments(cls: type, args: tuple, kwargs: dict) -> dict:
    """FPN's arguments by name; a sentence for what FPN only asserts or what Python would report without a remedy."""
    names, _ = options_of(FPN)
    if len(args) > len(names):
        raise ValueError(f'{cls.__name__} takes {len(names)} positional arguments, those of FPN, but got {len(args)}')
    arguments = dict(zip(names, args)) | kwargs  # noqa: B905 (trailing ones come by keyword or default)
    check_options(cls.__name__, cls, arguments)
    missing = [name for name in ('in_channels', 'out_channels', 'num_outs') if name not in arguments]
    if missing:
        raise ValueError(f'{cls.__name__} needs {", ".join(missing)}')
    arguments['in_channels'] = list(arguments['in_channels'])
    count, num_outs = len(arguments['in_channels']), arguments['num_outs']
    start, end = arguments.get('start_level', 0), arguments.get('end_level', -1)
    last = count - 1 if end == -1 else end
    if not 0 <= start < last <= count - 1:
        raise ValueError(
            f'start_level={start} and end_level={end} do not leave two levels to fuse: in_channels has the '
            f'levels 0 to {count - 1}'
        )
    levels = last - start + 1
    if num_outs < levels or (num_outs > levels and last < count - 1):
        raise ValueError(
            f'num_outs={num_outs} does not fit the {levels} levels from {start} to {last}: it must be '
            f'{levels}' + (' or more' if last == count - 1 else '')
        )
    sources = (True, False, 'on_input', 'on_lateral', 'on_output')
    if arguments.get('add_extra_convs', False) not in sources:
        raise ValueError(f'add_extra_convs={arguments["add_extra_convs"]!r} is none of {sources}')
    return arguments
