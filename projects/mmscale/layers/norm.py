"""A norm over the channels of every position.

Paper: "Root Mean Square Layer Normalization" (Zhang and Sennrich, NeurIPS 2019), eq. 4, on maps.
"""

import torch
from torch import Tensor, nn

__all__ = ['RMSNorm2d']


class RMSNorm2d(nn.Module):
    """Every position's channels over the root of their mean square, times a weight per channel.

    Args:
        channels (int): C.
        eps (float): Added to the mean square. Defaults to 1e-6.

    Example:
        >>> norm = RMSNorm2d(2)
        >>> norm(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).detach().flatten()
        tensor([0.8485, 1.1314])
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def reset_parameters(self) -> None:
        """A weight of one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same, at the precision that comes: squares need more than half."""
        scale = (x.square().mean(dim=1, keepdim=True) + self.eps).rsqrt()
        return x * scale * self.weight[:, None, None]
