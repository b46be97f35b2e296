"""The blocks of YOLOv10 and YOLOv12, and C2f, which both start from. None of them needs MMYOLO.

Papers: "YOLOv10: Real-Time End-to-End Object Detection" (Wang et al., NeurIPS 2024): SCDown (section 3.2, "Spatial-
channel decoupled downsampling"), CIB (fig. 3b), large kernels and PSA (fig. 3c). "YOLOv12: Attention-Centric Real-Time
Object Detectors" (Tian, Ye and Doermann, NeurIPS 2025): area attention (section 3.2, fig. 2) and R-ELAN (section 3.3,
fig. 3). C2f is YOLOv8's; C3k2, which YOLOv12 keeps in its early stages, YOLOv11's.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of a map, N = H W: positions, A: areas, h: heads
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_activation_layer
from torch import Tensor, nn

from mmscale.layers import fold_norm

__all__ = [
    'ACT',
    'C2f',
    'C2fCIB',
    'C3k',
    'C3k2',
    'CIB',
    'NORM',
    'PSA',
    'A2C2f',
    'AreaAttention',
    'AreaAttentionBlock',
    'Bottleneck',
    'LargeKernelConv',
    'SCDown',
    'SPPF',
    'conv',
]

NORM = dict(type='BN', momentum=0.03, eps=0.001)
ACT = dict(type='SiLU', inplace=True)


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
    norm_cfg: dict | None = None,
    act_cfg: dict | None = None,
) -> ConvModule:
    """Convolution, batch norm and SiLU, the one layer that all blocks are made of.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        kernel (int): Side of the kernel, padded so that a stride of 1 keeps the size. Defaults to 1.
        stride (int): Stride. Defaults to 1.
        groups (int): Groups of the convolution. Defaults to 1.
        act (bool): Whether the activation follows. Defaults to True.
        norm_cfg (dict, optional): Normalisation. Defaults to None: the YOLOs' batch norm.
        act_cfg (dict, optional): Activation. Defaults to None: SiLU.
    """
    return ConvModule(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        norm_cfg=norm_cfg or NORM,
        act_cfg=(act_cfg or ACT) if act else None,
    )


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, and the input added where it fits.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        shortcut (bool): Whether the input is added if C in equals C out. Defaults to True.
        expansion (float): Width between the convolutions over C out. Defaults to 0.5.
        kernels (tuple[int, int]): Sides of the kernels. Defaults to (3, 3).
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcut: bool = True,
        expansion: float = 0.5,
        kernels: tuple[int, int] = (3, 3),
        **layers,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = conv(in_channels, hidden, kernels[0], **layers)
        self.conv2 = conv(hidden, out_channels, kernels[1], **layers)
        self.shortcut = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        out = self.conv2(self.conv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """YOLOv8's stage: a map in two halves, blocks on the second, and every block's output kept for the last 1x1.

        x -- 1x1 --+-- half ------------------------------------+
                   +-- half --+---------------------------------+-- concat -- 1x1 -->
                              +-- block --+---------------------+
                                          +-- block --- ... ----+

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): Blocks. Defaults to 1.
        shortcut (bool): Whether blocks add their input. Defaults to False.
        expansion (float): Width of a half over C out. Defaults to 0.5.
        block (Callable, optional): Makes a block from its width. Defaults to None: a :class:`Bottleneck` of full width.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Example:
        >>> import torch
        >>> C2f(16, 32, num_blocks=2)(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        shortcut: bool = False,
        expansion: float = 0.5,
        block: Callable[[int], nn.Module] | None = None,
        **layers,
    ) -> None:
        super().__init__()
        width = int(out_channels * expansion)
        block = block or (lambda width: Bottleneck(width, width, shortcut, expansion=1.0, **layers))
        self.split = conv(in_channels, 2 * width, **layers)
        self.blocks = nn.ModuleList(block(width) for _ in range(num_blocks))
        self.fuse = conv((2 + num_blocks) * width, out_channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        maps = list(self.split(x).chunk(2, dim=1))
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return self.fuse(torch.cat(maps, dim=1))


class C3k(nn.Module):
    """A cross-stage partial block: bottlenecks of full width on one half, a 1x1 on the other.

    Args:
        channels (int): C, in and out.
        num_blocks (int): Bottlenecks. Defaults to 2.
        shortcut (bool): Whether they add their input. Defaults to True.
        kernel (int): Side of their kernels. Defaults to 3.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(self, channels: int, num_blocks: int = 2, shortcut: bool = True, kernel: int = 3, **layers) -> None:
        super().__init__()
        width = channels // 2
        self.deep = conv(channels, width, **layers)
        self.shallow = conv(channels, width, **layers)
        self.blocks = nn.Sequential(
            *(Bottleneck(width, width, shortcut, 1.0, (kernel, kernel), **layers) for _ in range(num_blocks))
        )
        self.fuse = conv(2 * width, channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        return self.fuse(torch.cat([self.blocks(self.deep(x)), self.shallow(x)], dim=1))


class C3k2(C2f):
    """C2f whose blocks are bottlenecks of half width, or :class:`C3k`.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): Blocks. Defaults to 1.
        c3k (bool): Whether the blocks are C3k. Defaults to False.
        expansion (float): As C2f's. Defaults to 0.5.
        shortcut (bool): Whether blocks add their input. Defaults to True.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        c3k: bool = False,
        expansion: float = 0.5,
        shortcut: bool = True,
        **layers,
    ) -> None:
        def block(width: int) -> nn.Module:
            if c3k:
                return C3k(width, 2, shortcut, **layers)
            return Bottleneck(width, width, shortcut, **layers)

        super().__init__(in_channels, out_channels, num_blocks, expansion=expansion, block=block, **layers)


class SPPF(nn.Module):
    """Spatial pyramid pooling by three max poolings in a row.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        kernel (int): Of the poolings. Defaults to 5.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5, **layers) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = conv(in_channels, hidden, **layers)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)
        self.fuse = conv(4 * hidden, out_channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.fuse(torch.cat(maps, dim=1))


class SCDown(nn.Module):
    """YOLOv10's downsampling: a 1x1 convolution for the channels, then a depthwise one of stride 2 for the space.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(self, in_channels: int, out_channels: int, **layers) -> None:
        super().__init__()
        self.pointwise = conv(in_channels, out_channels, **layers)
        self.depthwise = conv(out_channels, out_channels, 3, stride=2, groups=out_channels, act=False, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, ceil(H / 2), ceil(W / 2))``."""
        return self.depthwise(self.pointwise(x))


class LargeKernelConv(nn.Module):
    """A depthwise 7x7 and a depthwise 3x3 convolution side by side, one 7x7 for inference.

    Args:
        channels (int): C, in and out.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(self, channels: int, norm_cfg: dict | None = None, act_cfg: dict | None = None) -> None:
        super().__init__()
        self.large = conv(channels, channels, 7, groups=channels, act=False, norm_cfg=norm_cfg)
        self.small = conv(channels, channels, 3, groups=channels, act=False, norm_cfg=norm_cfg)
        self.act = build_activation_layer(act_cfg or ACT)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        return self.act(self.large(x) + self.small(x))

    def reparameterized(self) -> nn.Module:
        """The same function in evaluation mode by one depthwise 7x7 convolution with a bias."""
        kernel, bias = fold_norm(self.large.conv, self.large.norm)
        small, small_bias = fold_norm(self.small.conv, self.small.norm)
        folded = nn.Conv2d(len(kernel), len(kernel), 7, padding=3, groups=len(kernel)).to(kernel)
        folded.weight.data = kernel + F.pad(small, [2, 2, 2, 2])
        folded.bias.data = bias + small_bias
        return nn.Sequential(folded, self.act)


class CIB(nn.Module):
    """YOLOv10's compact inverted block: depthwise convolutions for the space, 1x1 for the channels (fig. 3b).

        x -+- dw 3x3 -- 1x1 to 2C -- dw 3x3 or large kernel -- 1x1 to C -- dw 3x3 -+- add -->
           +-----------------------------------------------------------------------+

    Args:
        channels (int): C, in and out.
        shortcut (bool): Whether the input is added. Defaults to True.
        large_kernel (bool): Whether the depthwise convolution in the middle is a :class:`LargeKernelConv`. Defaults to
            False.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(self, channels: int, shortcut: bool = True, large_kernel: bool = False, **layers) -> None:
        super().__init__()
        hidden = 2 * channels
        middle = partial(conv, hidden, kernel=3, groups=hidden) if not large_kernel else LargeKernelConv
        self.layers = nn.Sequential(
            conv(channels, channels, 3, groups=channels, **layers),
            conv(channels, hidden, **layers),
            middle(hidden, **layers),
            conv(hidden, channels, **layers),
            conv(channels, channels, 3, groups=channels, **layers),
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


class C2fCIB(C2f):
    """C2f with :class:`CIB` blocks.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): Blocks. Defaults to 1.
        shortcut (bool): Whether blocks add their input. Defaults to True.
        large_kernel (bool): As CIB's. Defaults to False.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        shortcut: bool = True,
        large_kernel: bool = False,
        **layers,
    ) -> None:
        block = partial(CIB, shortcut=shortcut, large_kernel=large_kernel, **layers)
        super().__init__(in_channels, out_channels, num_blocks, block=block, **layers)


class _MapAttention(nn.Module):
    """Self-attention over a map's positions whose values also pass a depthwise convolution: what PSA and areas share.

    Children make ``project(x)``, which returns queries, keys and values as maps with the heads' channels in order.
    """

    def __init__(self, channels: int, num_heads: int, position_kernel: int, areas: int = 1, **layers) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f'channels={channels} are not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        self.areas = areas
        self.position = conv(channels, channels, position_kernel, groups=channels, act=False, **layers)
        self.out = conv(channels, channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        height, width = x.shape[-2:]
        if self.areas > 1 and not torch.jit.is_tracing() and height * width % self.areas:
            raise ValueError(
                f'a map of {height}x{width} positions is not divided by areas={self.areas}: use images whose sides are '
                'multiples of 32'
            )
        queries, keys, values = self.project(x)
        mixed = F.scaled_dot_product_attention(*(self._tokens(part) for part in (queries, keys, values)))
        # (B A, h, N / A, d) back to (B, C, H, W)
        mixed = mixed.transpose(-1, -2).flatten(1, 2).unflatten(0, (-1, self.areas)).transpose(1, 2)
        mixed = mixed.reshape(x.shape)  # of the values, a traced graph would keep the numbers
        return self.out(mixed + self.position(values))

    def _tokens(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B A, h, N / A, C / h)``: heads of channels, areas of rows."""
        x = x.flatten(2).unflatten(2, (self.areas, -1)).transpose(1, 2).flatten(0, 1)
        return x.unflatten(1, (self.num_heads, -1)).transpose(-1, -2)


class AreaAttention(_MapAttention):
    """YOLOv12's area attention: the map's rows in A equal areas, attention within each (section 3.2, fig. 2).

    Args:
        channels (int): C, in and out.
        num_heads (int): Heads.
        areas (int): A; 1 attends over the whole map. Defaults to 1.
        position_kernel (int): Side of the depthwise convolution on the values ("position perceiver"). Defaults to 5,
            the released models'; the paper's text says 7.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Example:
        >>> import torch
        >>> AreaAttention(64, num_heads=2, areas=4)(torch.rand(1, 64, 8, 4)).shape
        torch.Size([1, 64, 8, 4])
    """

    def __init__(self, channels: int, num_heads: int, areas: int = 1, position_kernel: int = 5, **layers) -> None:
        super().__init__(channels, num_heads, position_kernel, areas, **layers)
        self.queries_keys = conv(channels, 2 * channels, act=False, **layers)
        self.values = conv(channels, channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(B, C, H, W)`` each."""
        return *self.queries_keys(x).chunk(2, dim=1), self.values(x)


class AreaAttentionBlock(nn.Module):
    """Area attention and a convolutional MLP, each added to its input.

    Args:
        channels (int): C, in and out.
        num_heads (int): Heads.
        areas (int): A of :class:`AreaAttention`. Defaults to 1.
        mlp_ratio (float): Hidden width of the MLP over C. Defaults to 2.0.
        position_kernel (int): As :class:`AreaAttention`'s. Defaults to 5.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        areas: int = 1,
        mlp_ratio: float = 2.0,
        position_kernel: int = 5,
        **layers,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.attention = AreaAttention(channels, num_heads, areas, position_kernel, **layers)
        self.mlp = nn.Sequential(conv(channels, hidden, **layers), conv(hidden, channels, act=False, **layers))

    def reset_parameters(self) -> None:
        """The released code's start: normal weights of standard deviation 0.02, cut at 2."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = x + self.attention(x)
        return x + self.mlp(x)


class A2C2f(nn.Module):
    """R-ELAN, YOLOv12's stage (section 3.3, fig. 3d): one narrow map, blocks in a row, every block's output kept.

        x -+- 1x1 --+------------------------------+-- concat -- 1x1 -- times gamma -+- add -->
           |        +-- block --+------------------+                                 |
           |                    +-- block -- ... --+                                 |
           +-------------------------- (residual) ----------------------------------+

    A block is two :class:`AreaAttentionBlock`, or a :class:`C3k` in the neck.

    Args:
        in_channels (int): C in.
        out_channels (int): C out.
        num_blocks (int): Blocks. Defaults to 1.
        areas (int, optional): A of the area attention. Defaults to None: C3k blocks.
        residual (bool): Whether the input is added, the stage's own map times gamma, which starts at 0.01. The paper
            has it in the large models only. Defaults to False.
        mlp_ratio (float): As :class:`AreaAttentionBlock`'s. Defaults to 2.0.
        position_kernel (int): As :class:`AreaAttention`'s. Defaults to 5.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Raises:
        ValueError: If half of C out is not a multiple of a head's 32 channels, or a residual does not fit.
    """

    HEAD_WIDTH = 32

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int = 1,
        areas: int | None = None,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        position_kernel: int = 5,
        **layers,
    ) -> None:
        super().__init__()
        width = out_channels // 2
        if areas is not None and width % self.HEAD_WIDTH:
            raise ValueError(f'out_channels={out_channels} of A2C2f must be a multiple of {2 * self.HEAD_WIDTH}')
        if residual and in_channels != out_channels:
            raise ValueError(f'in_channels={in_channels} must equal out_channels={out_channels} where A2C2f adds them')

        def block() -> nn.Module:
            if areas is None:
                return C3k(width, 2, **layers)
            pair = (
                AreaAttentionBlock(width, width // self.HEAD_WIDTH, areas, mlp_ratio, position_kernel, **layers)
                for _ in range(2)
            )
            return nn.Sequential(*pair)

        self.reduce = conv(in_channels, width, **layers)
        self.blocks = nn.ModuleList(block() for _ in range(num_blocks))
        self.fuse = conv((1 + num_blocks) * width, out_channels, **layers)
        self.gamma = nn.Parameter(torch.full((out_channels,), 0.01)) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C in, H, W)`` to ``(B, C out, H, W)``."""
        maps = [self.reduce(x)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        out = self.fuse(torch.cat(maps, dim=1))
        return out if self.gamma is None else x + self.gamma.view(-1, 1, 1) * out


class _PartialAttention(_MapAttention):
    """PSA's attention: queries and keys of half a head's width."""

    def __init__(self, channels: int, num_heads: int, **layers) -> None:
        super().__init__(channels, num_heads, position_kernel=3, **layers)
        self.widths = [channels // num_heads // 2, channels // num_heads // 2, channels // num_heads]
        self.queries_keys_values = conv(channels, 2 * channels, act=False, **layers)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys ``(B, C / 2, H, W)``, values ``(B, C, H, W)``; every head's three lie together."""
        heads = self.queries_keys_values(x).unflatten(1, (self.num_heads, -1)).split(self.widths, dim=2)
        return tuple(part.flatten(1, 2) for part in heads)


class PSA(nn.Module):
    """YOLOv10's partial self-attention (fig. 3c): attention and an MLP on half of the channels.

    Args:
        channels (int): C, in and out.
        num_heads (int, optional): Heads. Defaults to None: one for 64 of the C / 2 channels.
        **layers: ``norm_cfg`` and ``act_cfg`` of :func:`conv`.

    Raises:
        ValueError: If the C / 2 channels are not a multiple of the heads.
    """

    def __init__(self, channels: int, num_heads: int | None = None, **layers) -> None:
        super().__init__()
        width = channels // 2
        self.split = conv(channels, 2 * width, **layers)
        self.attention = _PartialAttention(width, num_heads or max(width // 64, 1), **layers)
        self.mlp = nn.Sequential(conv(width, 2 * width, **layers), conv(2 * width, width, act=False, **layers))
        self.fuse = conv(2 * width, channels, **layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        passive, active = self.split(x).chunk(2, dim=1)
        active = active + self.attention(active)
        active = active + self.mlp(active)
        return self.fuse(torch.cat([passive, active], dim=1))
