"""DSAIFI, dynamic sparse adaptive intra-scale feature interaction: sparse attention in the place of RT-DETR's AIFI.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.4, fig. 4.

    x -- AGSA -- dropout -- + -- LN --+-- 1x1 -- GELU -- dropout -- 1x1 -- dropout -- + -- LN --> out
     +----------------------+         +-----------------------------------------------+

The dropout of the second residual connection is the feed-forward part's last. Ours: a feed-forward part of 1x1
convolutions (the kernel's size is lost in our text; any odd one can be set) as wide as
that of RT-DETR, and no positional encoding, which the text does not have.

Shape shorthand in this module:
    B: batch, C: channels, H, W: size of the map
"""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.layers.levels import check_widths, checked_levels
from mmscale.options import check_options
from mmscale.registry import MODELS

from .agsa import AGSA

__all__ = ['DSAIFI', 'DSAIFINeck']


@MODELS.register_module()
class DSAIFI(BaseModule):
    """AGSA and a convolutional feed-forward part, each with a residual sum and a norm behind it.

    In RT-DETR's encoder: ``neck=dict(aifi=dict(_delete_=True, type='mmscale.DSAIFI'))``.

    Args:
        channels (int): C.
        feedforward_channels (int): Hidden width of the feed-forward part. Defaults to 1024, RT-DETR's.
        feedforward_kernel_size (int): Of both its convolutions, odd. Defaults to 1; ours.
        dropout (float): In all three places. Defaults to 0.0, RT-DETR's.
        agsa (dict, optional): Options of :class:`~mmscale.hsd_detr.agsa.AGSA` but ``channels``. Defaults to None.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, PyTorch's own.

    Raises:
        ValueError: If an argument is out of its range, or an option of ``agsa`` is unknown.

    Example:
        >>> import torch
        >>> DSAIFI(channels=32, feedforward_channels=64)(torch.rand(2, 32, 5, 7)).shape
        torch.Size([2, 32, 5, 7])
    """

    def __init__(
        self,
        channels: int,
        feedforward_channels: int = 1024,
        feedforward_kernel_size: int = 1,
        dropout: float = 0.0,
        agsa: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        agsa = agsa or {}
        check_options('agsa', AGSA, agsa, reserved=('channels',))
        if feedforward_channels < 1:
            raise ValueError(f'feedforward_channels={feedforward_channels} of DSAIFI should be 1 or more')
        kernel = feedforward_kernel_size
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f'feedforward_kernel_size={kernel} of DSAIFI should be odd')
        self.agsa = AGSA(channels, **agsa)
        self.norm1 = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(
            nn.Conv2d(channels, feedforward_channels, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(feedforward_channels, channels, kernel, padding=kernel // 2),
            nn.Dropout(dropout),
        )
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def init_weights(self) -> None:
        """PyTorch's own distributions."""
        init_as_torch(self)
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        x = _normed(self.norm1, x + self.dropout(self.agsa(x)))
        return _normed(self.norm2, x + self.feedforward(x))


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels of every position, ``(B, C, H, W)``."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class DSAIFINeck(BaseModule):
    """DSAIFI on some maps of a backbone, before any neck; for detectors without RT-DETR's encoder. Ours.

    ``neck=[dict(type='mmscale.DSAIFINeck', in_channels=[256, 512, 1024, 2048], levels=[3]), dict(type='FPN', ...)]``.

    Args:
        in_channels (Sequence[int]): Width of every map.
        levels (Sequence[int], optional): Indices of the maps that take part, in ascending order; the others are passed
            on as they are. Defaults to None, the last one alone, as in RT-DETR: attention costs the square of a map's
            positions.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None.
        **kwargs: As :class:`DSAIFI`, for all of them.

    Raises:
        ValueError: If ``levels`` does not fit ``in_channels``, or the maps of ``forward`` do not.

    Example:
        >>> import torch
        >>> neck = DSAIFINeck(in_channels=[16, 32])
        >>> [tuple(x.shape) for x in neck([torch.rand(2, 16, 6, 8), torch.rand(2, 32, 3, 4)])]
        [(2, 16, 6, 8), (2, 32, 3, 4)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Sequence[int] | None = None,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        check_options('DSAIFINeck', DSAIFI, kwargs, reserved=('channels', 'init_cfg'))
        self.in_channels = list(in_channels)
        levels = [len(self.in_channels) - 1] if levels is None and self.in_channels else levels
        self.levels = checked_levels('DSAIFINeck', levels, len(self.in_channels))
        self.blocks = nn.ModuleList(DSAIFI(self.in_channels[level], **kwargs) for level in self.levels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As many maps of the same shapes, ``(B, in_channels[i], H_i, W_i)``.

        Raises:
            ValueError: If the number of maps or a map's width is not what the neck was built for.
        """
        check_widths('DSAIFINeck', inputs, self.in_channels)
        outs = list(inputs)
        for level, block in zip(self.levels, self.blocks, strict=True):
            outs[level] = block(inputs[level])
        return tuple(outs)
