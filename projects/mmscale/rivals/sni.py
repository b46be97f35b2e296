"""SNI, soft nearest interpolation: a pyramid whose high levels weigh less in the fusion.

Paper: "Rethinking Features-Fused-Pyramid-Neck for Object Detection" (Li, ECCV 2024); its code,
github.com/AlanLi1997/rethinking-fpn, defines SNI as nearest interpolation times ``alpha = 1 / f ** 2``, f the factor of
the upsampling. One pixel becomes f x f equal ones, which together weigh in a sum what the one did.

From the code: the formula. Ours: that the neck around it is MMDetection's FPN, whose neighbouring levels differ by
f = 2.
"""

from torch import Tensor

from mmscale.layers import TopDownFPN
from mmscale.registry import MODELS

__all__ = ['SNIFPN']


@MODELS.register_module()
class SNIFPN(TopDownFPN):
    """MMDetection's FPN with soft nearest interpolation: ``low + alpha * nearest(high)``.

    No weights and no multiply-adds are added.

    Args:
        *args: As MMDetection's ``FPN``.
        alpha (float): Weight of the upsampled level. Defaults to 0.25, the paper's ``1 / f ** 2`` for f = 2.
        **kwargs: As MMDetection's ``FPN``; ``upsample_cfg`` must stay nearest.

    Raises:
        ValueError: If ``upsample_cfg`` is not nearest interpolation, or an argument of FPN is wrong.

    Example:
        >>> import torch
        >>> neck = SNIFPN(in_channels=[16, 32, 64], out_channels=32, num_outs=3)
        >>> maps = [torch.rand(1, c, s, s) for c, s in zip([16, 32, 64], [32, 16, 8])]
        >>> [tuple(out.shape) for out in neck(maps)]
        [(1, 32, 32, 32), (1, 32, 16, 16), (1, 32, 8, 8)]
    """

    def __init__(self, *args, alpha: float = 0.25, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        mode = self.upsample_cfg.get('mode', 'nearest')
        if mode != 'nearest':
            raise ValueError(f"upsample_cfg has mode={mode!r}, but soft nearest interpolation needs mode='nearest'")
        self.alpha = alpha

    def _fuse(self, level: int, low: Tensor, high: Tensor) -> Tensor:
        return low + self.alpha * self._upsample(high, low)
