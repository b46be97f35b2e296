"""FINE, the Feature Interaction Network: align the low level with the high level before they are fused.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", section 4, fig. 2, eqs. 3-9.

    F_high ---- Down k ----> keys, values --+
                                            +--> cross-level attention --> M^ -- Up rk --> M
    F_low --+-- Down rk ---> queries -------+                                              |
            |                                                                              v
            +--------------------------------------------------------------> F_low * M + F_low = F_low_aligned

Shape shorthand in this module:
    B: batch, C: channels, Hl, Wl: size of the low level, Hh, Wh: size of the high level, r: sampling ratio, k: base
    kernel
"""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmscale.options import check_options
from mmscale.registry import MODELS

from .sampling import build_down, has_whole_blocks

__all__ = ['FINE', 'MODULATIONS', 'upsample_to']


def upsample_to(coarse: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
    """Broadcast every token over its ``scale x scale`` region and crop the ragged edge, eq. 8.

    Args:
        coarse (Tensor): ``(B, C, ceil(H / scale), ceil(W / scale))``.
        scale (int): Side of a token's region, r * k.
        size (tuple[int, int]): ``(H, W)`` of the low level.

    Returns:
        Tensor: ``(B, C, H, W)``.
    """
    if scale > 1:
        coarse = F.interpolate(coarse, scale_factor=scale, mode='nearest')
    return coarse[..., : size[0], : size[1]]


def _residual(low: Tensor, modulation: Tensor) -> Tensor:
    return torch.addcmul(low, low, modulation)  # eq. 9


def _direct(low: Tensor, modulation: Tensor) -> Tensor:
    return low * modulation


def _none(low: Tensor, modulation: Tensor) -> Tensor:
    return modulation


MODULATIONS = {'residual': _residual, 'direct': _direct, 'none': _none}


@MODELS.register_module()
class FINE(BaseModule):
    """``F_low_aligned = FINE(F_low, F_high)``, eq. 3.

    Both levels have C channels. Sizes need not be multiples of the kernels (see :mod:`mmscale.fine.sampling`).
    Padding that the data pre-processor added to an image is part of the maps, as in the paper: a neck sees no mask.

    Args:
        channels (int): C, of both levels.
        kernel (int): k, the sampling kernel of the high level; the low level's is r * k. The paper uses 1 for fusing
        stride 32
            into 16 and 2 for fusing stride 16 into 8. Defaults to 1.
        ratio (int): r, the alignment-aware sampling ratio, the stride ratio of the two levels. Defaults to 2.
        num_heads (int, optional): Heads of the attention. Defaults to ``channels / 16``.
        down (str): Sampling operator, ``'avg'``, ``'max'`` or ``'dwconv'`` (table 6). Defaults to ``'avg'``.
        attention (dict, optional): Attention variant (table 3) and its options. Vanilla attention is the default type
        with
            ``kernel=1, ratio=1``. Defaults to ``dict(type='mmscale.CrossLevelAttention')``.
        modulation (str): What becomes of the map M (fig. 7):

            - ``'residual'``: ``F_low * M + F_low``, eq. 9. Default.
            - ``'direct'``: ``F_low * M``.
            - ``'none'``: ``M`` itself takes the place of ``F_low``.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None: see
            :class:`~mmscale.fine.attention.CrossLevelAttention`.

    Raises:
        ValueError: If an option is out of its range or unknown.

    Example:
        >>> import torch
        >>> fine = FINE(channels=32, kernel=2)
        >>> low, high = torch.rand(2, 32, 38, 50), torch.rand(2, 32, 19, 25)
        >>> fine(low, high).shape
        torch.Size([2, 32, 38, 50])
    """

    def __init__(
        self,
        channels: int,
        kernel: int = 1,
        ratio: int = 2,
        num_heads: int | None = None,
        down: str = 'avg',
        attention: dict | None = None,
        modulation: str = 'residual',
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for name, value in (('channels', channels), ('kernel', kernel), ('ratio', ratio)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} of FINE must be a whole number from 1')
        if modulation not in MODULATIONS:
            raise ValueError(f'modulation={modulation!r} is unknown to FINE: choose one of {sorted(MODULATIONS)}')
        self.channels = channels
        self.low_kernel = ratio * kernel
        self.high_kernel = kernel
        self.modulation = modulation
        self.down_low = build_down(down, channels, self.low_kernel)
        self.down_high = build_down(down, channels, self.high_kernel)
        attention = {'type': 'mmscale.CrossLevelAttention', 'num_heads': num_heads, **(attention or {})}
        cls = MODELS.get(attention['type']) if isinstance(attention['type'], str) else attention['type']
        if cls is not None:
            check_options('fine.attention', cls, attention, reserved=('channels',))
        self.attention = MODELS.build({**attention, 'channels': channels})

    def init_weights(self) -> None:
        """The start that the parts document, whatever a neck's ``init_cfg`` did to them; then FINE's own."""
        for part in self.children():
            if hasattr(part, 'reset_parameters'):
                part.reset_parameters()
        super().init_weights()

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Align the low level.

        Args:
            low (Tensor): F_low, ``(B, C, Hl, Wl)``.
            high (Tensor): F_high, ``(B, C, Hh, Wh)``.

        Returns:
            Tensor: F_low_aligned, ``(B, C, Hl, Wl)``.

        Raises:
            ValueError: If a level does not have C channels or is smaller than its sampling kernel.
        """
        coarse, scale = self.coarse_map(low, high), self.low_kernel
        modulate = MODULATIONS[self.modulation]
        if self.modulation == 'none' or scale == 1 or not has_whole_blocks(low, scale):
            return modulate(low, upsample_to(coarse, scale, low.shape[-2:]))
        # The same without writing M down: one row of it serves all rows of a region.
        row = coarse.repeat_interleave(scale, dim=3)[:, :, :, None]
        return modulate(low.unflatten(2, (-1, scale)), row).flatten(2, 3)

    def modulation_map(self, low: Tensor, high: Tensor) -> Tensor:
        """M of eq. 8, ``(B, C, Hl, Wl)``; for analysis."""
        return upsample_to(self.coarse_map(low, high), self.low_kernel, low.shape[-2:])

    def coarse_map(self, low: Tensor, high: Tensor) -> Tensor:
        """M^ of eq. 7, ``(B, C, ceil(Hl / rk), ceil(Wl / rk))``."""
        self._check(low, 'low', self.low_kernel)
        self._check(high, 'high', self.high_kernel)
        return self.attention(self.down_low(low), self.down_high(high))  # eqs. 4-7

    def _check(self, x: Tensor, level: str, kernel: int) -> None:
        channels, height, width = x.shape[1:]
        if channels != self.channels:
            raise ValueError(f'FINE was built for channels={self.channels}, but the {level} level has {channels}')
        if kernel > min(height, width):
            raise ValueError(
                f"the sampling kernel {kernel} of FINE's {level} level is larger than the map of "
                f'{height}x{width}: use a smaller kernel or ratio, or a larger image'
            )
