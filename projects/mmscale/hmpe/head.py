"""HMPE's head: RT-DETR's, and the losses of the heatmaps.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), section
3.1. That the heatmaps are predicted, and how that is taught, is ours (:mod:`.heatmap_head`).
"""

import torch
from mmdet.models.losses import CrossEntropyLoss, FocalLoss, L1Loss, SmoothL1Loss
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from torch import Tensor, nn

from mmscale.registry import MODELS
from mmscale.rtdetr import RTDETRHead

from .heatmap_head import Heatmaps, Supervision

__all__ = ['HMPEHead']


@MODELS.register_module()
class HMPEHead(RTDETRHead):
    """RT-DETR's head; where the detector has heatmaps, it supervises them.

    Args:
        num_classes (int): K.
        loss_heatmap (dict, optional): Of the predicted maps' logits to the maps of the gradients, over all positions:
            ``mmdet.CrossEntropyLoss`` with ``use_sigmoid=True``. Defaults to None, that with a weight of 1.
        loss_heat_cls (dict, optional): Trains the branch whose class scores are differentiated, over all positions; it
            is told labels: ``mmdet.FocalLoss`` or ``mmdet.CrossEntropyLoss``, with ``use_sigmoid=True``. Defaults to
            None, the first with a weight of 1.
        loss_heat_bbox (dict, optional): Trains the branch whose box losses are differentiated, at the positions of
            objects: ``mmdet.SmoothL1Loss`` or ``mmdet.L1Loss``. What is differentiated is the paper's Huber loss in any
            case. Defaults to None, the first with a weight of 1.
        **kwargs: As ``mmscale.RTDETRHead``.

    Raises:
        ValueError: As ``mmscale.RTDETRHead``; also if a loss is another.
    """

    def __init__(
        self,
        num_classes: int,
        loss_heatmap: dict | None = None,
        loss_heat_cls: dict | None = None,
        loss_heat_bbox: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        bce = dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True)
        focal = dict(type='mmdet.FocalLoss', use_sigmoid=True)
        huber = dict(type='mmdet.SmoothL1Loss')
        self.loss_heatmap = _build_loss('loss_heatmap', loss_heatmap or bce, CrossEntropyLoss)
        self.loss_heat_cls = _build_loss('loss_heat_cls', loss_heat_cls or focal, FocalLoss, CrossEntropyLoss)
        self.loss_heat_bbox = _build_loss('loss_heat_bbox', loss_heat_bbox or huber, SmoothL1Loss, L1Loss)

    def loss(self, *args, batch_data_samples: SampleList, heat: Heatmaps | None = None, **kwargs) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            *args: As ``mmscale.RTDETRHead``'s.
            batch_data_samples (list[DetDataSample]): Ground truth and sizes.
            heat (Heatmaps, optional): With their supervision.
            **kwargs: As ``mmscale.RTDETRHead``'s.

        Returns:
            dict[str, Tensor]: As ``mmscale.RTDETRHead``'s; with heatmaps also ``loss_heatmap``, ``loss_heat_cls`` and
            ``loss_heat_bbox``.
        """
        losses = super().loss(*args, batch_data_samples=batch_data_samples, **kwargs)
        return losses if heat is None else {**losses, **self.heat_losses(heat.supervision)}

    def heat_losses(self, supervision: Supervision) -> dict[str, Tensor]:
        """Mean over the positions, and per position of an object, both over all levels."""
        logits, targets, boxes, box_targets = (
            torch.cat([x.flatten(2).transpose(1, 2).flatten(0, 1) for x in levels]).float()
            for levels in (supervision.logits, supervision.targets, supervision.boxes, supervision.box_targets)
        )
        scores = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in supervision.scores]).float()
        labels = torch.cat([x.flatten() for x in supervision.labels])
        inside = labels >= 0
        count = reduce_mean(inside.sum().float()).clamp(min=1)
        with torch.autocast(logits.device.type, enabled=False):
            return dict(
                loss_heatmap=self.loss_heatmap(logits, targets),
                loss_heat_cls=self.loss_heat_cls(
                    scores, torch.where(inside, labels, self.num_classes), avg_factor=count
                ),
                loss_heat_bbox=self.loss_heat_bbox(
                    boxes, box_targets, inside[:, None].float().expand_as(boxes), avg_factor=count
                ),
            )


def _build_loss(name: str, options: dict, *types: type) -> nn.Module:
    loss = MMDET_MODELS.build(options)
    if not isinstance(loss, types) or not getattr(loss, 'use_sigmoid', True):
        known = ' or '.join(f'mmdet.{cls.__name__}' for cls in types)
        sigmoid = ', with use_sigmoid=True' if hasattr(types[0](), 'use_sigmoid') else ''
        raise ValueError(f'{name}={options} does not fit HMPEHead: it has to be {known}{sigmoid}')
    return loss
