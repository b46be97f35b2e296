"""Dynamic snake convolution and Linear-Snake convolution.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.3, eqs. 10 and 11, figs. 4 and 5; the snake is that of "Dynamic Snake Convolution" (Qi et al., ICCV 2023).

    x --+-- 3x3, tanh -- steps, summed up outward from the centre --+
        |                                                           v
        +------------ 1x9 along x, and 9x1 along y, taps shifted across ------- + --- snake branch --+
        |                                                                                            w --> y
        +------------ 1x9 along x, and 9x1 along y, straight ------------------ + --- linear branch -+

A tap c cells from the centre lies c cells along the axis, and across it the sum of the c steps in between, each from
-1 to 1: neighbouring taps are never more than one cell apart across the axis (the paper's continuity), and nine taps
stay within a 9x9 grid. Eqs. 10 and 11 print a further 1 at both coordinates, which moves every tap outward and would
tear the centre from its neighbours; a snake of nine taps in a 9x9 grid has no room for it, nor is it here.

Ours: the number of steps learned (one per tap but the centre), their 3x3 predictor, which starts at zero, hence
straight strips; the two axes are summed; the fusion weights are one pair per channel, a softmax.

Shape shorthand in this module:
    B: batch, C: channels, T: taps, H, W: size of the map
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmcv.ops.deform_conv import deform_conv2d
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmscale.layers import full_precision, init_as_torch
from mmscale.options import check_options
from mmscale.registry import MODELS

__all__ = [
    'DSConv',
    'LSConv',
    'SnakeBottleneck',
    'SnakeNeck',
    'snake_by_kernel',
    'snake_by_sampling',
    'snake_offsets',
]


def snake_offsets(steps: Tensor) -> Tensor:
    """Sum the steps up outward from the centre: how far each tap lies across the axis, eqs. 10 and 11.

    Args:
        steps (Tensor): ``(B, T - 1, H, W)``, for every tap but the centre the step from its inner neighbour.

    Returns:
        Tensor: ``(B, T, H, W)``, 0 at the centre.

    Example:
        >>> snake_offsets(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)).flatten()
        tensor([3., 2., 0., 3., 7.])
    """
    steps = steps.unbind(1)
    half = len(steps) // 2
    before, after = accumulate(reversed(steps[:half])), accumulate(steps[half:])  # cumsum is not deterministic on GPUs
    return torch.stack((*reversed(list(before)), torch.zeros_like(steps[0]), *after), dim=1)


def snake_by_kernel(x: Tensor, offsets: Tensor, weight: Tensor, axis: str, groups: int = 1) -> Tensor:
    """A snake through MMCV's deformable convolution, whose offsets are (row, column) for every tap.

    Args:
        x (Tensor): ``(B, C, H, W)``.
        offsets (Tensor): ``(B, T, H, W)``, in cells, across the axis.
        weight (Tensor): ``(O, C / groups, T)``.
        axis (str): Along which the taps lie, ``'x'`` or ``'y'``.
        groups (int): Groups of the convolution. Defaults to 1.

    Returns:
        Tensor: ``(B, O, H, W)``; samples outside of the map are 0. MMCV refuses a map that is shorter than the kernel
        along the axis.
    """
    along = torch.zeros_like(offsets)
    pairs = (offsets, along) if axis == 'x' else (along, offsets)
    half = weight.shape[-1] // 2
    padding = (0, half) if axis == 'x' else (half, 0)
    weight = weight[:, :, None, :] if axis == 'x' else weight[:, :, :, None]
    step = math.gcd(len(x), 32)  # images per call of the kernel, which must divide the batch
    offsets = torch.stack(pairs, dim=2).flatten(1, 2)
    return deform_conv2d(x.contiguous(), offsets, weight.contiguous(), 1, padding, 1, groups, 1, False, step)


def snake_by_sampling(x: Tensor, offsets: Tensor, weight: Tensor, axis: str, groups: int = 1) -> Tensor:
    """:func:`snake_by_kernel` by ``grid_sample`` and a product: what a graph can hold, and what is faster on a CPU."""
    height, width = x.shape[-2:]
    taps = weight.shape[-1]
    reach = torch.arange(-(taps // 2), taps // 2 + 1, device=x.device, dtype=x.dtype).view(taps, 1, 1)
    rows = torch.arange(height, device=x.device, dtype=x.dtype).view(1, height, 1)
    columns = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, width)
    if axis == 'x':
        rows, columns = rows + offsets, (columns + reach).expand_as(offsets)
    else:
        rows, columns = (rows + reach).expand_as(offsets), columns + offsets
    grid = torch.stack(((2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1), dim=-1)  # (B, T, H, W, 2)
    sampled = F.grid_sample(x, grid.flatten(1, 2), align_corners=False)  # (B, C, T * H, W)
    sampled = sampled.view(x.shape[0], -1, height, width)  # (B, C * T, H, W)
    return F.conv2d(sampled, weight.flatten(1)[:, :, None, None], groups=groups)


@MODELS.register_module()
class DSConv(BaseModule):
    """Dynamic snake convolution along x and along y, summed; the map keeps its shape.

    Args:
        channels (int): C.
        kernel_size (int): T, odd. Defaults to 9, the paper's.
        axes (Sequence[str]): Of ``'x'`` and ``'y'``. Defaults to both.
        groups (int): Groups of the convolutions. Defaults to 1.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: PyTorch's own,
            with all steps zero.

    Raises:
        ValueError: If ``kernel_size`` is even or below 3, ``axes`` names no axis or another, or ``groups`` does not
            divide ``channels``.

    Example:
        >>> DSConv(8)(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 9,
        axes: Sequence[str] = ('x', 'y'),
        groups: int = 1,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} of a snake must be odd and at least 3')
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= {'x', 'y'}:
            raise ValueError(f"axes={axes!r} of a snake must be of 'x' and 'y'")
        if groups < 1 or channels % groups:
            raise ValueError(f'channels={channels} of a snake must be a multiple of groups={groups}')
        self.channels = channels
        self.kernel_size = kernel_size
        self.axes = tuple(axes)
        self.groups = groups
        self.steps = nn.Conv2d(channels, (kernel_size - 1) * len(axes), 3, padding=1)
        self.convs = nn.ModuleDict({axis: Strip(channels, kernel_size, axis, groups) for axis in self.axes})
        self._straighten()

    def init_weights(self) -> None:
        """PyTorch's own; the steps start at zero, so that the snakes start as straight strips."""
        init_as_torch(self)
        self._straighten()
        super().init_weights()

    def _straighten(self) -> None:
        nn.init.zeros_(self.steps.weight)
        nn.init.zeros_(self.steps.bias)

    def offsets(self, x: Tensor) -> list[Tensor]:
        """Where the taps of every axis lie across it, ``(B, T, H, W)`` in cells, at most T // 2."""
        with full_precision(x):
            steps = self.steps(x.float()).tanh()
        return [snake_offsets(each) for each in steps.chunk(len(self.axes), dim=1)]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        offsets = zip(self.axes, self.offsets(x), strict=True)
        with full_precision(x):
            snakes = [
                self._form(x, axis)(x.float(), off, self.convs[axis].taps.float(), axis, self.groups)
                for axis, off in offsets
            ]
            return sum(snakes).to(x.dtype)

    def _form(self, x: Tensor, axis: str) -> Callable[..., Tensor]:
        """MMCV's kernel on GPUs, where it takes the map and no graph is made; sampling elsewhere."""
        as_a_graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if not x.is_cuda or as_a_graph or x.shape[-1 if axis == 'x' else -2] < self.kernel_size:
            return snake_by_sampling
        return snake_by_kernel


@MODELS.register_module()
class LSConv(DSConv):
    """Linear-Snake convolution: a snake branch and a branch of straight strips, fused with learned weights.

    Args:
        channels (int): C.
        kernel_size (int): T, odd. Defaults to 9, the paper's.
        axes (Sequence[str]): Of ``'x'`` and ``'y'``. Defaults to both.
        groups (int): Groups of the convolutions. Defaults to 1.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: as ``DSConv``'s,
            with equal weights for both branches.

    Raises:
        ValueError: As ``DSConv``.

    Example:
        >>> LSConv(8)(torch.rand(2, 8, 5, 7)).shape
        torch.Size([2, 8, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 9,
        axes: Sequence[str] = ('x', 'y'),
        groups: int = 1,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(channels, kernel_size, axes, groups, init_cfg)
        self.strips = nn.ModuleDict({axis: Strip(channels, kernel_size, axis, groups) for axis in self.axes})
        self.fusion = nn.Parameter(torch.zeros(2, channels, 1, 1))

    def init_weights(self) -> None:
        """As ``DSConv``'s; both branches count alike."""
        nn.init.zeros_(self.fusion)
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        snake, linear = self.fusion.softmax(dim=0).to(x.dtype)
        return snake * super().forward(x) + linear * sum(strip(x) for strip in self.strips.values())


class Strip(nn.Conv1d):
    """The weights of T taps along one axis; called, it is the straight convolution of a map."""

    def __init__(self, channels: int, taps: int, axis: str, groups: int) -> None:
        super().__init__(channels, channels, taps, groups=groups, bias=False)
        self.axis = axis

    @property
    def taps(self) -> Tensor:
        """``(C, C / groups, T)``."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        half = self.kernel_size[0] // 2
        if self.axis == 'x':
            return F.conv2d(x, self.weight[:, :, None], padding=(0, half), groups=self.groups)
        return F.conv2d(x, self.weight[..., None], padding=(half, 0), groups=self.groups)


class SnakeBottleneck(BaseModule):
    """A snake in a residual bottleneck: 1x1 to a narrower width, the snake, 1x1 back (ours: the paper places none).

    Args:
        channels (int): C.
        conv (dict): ``mmscale.DSConv`` or ``mmscale.LSConv`` by its ``type``, with its options but ``channels``.
        width (int, optional): Channels that it works on. Defaults to None, C / 4.
        norm_cfg (dict, optional): Normalisation. Defaults to None, ``dict(type='BN')``.
        act_cfg (dict, optional): Activation. Defaults to None, ``dict(type='SiLU', inplace=True)``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: PyTorch's own,
            and the convolution's.

    Raises:
        ValueError: If ``conv`` has an unknown option or its ``type`` is missing, or ``width`` is below 1.

    Example:
        >>> SnakeBottleneck(32, dict(type='mmscale.LSConv'))(torch.rand(2, 32, 5, 7)).shape
        torch.Size([2, 32, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        conv: dict,
        width: int | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg, act_cfg = norm_cfg or dict(type='BN'), act_cfg or dict(type='SiLU', inplace=True)
        width = max(channels // 4, 1) if width is None else width
        if width < 1:
            raise ValueError(f'width={width} of a snake bottleneck must be at least 1')
        snake = _build_snake(conv, width)
        self.body = nn.Sequential(
            ConvModule(channels, width, 1, norm_cfg=norm_cfg, act_cfg=act_cfg),
            snake,
            build_norm_layer(norm_cfg, width)[1],
            build_activation_layer(act_cfg),
            ConvModule(width, channels, 1, norm_cfg=norm_cfg, act_cfg=None),
        )

    def init_weights(self) -> None:
        """PyTorch's own distributions, then the convolution's."""
        init_as_torch(self)
        self.body[1].init_weights()
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same."""
        return x + self.body(x)


@MODELS.register_module()
class SnakeNeck(BaseModule):
    """A snake bottleneck on every map, for any detector: put it in front of the neck, ``neck=[dict(...), dict(...)]``.

    Args:
        in_channels (Sequence[int]): C of every level.
        conv (dict, optional): As :class:`SnakeBottleneck`'s. Defaults to None, ``dict(type='mmscale.LSConv')``.
        width (int, optional): Channels that it works on. Defaults to None, a quarter of the level's.
        levels (Sequence[int], optional): Places in ``in_channels`` of the maps that get one. Defaults to None, all.
        norm_cfg (dict, optional): Normalisation. Defaults to None, ``dict(type='BN')``.
        act_cfg (dict, optional): Activation. Defaults to None, ``dict(type='SiLU', inplace=True)``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None.

    Raises:
        ValueError: If ``levels`` names a level that there is not, or ``conv`` has an unknown option.

    Example:
        >>> neck = SnakeNeck([8, 16], dict(type='mmscale.DSConv'), width=4)
        >>> [tuple(out.shape) for out in neck([torch.rand(1, 8, 6, 6), torch.rand(1, 16, 3, 3)])]
        [(1, 8, 6, 6), (1, 16, 3, 3)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        conv: dict | None = None,
        width: int | None = None,
        levels: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = self.out_channels = list(in_channels)
        self.levels = list(range(len(self.in_channels))) if levels is None else list(levels)
        for level in self.levels:
            if not 0 <= level < len(self.in_channels):
                raise ValueError(f'levels={self.levels} names level {level}, but in_channels={self.in_channels}')
        conv = conv or dict(type='mmscale.LSConv')
        self.blocks = ModuleList(
            [SnakeBottleneck(self.in_channels[level], conv, width, norm_cfg, act_cfg) for level in self.levels]
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map ``(B, C_i, H_i, W_i)`` per level to maps of the same shapes.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        widths = [x.shape[1] for x in inputs]
        if widths != self.in_channels:
            raise ValueError(f'the backbone gives maps with {widths} channels, but in_channels={self.in_channels}')
        maps = list(inputs)
        for level, block in zip(self.levels, self.blocks, strict=True):
            maps[level] = block(maps[level])
        return tuple(maps)


def _build_snake(options: dict, width: int) -> nn.Module:
    if 'type' not in options:
        raise ValueError(f"conv={options} must say its type, 'mmscale.DSConv' or 'mmscale.LSConv'")
    cls = MODELS.get(options['type']) if isinstance(options['type'], str) else options['type']
    if cls is not None:
        check_options('conv', cls, options, reserved=('channels',))
    if 'channels' in options:
        raise ValueError(f'conv.channels={options["channels"]} cannot be set: it is the width of the bottleneck')
    return MODELS.build({**options, 'channels': width})
