"""Feature fusion restoration, FFR: what was there before and after attention, as maps of the first shapes.

Paper: CFSAM (arXiv 2510.14726), section 3.3, eq. 5 and the lower part of fig. 2:
``R_i = Recover(Conv1x1(Concat(L, L')))``.

A 1x1 convolution of a sequence is a linear map of each token, and is written as such. How R ``(B, N, 256)`` becomes
maps of Ci channels the paper does not say ("sliced and reshaped"); one 1x1 convolution per level, 256 to Ci, is our
choice, and with it the whole detector has the paper's number of parameters to 0.1 %.

Shape shorthand in this module:
    B: batch, N: tokens of all levels, C: channels, Ci: channels of level i, Hi, Wi: size of level i
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ['Fusion', 'Recover']


class Fusion(nn.Linear):
    """``Conv1x1(Concat(L, L'))``: 2C to C channels.

    Args:
        channels (int): C.

    Example:
        >>> Fusion(8)(torch.rand(2, 34, 8), torch.rand(2, 34, 8)).shape
        torch.Size([2, 34, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """L and L', ``(B, N, C)`` each, to R ``(B, N, C)``."""
        return super().forward(torch.cat((before, after), dim=2))


class Recover(nn.ModuleList):
    """Slice, reshape, and a 1x1 convolution per level to its own width.

    Args:
        channels (int): C.
        out_channels (Sequence[int]): Ci of every level.

    Example:
        >>> recover = Recover(8, [16, 32])
        >>> [tuple(x.shape) for x in recover(torch.rand(2, 34, 8), [(5, 5), (3, 3)])]
        [(2, 16, 5, 5), (2, 32, 3, 3)]
    """

    def __init__(self, channels: int, out_channels: Sequence[int]) -> None:
        super().__init__(nn.Conv2d(channels, width, 1) for width in out_channels)

    def forward(self, tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """R ``(B, N, C)`` and every level's ``(Hi, Wi)`` to R1, R2, ... ``(B, Ci, Hi, Wi)``."""
        slices = tokens.transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        # not unflatten: an exported graph would keep the batch that it was traced with
        maps = [part.reshape(*part.shape[:2], *size) for part, size in zip(slices, sizes, strict=True)]
        return [conv(x) for conv, x in zip(self, maps, strict=True)]
