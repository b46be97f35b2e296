"""Squeeze-and-excitation on every map: channels weighed by what the whole map shows.

Paper: "Squeeze-and-Excitation Networks" (Hu, Shen, Albanie, Sun and Wu, TPAMI 2020), section 3, eqs. 2 to 4, fig. 1.

    x --+-- mean over the map -- W1, ReLU, W2, sigmoid --+
        |                                                v
        +----------------------------------------------> * --> x'

From the paper: the formulas, which have no biases, and r = 16. That a block stands on each of a detector's maps, with
weights of its own, is the reading of the paper that compares with it (CFSAM, arXiv 2510.14726, table 4: SSD300 and
0.22 M); the paper of SE itself puts one into every residual unit of a backbone.

Shape shorthand in this module:
    B: batch, C: channels, r: reduction, H, W: size of a map
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from mmscale.registry import MODELS

from .per_level import PerLevelNeck

__all__ = ['Excitation', 'SENeck', 'SqueezeExcitation']


class Excitation(nn.Sequential):
    """``sigmoid(W2 ReLU(W1 z))`` (eq. 3): a weight between 0 and 1 per channel, from the descriptors of all.

    Args:
        channels (int): C.
        reduction (int): r; W1 has ``C // r`` rows.

    Raises:
        ValueError: If ``reduction`` is no whole number from 1 to C.

    Example:
        >>> import torch
        >>> Excitation(32, reduction=16)(torch.rand(2, 32)).shape
        torch.Size([2, 32])
    """

    def __init__(self, channels: int, reduction: int) -> None:
        if not isinstance(reduction, int) or not 1 <= reduction <= channels:
            raise ValueError(
                f'reduction={reduction!r} should be a whole number from 1 to {channels}, the channels that it reduces'
            )
        hidden = channels // reduction
        super().__init__(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )


class SqueezeExcitation(nn.Module):
    """``x * s`` (eq. 4), s from the mean of every channel.

    Args:
        channels (int): C.
        reduction (int): r. Defaults to 16.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.excitation = Excitation(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        squeezed = x.mean(dim=(2, 3))  # eq. 2
        return x * self.excitation(squeezed)[:, :, None, None]


@MODELS.register_module()
class SENeck(PerLevelNeck):
    """Any number of maps of any widths and sizes to as many maps of the same shapes, each weighed by its own SE block.

    In a detector it stands behind the neck: ``neck=[dict(type='SSDNeck', ...), dict(type='mmscale.SENeck',
    in_channels=(512, 1024, 512, 256, 256, 256))]``. Padding that the data pre-processor added to the images is part of
    the mean: a neck sees no mask.

    Args:
        in_channels (Sequence[int]): Width of every map.
        reduction (int): r, a map's width over that of its hidden layer. Defaults to 16, the paper's.
        levels (Sequence[int], optional): Indices of the maps that take part, in ascending order; the others are passed
            on as they are. Defaults to None, all.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to Xavier's uniform one for
            linear layers, as in CFSAM; ours.

    Raises:
        ValueError: If an argument is out of its range, or the maps of ``forward`` are not those of ``in_channels``.

    Example:
        >>> import torch
        >>> neck = SENeck(in_channels=[64, 32])
        >>> [tuple(x.shape) for x in neck([torch.rand(2, 64, 5, 7), torch.rand(2, 32, 1, 1)])]
        [(2, 64, 5, 7), (2, 32, 1, 1)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        reduction: int = 16,
        levels: Sequence[int] | None = None,
        init_cfg: dict | list | None = dict(type='Xavier', layer='Linear', distribution='uniform'),  # noqa: B006
    ) -> None:
        super().__init__(in_channels, partial(SqueezeExcitation, reduction=reduction), levels, init_cfg)
