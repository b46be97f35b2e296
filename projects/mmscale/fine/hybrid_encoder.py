"""RT-DETR's hybrid encoder with FINE before its top-down fusions.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", eq. 3, tables 1 to 3, fig. 7.

    S5 -- 1x1 --> AIFI -- 1x1 ---------------------> F5 ------------------- bottom-up --> P5
                                               |
    S4 -- 1x1 --> FINE(., F5), k = 1 -- cat with up(F5) -- CSP -- 1x1 --> F4 -- bottom-up --> P4
                                                                    |
    S3 -- 1x1 --> FINE(., F4), k = 2 ------------- cat with up(F4) -- CSP --> F3 -------> P3

F_high is what the encoder upsamples: the map above after its lateral convolution. The bottom-up path is the encoder's.
"""

from collections.abc import Sequence

from torch import Tensor

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr import HybridEncoder

from .placement import aligning_modules

__all__ = ['FINEHybridEncoder']


@MODELS.register_module()
class FINEHybridEncoder(HybridEncoder):
    """RT-DETR's hybrid encoder whose low levels are aligned by FINE before the top-down fusions.

    A level is named by its place in ``in_channels``, finest first. Weights of a ``HybridEncoder`` fit; FINE's own are
    all that is missing in them.

    Args:
        *args: As :class:`~mmscale.rtdetr.HybridEncoder`.
        fine (dict, optional): Options of :class:`~mmscale.fine.FINE` for all its modules (``ratio``, ``num_heads``,
            ``down``, ``attention``, ``modulation``), or another aligning module by ``type``; it is built with
            ``channels`` and ``kernel`` and called with ``(low, high)``. Defaults to None, the paper's settings.
        fine_levels (Sequence[int], optional): The low levels to align. Defaults to the two below the top, the paper's.
        fine_kernels (Sequence[int], optional): k of each level in ``fine_levels``. Defaults to 1 below the top, doubled
            with every level further down (the paper's 1 and 2; the doubling beyond is our choice, it keeps the token
            grid).
        **kwargs: As :class:`~mmscale.rtdetr.HybridEncoder`.

    Raises:
        ValueError: If a level does not exist, lists differ in length, or an option is unknown.

    Example:
        >>> import torch
        >>> neck = FINEHybridEncoder([8, 16, 32], out_channels=32, aifi=dict(num_heads=2, feedforward_channels=32))
        >>> maps = [torch.rand(2, c, s, s) for c, s in zip([8, 16, 32], [16, 8, 4])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(2, 32, 16, 16), (2, 32, 8, 8), (2, 32, 4, 4)]
    """

    def __init__(
        self,
        *args,
        fine: dict | None = None,
        fine_levels: Sequence[int] | None = None,
        fine_kernels: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        check_options('FINEHybridEncoder', FINEHybridEncoder, kwargs)
        super().__init__(*args, **kwargs)
        self.fine = aligning_modules(self, fine, fine_levels, fine_kernels)

    def _join(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """Eq. 3 with concatenation for f: align the low level, then join as the encoder does."""
        if str(level) in self.fine:
            low = self.fine[str(level)](low, high)
        return super()._join(level, low, high)
