"""FPN with FINE before its fusions.

Paper: "Context-Guided Semantic Alignment for Feature Fusion Networks", eq. 3, sections 5.3 and C.

    S5 -- 1x1 ---------------------------------> F5 -- 3x3 --> P5
                                       |
    S4 -- 1x1 --> FINE(., F5), k = 1 --+-- add -> F4 -- 3x3 --> P4
                                       |
    S3 -- 1x1 --> FINE(., F4), k = 2 --+-- add -> F3 -- 3x3 --> P3
                                       |
    S2 -- 1x1 -------------------------+-- add -> F2 -- 3x3 --> P2    (where the detector uses stride 4: fused plainly)
"""

from collections.abc import Sequence

from torch import Tensor

from mmscale.layers import TopDownFPN
from mmscale.registry import MODELS

from .placement import aligning_modules

__all__ = ['FINEFPN']


@MODELS.register_module()
class FINEFPN(TopDownFPN):
    """MMDetection's FPN whose low levels are aligned by FINE before they are fused.

    Every argument of MMDetection's FPN works. A level is named by its place in ``in_channels``: with a ResNet's four
    stages, 0 to 3 have the strides 4 to 32 whatever ``start_level`` is.

    Args:
        *args: As MMDetection's ``FPN``.
        fine (dict, optional): Options of :class:`~mmscale.fine.FINE` for all its modules (``ratio``, ``num_heads``,
            ``down``, ``attention``, ``modulation``), or another aligning module by ``type``; it is built with
            ``channels`` and ``kernel`` and called with ``(low, high)``. Defaults to None, the paper's settings.
        fine_levels (Sequence[int], optional): The low levels to align. Defaults to the two below the top, the paper's.
        fine_kernels (Sequence[int], optional): k of each level in ``fine_levels``. Defaults to 1 below the top, doubled
            with every level further down (the paper's 1 and 2; the doubling beyond is our choice, it keeps the token
            grid).
        **kwargs: As MMDetection's ``FPN``.

    Raises:
        ValueError: If a level does not exist, lists differ in length, or an option is unknown.

    Example:
        >>> import torch
        >>> neck = FINEFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(
        self,
        *args,
        fine: dict | None = None,
        fine_levels: Sequence[int] | None = None,
        fine_kernels: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.fine = aligning_modules(self, fine, fine_levels, fine_kernels)

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        """Eq. 3 for one level: align the low level, upsample the high level as ``upsample_cfg`` says, add."""
        if str(level) in self.fine:
            low = self.fine[str(level)](low, high)
        return super()._fuse(level, low, high)
