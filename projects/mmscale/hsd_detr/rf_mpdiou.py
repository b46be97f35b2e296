"""RF-MPDIoU, HSD-DETR's box loss.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.5, eqs. 16 to 21. Each stage can be left out, so that
IoU, Focaler-IoU (Zhang and Zhang, arXiv 2401.10525), MPDIoU (Ma and Xu, arXiv 2307.07662) and RF-MPDIoU are four
settings of one loss.

Ours, not the paper's:

- Eq. 18 is lost in the text that we have; it says "rational" and alpha = 1. ``(1 + alpha) x / (alpha + x)`` keeps 0
  and 1, is increasing, and weighs hard boxes: at alpha = 1 its slope is 2 at x = 0 and 0.5 at x = 1.
- A box of a negative width or height has no area. Two boxes without any area have an IoU of 0.
- It is computed in single precision at least.

Letters: N boxes.
"""

import math
from collections.abc import Sequence

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmscale.layers.image_sizes import row_image_sizes
from mmscale.registry import MODELS

__all__ = ['RFMPDIoULoss', 'rf_mpdiou_loss']

NO_AREA = 1e-24  # below it a union counts as none: the gradient of a quotient would leave single precision
REDUCTIONS = ('none', 'mean', 'sum')


def rf_mpdiou_loss(
    pred: Tensor,
    target: Tensor,
    image_sizes: Tensor | Sequence[float] | None,
    focal: tuple[float, float] | None = (0.0, 0.95),
    alpha: float | None = 1.0,
    corners: bool = True,
) -> Tensor:
    """``1 - RF-MPDIoU`` of pairs of boxes: 0 for equal ones, at most 3 for boxes inside the image.

    Args:
        pred (Tensor): ``(N, 4)``, (x1, y1, x2, y2).
        target (Tensor): ``(N, 4)``, likewise.
        image_sizes (Tensor or Sequence, optional): Width and height of the images that the boxes are in, in the boxes'
            unit: ``(N, 2)``, or ``(2,)`` for one image. Not used, and may be None, without the corner distances.
        focal (tuple, optional): d and u of eq. 17: an IoU of d or less counts as 0, one of u or more as 1. None leaves
            the mapping out. Defaults to (0.0, 0.95).
        alpha (float, optional): Of eq. 18. None leaves the rational function out. Defaults to 1.0.
        corners (bool): Whether the distances of the corners are added, eqs. 19 and 20. Defaults to True.

    Returns:
        Tensor: ``(N,)``, in single precision for boxes in half.

    Raises:
        ValueError: If an argument is out of its range, or shapes do not fit.

    Example:
        >>> pred, target = torch.tensor([[0.0, 0, 40, 30]]), torch.tensor([[0.0, 0, 40, 60]])
        >>> rf_mpdiou_loss(pred, target, (80, 60), focal=None, alpha=None)  # 1 - 1/2 + 30^2 / (80^2 + 60^2)
        tensor([0.5900])
    """
    _check(focal, alpha)
    if pred.shape != target.shape or pred.dim() != 2 or pred.shape[1] != 4:
        raise ValueError(f'pred {tuple(pred.shape)} and target {tuple(target.shape)} should both be (N, 4)')
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float)
    pred, target = pred.to(dtype), target.to(dtype)
    # What follows is 1 minus each of the paper's similarities, so that equal boxes cost exactly nothing.
    low, high = focal or (0, 1)
    loss = ((high - _iou(pred, target)) / (high - low)).clamp(0, 1)  # eqs. 16 and 17
    if alpha is not None:
        loss = alpha * loss / (alpha + (1 - loss))  # in the place of eq. 18: 1 - (1 + alpha) x / (alpha + x)
    return loss + _corner_distances(pred, target, image_sizes) if corners else loss  # eqs. 20 and 21


def _iou(pred: Tensor, target: Tensor) -> Tensor:
    """``(N,)``."""
    shared = torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])
    shared, own, other = (sides.clamp(min=0).prod(dim=1) for sides in (shared, _sides(pred), _sides(target)))
    union = own + other - shared
    return shared / union.masked_fill(union < NO_AREA, 1)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _corner_distances(pred: Tensor, target: Tensor, image_sizes: Tensor | Sequence[float] | None) -> Tensor:
    """Eq. 19 and the last two terms of eq. 20: squared, of both corners together, over w^2 + h^2; ``(N,)``."""
    if image_sizes is None:
        raise ValueError('image_sizes=None of rf_mpdiou_loss should be given, or corners should be False')
    sizes = torch.as_tensor(image_sizes, dtype=pred.dtype, device=pred.device)
    if tuple(sizes.shape) not in ((2,), (len(pred), 2)):
        raise ValueError(f'image_sizes {tuple(sizes.shape)} should be (2,) or ({len(pred)}, 2): as many rows as boxes')
    diagonal = sizes.square().sum(dim=-1).sqrt()
    return ((pred - target) / diagonal.unsqueeze(-1)).square().sum(dim=1)


def _check(focal: tuple[float, float] | None, alpha: float | None) -> None:
    pair = isinstance(focal, tuple | list) and len(focal) == 2 and all(isinstance(x, int | float) for x in focal)
    if focal is not None and not (pair and 0 <= focal[0] < focal[1] <= 1):
        raise ValueError(f'focal={focal} of RF-MPDIoU should be None or two numbers d and u, 0 <= d < u <= 1')
    if alpha is not None and not 0 < alpha < math.inf:
        raise ValueError(f'alpha={alpha} of RF-MPDIoU should be None or a number above 0')


@MODELS.register_module()
class RFMPDIoULoss(nn.Module):
    """:func:`rf_mpdiou_loss` with the interface of MMDetection's IoU losses.

    Boxes are (x1, y1, x2, y2). The head tells the loss the size of every row's image, see
    :mod:`mmscale.layers.image_sizes`: RTDETRHead and the heads in :mod:`.size_aware_heads` do. Without the corner
    distances any head will do.

    Args:
        focal (tuple, optional): d and u of the focal mapping; None leaves it out. Defaults to (0.0, 0.95).
        alpha (float, optional): Of the rational function; None leaves it out. Defaults to 1.0.
        corners (bool): Whether the distances of the corners are added. Defaults to True.
        reduction (str): ``'mean'``, ``'sum'`` or ``'none'``. Defaults to ``'mean'``.
        loss_weight (float): Factor. Defaults to 1.0.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        focal: tuple[float, float] | None = (0.0, 0.95),
        alpha: float | None = 1.0,
        corners: bool = True,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _check(focal, alpha)
        _check_reduction('reduction', reduction)
        self.focal = focal
        self.alpha = alpha
        self.corners = corners
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        image_sizes: Tensor | Sequence[float] | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            pred (Tensor): ``(N, 4)``.
            target (Tensor): ``(N, 4)``.
            weight (Tensor, optional): ``(N,)``, ``(N, 1)``, or ``(N, 4)``, of which the mean counts. A row that weighs
                nothing adds exactly nothing, whatever its boxes are.
            avg_factor (float or Tensor, optional): What a mean divides by.
            reduction_override (str, optional): Takes the place of ``reduction``.
            image_sizes (Tensor or Sequence, optional): As :func:`rf_mpdiou_loss`'s. Defaults to what the head tells.

        Returns:
            Tensor: A scalar, 0 for a batch without rows, or ``(N,)`` without reduction.

        Raises:
            ValueError: If nobody tells the images' sizes, or shapes do not fit.
        """
        reduction = reduction_override or self.reduction
        _check_reduction('reduction_override', reduction)
        if self.corners and image_sizes is None:
            image_sizes = row_image_sizes(len(pred), pred.device)
        if weight is not None:
            weight = _row_weights(weight, pred)
            nothing = (weight == 0).unsqueeze(1)
            pred, target = pred.masked_fill(nothing, 0), target.masked_fill(nothing, 0)
        loss = rf_mpdiou_loss(pred, target, image_sizes, self.focal, self.alpha, self.corners)
        if not len(loss) and reduction == 'mean':
            reduction, avg_factor = 'sum', None  # the mean of no number is not one
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)


def _row_weights(weight: Tensor, pred: Tensor) -> Tensor:
    """``(N,)`` of ``(N,)``, ``(N, 1)`` (MMYOLO's heads) or ``(N, 4)``."""
    if weight.shape in (pred.shape, (len(pred), 1)):
        return weight.mean(dim=1)
    if weight.shape != pred.shape[:1]:
        raise ValueError(f'weight {tuple(weight.shape)} should be ({len(pred)},) or ({len(pred)}, 4), as pred says')
    return weight


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f'{name}={reduction!r} of RFMPDIoULoss should be one of {", ".join(REDUCTIONS)}')
