"""The convolutional blocks of YOLOv10 and YOLOv12, and C2f, which both start from. None of them needs MMYOLO.

Papers: "YOLOv10: Real-Time End-to-End Object Detection" (Wang et al., NeurIPS 2024): SCDown (section 3.2, "Spatial-
channel decoupled downsampling"), CIB (fig. 3b) and large kernels. C2f is YOLOv8's; C3k2, which YOLOv12 keeps in its
early stages, YOLOv11's. What attends is in :mod:`.attention`.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of a map
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
