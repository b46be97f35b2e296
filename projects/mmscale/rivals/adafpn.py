"""AdaFPN: sample the high level where the pixel's content lies, and weigh both levels at every pixel.

Paper: "Adaptive Feature Pyramid Networks for Object Detection" (Wang and Zhong, IEEE Access 2021): adaptive feature
upsampling (AdaUp) predicts a group of sampling points for each pixel and combines the features there; adaptive feature
fusion (AFF) makes weights for each pixel of both levels by attention, which replaces FPN's sum.

    F_high --+-- bilinear up -- cat -- 1x1, ReLU, 3x3 --> N offsets a pixel
             |                   |                              |
             +------ 1x1 --------|-----------------> sample at N points, mean --+-- weigh, add --> F_low
                                 |                                              |       ^
    C_low -- 1x1 ----------------+-----------------------------------+---- cat -+-- 3x3, 3x3, 3x3, 3x3, sigmoid

Of the paper's text only its abstract was at hand. The layers inside AdaUp and AFF, N = 4, the mean, the sigmoid and
the reduction to 1/16 are those with which FINE's table 2 was made (its authors' repository prints them), and so is the
place of the blocks: two of 2.02 M weights at the two upper fusions; a stride-4 level is fused plainly. Cost confirms
it: one more block would add 79 G multiply-adds to a Faster R-CNN at 800x800.

Ours: the points are offset from the pixel's centre (there from a grid that reaches from border to border, up to half a
pixel off), and start on a ring around it. With offsets that all start at zero the N points would have equal gradients
and stay one point for ever.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the low level, h, w: size of the high level, N: sampling points
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from mmscale.layers import TopDownFPN
from mmscale.registry import MODELS

__all__ = ['AdaFPN', 'AdaptiveFusion', 'AdaptiveUpsampling', 'sample_mean']


def sample_mean(values: Tensor, offsets: Tensor) -> Tensor:
    """The mean of N bilinear samples around the centre of every pixel of a finer grid.

    Args:
        values (Tensor): ``(B, C, h, w)``; beyond its border its outermost pixels continue.
        offsets (Tensor): ``(B, 2 * N, H, W)``, x and y of one point after the other, in pixels of the finer grid.

    Returns:
        Tensor: ``(B, C, H, W)``. Zero offsets make it ``F.interpolate(..., mode='bilinear', align_corners=False)``.

    Points are computed in single precision at least, whatever the maps have: bfloat16 rounds them by up to half a pixel
    on a map of 200.
    """
    height, width = offsets.shape[-2:]
    center_x = torch.arange(width, device=offsets.device) + 0.5
    center_y = (torch.arange(height, device=offsets.device) + 0.5)[:, None]
    exact, total = values.to(torch.promote_types(values.dtype, torch.float32)), 0
    points = offsets.to(exact.dtype).unflatten(1, (-1, 2)).unbind(1)
    for point in points:
        x, y = (point[:, 0] + center_x) * (2 / width) - 1, (point[:, 1] + center_y) * (2 / height) - 1
        grid = torch.stack((x, y), dim=-1).to(exact.dtype)  # an exported arange is double
        total = total + F.grid_sample(exact, grid, mode='bilinear', padding_mode='border', align_corners=False)
    return (total / len(points)).to(values.dtype)


class AdaptiveUpsampling(BaseModule):
    """AdaUp: the high level at the low one's size, every pixel the mean of N points that both levels choose.

    Args:
        channels (int): C, of both levels.
        points (int): N. Defaults to 4.
        radius (float): Of the ring on which the points start, in pixels of the low level. Defaults to 0.5.
    """

    def __init__(self, channels: int, points: int = 4, radius: float = 0.5) -> None:
        super().__init__()
        if not isinstance(points, int) or points < 1:
            raise ValueError(f'points={points!r} must be a whole number from 1')
        self.radius = radius
        self.guide = nn.Conv2d(2 * channels, channels, 1)
        self.offset = nn.Conv2d(channels, 2 * points, 3, padding=1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The same ring of points for every pixel; four of them start on its diagonals."""
        points = self.offset.out_channels // 2
        angles = torch.tensor([math.pi * (2 * n + 1) / points for n in range(points)])
        radius = self.radius if points > 1 else 0.0  # a single point starts at the centre
        ring = radius * torch.stack((angles.cos(), angles.sin()), dim=1)
        nn.init.zeros_(self.offset.weight)
        with torch.no_grad():
            self.offset.bias.copy_(ring.flatten())

    def init_weights(self) -> None:
        """The ring, whatever the neck's ``init_cfg`` did to convolutions."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Upsample ``high``, ``(B, C, h, w)``, to the size of ``low``, ``(B, C, H, W)``."""
        upsampled = F.interpolate(high, size=low.shape[-2:], mode='bilinear', align_corners=False)
        offsets = self.offset(F.relu(self.guide(torch.cat((upsampled, low), dim=1))))
        return sample_mean(self.value(high), offsets)


class AdaptiveFusion(nn.Module):
    """AFF: ``a * low + b * high`` with a and b between 0 and 1 for every pixel, from both levels.

    Args:
        channels (int): C, of both levels.
        reduction (int): C over the width of the layer before the weights. Defaults to 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if not isinstance(reduction, int) or not 1 <= reduction <= channels:
            raise ValueError(f'reduction={reduction!r} must be a whole number from 1 to out_channels={channels}')
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels // reduction, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, 2, 3, padding=1),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Fuse two maps ``(B, C, H, W)``."""
        of_high, of_low = self.layers(torch.cat((high, low), dim=1)).sigmoid().split(1, dim=1)
        return of_high * high + of_low * low


class AdaptiveBlock(BaseModule):
    """AdaUp, then AFF."""

    def __init__(self, channels: int, points: int, radius: float, reduction: int) -> None:
        super().__init__()
        self.upsample = AdaptiveUpsampling(channels, points, radius)
        self.fuse = AdaptiveFusion(channels, reduction)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return self.fuse(low, self.upsample(low, high))


@MODELS.register_module()
class AdaFPN(TopDownFPN):
    """Adaptive feature pyramid network: MMDetection's FPN with AdaUp and AFF for its fusions.

    Args:
        *args: As MMDetection's ``FPN``; ``upsample_cfg`` applies to the fusions that stay plain.
        adapt_levels (Sequence[int], optional): The low levels that are fused adaptively, by their place in
            ``in_channels``. Defaults to None, the two below the top.
        points (int): Sampling points of a pixel. Defaults to 4.
        radius (float): Of the ring around a pixel's centre on which its points start, in pixels of the low level; 0 is
            the start of FINE's authors. Defaults to 0.5.
        reduction (int): Reduction of the channels before AFF's weights. Defaults to 16.
        **kwargs: As MMDetection's ``FPN``.

    Raises:
        ValueError: If a level does not exist, an option is out of its range, or an argument of FPN is wrong.

    Example:
        >>> import torch
        >>> neck = AdaFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(
        self,
        *args,
        adapt_levels: Sequence[int] | None = None,
        points: int = 4,
        radius: float = 0.5,
        reduction: int = 16,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        adapt_levels = self.fusions[-2:] if adapt_levels is None else adapt_levels
        self._check_fusions('adapt_levels', adapt_levels)
        self.adapt = ModuleDict(  # MMEngine's: it passes init_weights on
            {
                str(level): AdaptiveBlock(self.out_channels, points, radius, reduction)
                for level in sorted(set(adapt_levels))
            }
        )

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        if str(level) in self.adapt:
            return self.adapt[str(level)](low, high)
        return super()._fuse(level, low, high)
