"""The IoU-aware classification loss.

Papers: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), section 4.3, eq. 3; the weights are
those of "VarifocalNet" (Zhang et al., CVPR 2021), eq. 2.

Why not MMDetection's ``VarifocalLoss``: there the weight of a negative has a gradient, and a matched query whose box
misses its object altogether (IoU 0) counts as a negative; here, as in the official code, neither is so.
"""

import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmscale.registry import MODELS

__all__ = ['IoUVarifocalLoss', 'iou_varifocal_loss']


def iou_varifocal_loss(logits: Tensor, labels: Tensor, ious: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Binary cross entropy to the box's IoU, weighed by it for the object's class and by ``alpha * p ** gamma`` else.

    Args:
        logits (Tensor): ``(N, K)``.
        labels (Tensor): ``(N,)``, from 0 to K - 1, or K for a query without an object.
        ious (Tensor): ``(N,)``, the IoU of the query's box with its object's, from 0 to 1; not used without an object.
        alpha (float): Weight of negatives. Defaults to 0.75.
        gamma (float): Focus on confident negatives. Defaults to 2.0.

    Returns:
        Tensor: ``(N, K)``.

    Example:
        >>> import torch
        >>> iou_varifocal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]))
        tensor([[0.3466, 0.1300]])
    """
    matched = F.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype)
    target = matched * ious[:, None].to(logits.dtype)
    negative = alpha * logits.detach().sigmoid().pow(gamma) * (1 - matched)
    return F.binary_cross_entropy_with_logits(logits, target, weight=negative + target, reduction='none')


@MODELS.register_module()
class IoUVarifocalLoss(nn.Module):
    """:func:`iou_varifocal_loss` with MMDetection's reduction.

    Args:
        alpha (float): Weight of negatives. Defaults to 0.75.
        gamma (float): Focus on confident negatives. Defaults to 2.0.
        reduction (str): ``'mean'``, ``'sum'`` or ``'none'``. Defaults to ``'mean'``.
        loss_weight (float): Factor. Defaults to 1.0.
    """

    use_sigmoid = True  # what MMDetection's heads ask a classification loss for

    def __init__(
        self, alpha: float = 0.75, gamma: float = 2.0, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            pred (Tensor): Logits, ``(N, K)``.
            target (tuple[Tensor, Tensor]): Labels and IoUs, ``(N,)`` each.
            weight (Tensor, optional): ``(N,)``.
            avg_factor (float or Tensor, optional): What a mean divides by.
            reduction_override (str, optional): Takes the place of ``reduction``.

        Returns:
            Tensor: A scalar, or ``(N, K)`` without reduction.
        """
        labels, ious = target
        loss = iou_varifocal_loss(pred, labels, ious, self.alpha, self.gamma)
        weight = None if weight is None else weight[:, None]
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
