"""Alignment-Aware Token Sampling (AATS) of FINE.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", section 4.2, eq. 4; operators: appendix B,
table 6.

Our choices, where the paper assumes sizes that the kernel divides:

- A ragged edge (800x1333 images give them) is sampled over its valid pixels only; no zero is invented.
- The learned operator starts as the average, so that the three operators begin at comparable tokens.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of a feature map, k: sampling kernel (and stride)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['DOWN_OPERATORS', 'build_down', 'has_whole_blocks']


class AvgDown(nn.Module):
    """Average pooling over non-overlapping ``k x k`` regions, the paper's default.

    Args:
        channels (int): C. Unused by a pooling; part of the interface that all operators share.
        kernel (int): k.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, ceil(H / k), ceil(W / k))``."""
        if self.kernel == 1:
            return x
        if x.is_cpu and x.dtype is torch.float32 and has_whole_blocks(x, self.kernel):
            return _average_blocks(x, self.kernel)
        return F.avg_pool2d(x, self.kernel, ceil_mode=True, count_include_pad=False)

    def extra_repr(self) -> str:
        return f'kernel={self.kernel}'


def has_whole_blocks(x: Tensor, kernel: int) -> bool:
    """Whether a map, ``(B, C, H, W)``, can be viewed as blocks of ``kernel x kernel`` pixels: nothing ragged, the usual
    memory layout, and no graph being recorded that shall serve other sizes."""
    recording = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return not recording and x.shape[2] % kernel == 0 and x.shape[3] % kernel == 0 and x.is_contiguous()


def _average_blocks(x: Tensor, kernel: int) -> Tensor:
    """Average pooling of whole blocks: first whole rows are added, which a CPU does several pixels at a time. PyTorch's
    pooling adds pixel by pixel there, up to five times as slow."""
    first, *others = x.unflatten(2, (-1, kernel)).unbind(3)
    first, *others = sum(others, first).unflatten(3, (-1, kernel)).unbind(4)
    return sum(others, first) / kernel**2


class MaxDown(AvgDown):
    """Maximum over non-overlapping ``k x k`` regions."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, ceil(H / k), ceil(W / k))``."""
        if self.kernel == 1:
            return x
        return F.max_pool2d(x, self.kernel, ceil_mode=True)


class DepthwiseConvDown(nn.Module):
    """Depthwise convolution with kernel and stride ``k``, without bias: ``k * k * C`` weights.

    Table 6 prints +6.14 K weights and 2.46 M MACs for two FINE modules, which is kernel = stride, no bias, no
    normalisation. With ``k = 1`` there is nothing to sample and the operator has no weights, by the same figures. At
    a ragged edge the response is divided by the share of the kernel that lies on the map, as in partial convolution.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv2d(channels, channels, kernel, kernel, groups=channels, bias=False) if kernel > 1 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the average over the region (our choice)."""
        if self.conv is not None:
            nn.init.constant_(self.conv.weight, 1 / self.kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, ceil(H / k), ceil(W / k))``."""
        if self.conv is None:
            return x
        k = self.kernel
        height, width = x.shape[-2:]
        pad_h, pad_w = -height % k, -width % k
        if not (pad_h or pad_w or torch.jit.is_tracing()):  # a traced graph serves other sizes, too
            return self.conv(x)
        tokens = self.conv(F.pad(x, (0, pad_w, 0, pad_h)))
        return tokens / (_valid_share(height, k, x)[:, None] * _valid_share(width, k, x))


def _valid_share(length: int, kernel: int, like: Tensor) -> Tensor:
    """Share of each kernel position that lies on an axis of ``length`` pixels: all 1 but the last."""
    starts = torch.arange(0, length, kernel, device=like.device)
    return (length - starts).clamp(max=kernel).to(like.dtype) / kernel


DOWN_OPERATORS = {'avg': AvgDown, 'max': MaxDown, 'dwconv': DepthwiseConvDown}


def build_down(name: str, channels: int, kernel: int) -> nn.Module:
    """The sampling operator ``Down(., kernel)`` of eq. 4.

    Args:
        name (str): Which operator of table 6:

            - ``'avg'``: average pooling, the paper's default;
            - ``'max'``: max pooling;
            - ``'dwconv'``: depthwise convolution.
        channels (int): C.
        kernel (int): k, also the stride.

    Returns:
        nn.Module: Maps ``(B, C, H, W)`` to ``(B, C, ceil(H / k), ceil(W / k))``.

    Raises:
        ValueError: If there is no operator of that name.

    Example:
        >>> import torch
        >>> build_down('avg', channels=8, kernel=4)(torch.rand(1, 8, 10, 16)).shape
        torch.Size([1, 8, 3, 4])
    """
    if name not in DOWN_OPERATORS:
        raise ValueError(f'down={name!r} is no sampling operator of FINE; choose one of {sorted(DOWN_OPERATORS)}')
    return DOWN_OPERATORS[name](channels, kernel)
