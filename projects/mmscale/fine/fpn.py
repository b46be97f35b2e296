"""FPN with FINE before its fusions.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", eq. 3, sections 5.3 and C.

    S5 -- 1x1 ---------------------------------> F5 -- 3x3 --> P5
                                       |
    S4 -- 1x1 --> FINE(., F5), k = 1 --+-- add -> F4 -- 3x3 --> P4
                                       |
    S3 -- 1x1 --> FINE(., F4), k = 2 --+-- add -> F3 -- 3x3 --> P3
                                       |
    S2 -- 1x1 -------------------------+-- add -> F2 -- 3x3 --> P2    (where the detector uses stride 4: fused plainly)

The paper gives k for the two upper fusions only, and its cost leaves no third module: a stride-4 level is fused
plainly.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.models.necks import FPN
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmscale.options import check_options, options_of
from mmscale.registry import MODELS

__all__ = ['FINEFPN']


@MODELS.register_module()
class FINEFPN(FPN):
    """MMDetection's FPN whose low levels are aligned by FINE before they are fused.

    Every argument of MMDetection's FPN works. A level is named by its place in ``in_channels``: with a ResNet's four
    stages, 0 to 3 have the strides 4 to 32 whatever ``start_level`` is.

    Args:
        *args: As MMDetection's ``FPN``.
        fine (dict, optional): Options of :class:`~mmscale.fine.FINE` for all its modules (``ratio``, ``num_heads``,
        ``down``,
            ``attention``, ``modulation``), or another aligning module by ``type``; it is built with ``channels`` and
            ``kernel`` and called with ``(low, high)``. Defaults to None, the paper's settings.
        fine_levels (Sequence[int], optional): The low levels to align. Defaults to the two below the top, the paper's.
        fine_kernels (Sequence[int], optional): k of each level in ``fine_levels``. Defaults to 1 below the top,
        doubled with
            every level further down (the paper's 1 and 2; the doubling beyond is our choice, it keeps the token grid).
        **kwargs: As MMDetection's ``FPN``.

    Raises:
        ValueError: If a level does not exist, lists differ in length, or an option is unknown.

    Example:
        >>> import torch
        >>> neck = FINEFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(
        self,
        *args,
        fine: dict | None = None,
        fine_levels: Sequence[int] | None = None,
        fine_kernels: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        arguments = _check_fpn_arguments(args, kwargs)
        super().__init__(**arguments)
        fusions = list(range(self.start_level, self.backbone_end_level - 1))  # low level of every fusion, bottom up
        if fine_levels is None:
            fine_levels = fusions[-2:]
        for level in fine_levels:
            if level not in fusions:
                raise ValueError(
                    f'fine_levels={list(fine_levels)} names level {level}, but this FPN fuses into the levels '
                    f'{fusions} (in_channels={self.in_channels}, start_level={self.start_level})'
                )
        if fine_kernels is None:
            fine_kernels = [2 ** (fusions[-1] - level) for level in fine_levels]
        if len(fine_kernels) != len(fine_levels) or len(set(fine_levels)) != len(fine_levels):
            raise ValueError(
                f'fine_kernels={list(fine_kernels)} must name one kernel for each of the distinct '
                f'fine_levels={list(fine_levels)}'
            )
        self.fine = ModuleDict(  # MMEngine's: it passes init_weights on
            {
                str(level): _build_align(fine, self.out_channels, kernel)
                for level, kernel in zip(fine_levels, fine_kernels, strict=True)
            }
        )

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
        levels = range(self.start_level, self.backbone_end_level)
        fused = {level: conv(inputs[level]) for level, conv in zip(levels, self.lateral_convs, strict=True)}  # eq. 1
        for level in reversed(levels[:-1]):
            fused[level] = self._fuse(level, fused[level], fused[level + 1])
        outs = [conv(fused[level]) for level, conv in zip(levels, self.fpn_convs)]  # noqa: B905 (extra convs follow)
        outs.extend(self._extra_levels(inputs[levels[-1]], fused[levels[-1]], outs[-1]))
        return tuple(outs)

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """Eq. 3 for one level: align the low level, upsample the high level as ``upsample_cfg`` says, add."""
        if str(level) in self.fine:
            low = self.fine[str(level)](low, high)
        size = {} if 'scale_factor' in self.upsample_cfg else {'size': low.shape[-2:]}
        return low + F.interpolate(high, **size, **self.upsample_cfg)

    def _extra_levels(self, top_input: Tensor, top_lateral: Tensor, top_out: Tensor) -> list[Tensor]:
        """Levels above the top one: strided convolutions, or subsampling without ``add_extra_convs``."""
        extra = self.num_outs - len(self.lateral_convs)
        if not self.add_extra_convs:
            outs = [top_out]
            for _ in range(extra):
                outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
            return outs[1:]
        x = {'on_input': top_input, 'on_lateral': top_lateral, 'on_output': top_out}[self.add_extra_convs]
        outs = []
        for i, conv in enumerate(self.fpn_convs[len(self.lateral_convs) :]):
            x = conv(F.relu(x) if i and self.relu_before_extra_convs else x)
            outs.append(x)
        return outs


def _check_fpn_arguments(args: tuple, kwargs: dict) -> dict:
    """FPN's arguments by name; a sentence for what FPN only asserts or what Python would report without a remedy."""
    names, _ = options_of(FPN)
    if len(args) > len(names):
        raise ValueError(f'FINEFPN takes {len(names)} positional arguments, those of FPN, but got {len(args)}')
    arguments = dict(zip(names, args)) | kwargs  # noqa: B905 (trailing ones come by keyword or default)
    check_options('FINEFPN', FINEFPN, arguments)
    missing = [name for name in ('in_channels', 'out_channels', 'num_outs') if name not in arguments]
    if missing:
        raise ValueError(f'FINEFPN needs {", ".join(missing)}')
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


def _build_align(options: dict | None, channels: int, kernel: int) -> nn.Module:
    """An aligning module of ``channels`` and ``kernel`` from the config's options."""
    options = {'type': 'mmscale.FINE', **(options or {})}
    if options.get('channels', channels) != channels:
        raise ValueError(f'fine.channels={options["channels"]} does not match out_channels={channels} of the neck')
    if 'kernel' in options:
        raise ValueError(
            f'fine.kernel={options["kernel"]} is set per level: use fine_kernels, one kernel per fine_level'
        )
    module_type = options['type']
    cls = MODELS.get(module_type) if isinstance(module_type, str) else module_type
    if cls is not None:
        check_options('fine', cls, options, reserved=('channels', 'kernel'))
    return MODELS.build({**options, 'channels': channels, 'kernel': kernel})
