"""RT-DETR's head: a class and a box for every query, and their losses.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), section 4.3: classes are supervised by
the IoU of the boxes (:mod:`.losses`), boxes by L1 and GIoU, in every decoder layer, for the encoder's proposals, and
for the denoising queries. Weights 1, 5, 2; matching costs 2, 5, 2.

MMDetection's ``DINOHead`` matches, collects the targets and names the losses. What differs here: the decoder has
refined the boxes already; everything is divided by the padded batch's size, since RT-DETR knows no mask; matching,
IoUs and losses are in single precision under mixed precision.
"""

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.losses import QualityFocalLoss, VarifocalLoss
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from mmscale.layers import init_as_torch
from mmscale.layers.image_sizes import image_sizes, sizes_of_images
from mmscale.registry import MODELS

from .losses import IoUVarifocalLoss

__all__ = ['RTDETRHead']


@MODELS.register_module()
class RTDETRHead(DINOHead):
    """One linear class branch and one box branch of three layers per decoder layer, and a pair for the encoder.

    Args:
        num_classes (int): K.
        embed_dims (int): Channels of a query. Defaults to 256.
        loss_cls (dict): Class loss, one of ``mmscale.IoUVarifocalLoss`` or ``mmdet.QualityFocalLoss``, which are told
            the IoUs, or one that is told labels alone, as ``mmdet.FocalLoss``. Defaults to
            ``dict(type='mmscale.IoUVarifocalLoss')``.
        loss_bbox (dict): Loss of (cx, cy, w, h) over the image's size. Defaults to
            ``dict(type='mmdet.L1Loss', loss_weight=5.0)``.
        loss_iou (dict): Loss of (x1, y1, x2, y2) in pixels, any of MMDetection's or ``mmscale.RFMPDIoULoss``. Defaults
            to ``dict(type='mmdet.GIoULoss', loss_weight=2.0)``.
        sync_cls_avg_factor (bool): Whether the number of objects that classes are averaged over is that of all
            processes. Defaults to True.
        **kwargs: As MMDetection's ``DINOHead``; the detector sets ``num_pred_layer`` and ``as_two_stage``.

    Raises:
        ValueError: If the class loss is one over all classes together (softmax), or MMDetection's ``VarifocalLoss``.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int = 256,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_iou: dict | None = None,
        sync_cls_avg_factor: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            embed_dims=embed_dims,
            loss_cls=loss_cls or dict(type='mmscale.IoUVarifocalLoss'),
            loss_bbox=loss_bbox or dict(type='mmdet.L1Loss', loss_weight=5.0),
            loss_iou=loss_iou or dict(type='mmdet.GIoULoss', loss_weight=2.0),
            sync_cls_avg_factor=sync_cls_avg_factor,
            **kwargs,
        )
        if not self.loss_cls.use_sigmoid or isinstance(self.loss_cls, VarifocalLoss):
            raise ValueError(
                f'loss_cls={loss_cls} does not fit RTDETRHead: a class loss is told a label per query, or label and '
                'IoU, and has use_sigmoid=True, as mmscale.IoUVarifocalLoss, mmdet.QualityFocalLoss or mmdet.FocalLoss'
            )

    def init_weights(self) -> None:
        """PyTorch's own; classes start at 1 %, box offsets at zero."""
        init_as_torch(self.cls_branches)
        init_as_torch(self.reg_branches)
        super().init_weights()

    def forward(
        self, hidden_states: list[Tensor], boxes: list[Tensor], proposals: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Classes beside the boxes.

        Args:
            hidden_states (list[Tensor]): ``(B, Q, C)`` of every layer that the decoder ran.
            boxes (list[Tensor]): ``(B, Q, 4)``, (cx, cy, w, h) over the size of the padded batch, likewise.
            proposals (tuple[Tensor, Tensor], optional): Logits ``(B, Q, K)`` and boxes ``(B, Q, 4)`` of the proposals,
                what there is to say where the decoder ran no layer. Defaults to None.

        Returns:
            tuple[Tensor, Tensor]: Logits ``(L, B, Q, K)`` and boxes ``(L, B, Q, 4)``; L is every layer in training,
            and the last one that ran otherwise.
        """
        if not hidden_states:
            logits, boxes = proposals
            return logits[None], boxes[None]
        last = len(hidden_states) - 1
        layers = range(len(hidden_states)) if self.training else [last]
        logits = torch.stack([self.cls_branches[i](hidden_states[i]) for i in layers])
        return logits, torch.stack([boxes[i] for i in layers])

    def loss(
        self,
        hidden_states: list[Tensor],
        boxes: list[Tensor],
        enc_logits: Tensor,
        enc_boxes: Tensor,
        batch_data_samples: SampleList,
        dn_meta: dict | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            hidden_states (list[Tensor]): As :meth:`forward`'s; the denoising queries come first.
            boxes (list[Tensor]): As :meth:`forward`'s.
            enc_logits (Tensor): Of the selected proposals, ``(B, Q, K)``.
            enc_boxes (Tensor): Of the selected proposals, ``(B, Q, 4)``.
            batch_data_samples (list[DetDataSample]): Ground truth and sizes.
            dn_meta (dict, optional): What the denoising queries are; None without them.

        Returns:
            dict[str, Tensor]: ``loss_cls``, ``loss_bbox``, ``loss_iou`` of the last layer, ``d0.loss_cls`` ... of the
            others, ``enc_loss_cls`` ... of the proposals and ``dn_loss_cls``, ``d0.dn_loss_cls`` ... of the denoising;
            those of the proposals alone where the decoder has no layer.
        """
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [_with_padded_size(sample.metainfo) for sample in batch_data_samples]
        with torch.autocast(enc_logits.device.type, enabled=False):
            proposals = enc_logits.float(), enc_boxes.float()
            if not hidden_states:
                names = ('enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou')
                return dict(zip(names, self.loss_by_feat_single(*proposals, gt_instances, metas), strict=True))
        logits, boxes = self(hidden_states, boxes)
        with torch.autocast(logits.device.type, enabled=False):
            return self.loss_by_feat(logits.float(), boxes.float(), *proposals, gt_instances, metas, dn_meta)

    def loss_by_feat_single(
        self, cls_scores: Tensor, bbox_preds: Tensor, batch_gt_instances: list, batch_img_metas: list[dict]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of one layer's matched queries, ``(B, Q, K)`` and ``(B, Q, 4)``."""
        targets = self.get_targets(list(cls_scores), list(bbox_preds), batch_gt_instances, batch_img_metas)
        return self._losses(cls_scores, bbox_preds, targets, batch_img_metas)

    def _loss_dn_single(
        self,
        dn_cls_scores: Tensor,
        dn_bbox_preds: Tensor,
        batch_gt_instances: list,
        batch_img_metas: list[dict],
        dn_meta: dict,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of one layer's denoising queries, ``(B, D, K)`` and ``(B, D, 4)``."""
        targets = self.get_dn_targets(batch_gt_instances, batch_img_metas, dn_meta)
        return self._losses(dn_cls_scores, dn_bbox_preds, targets, batch_img_metas)

    def _losses(self, logits: Tensor, boxes: Tensor, targets: tuple, metas: list[dict]) -> tuple[Tensor, ...]:
        """Class, L1 and IoU loss over the mean number of objects of a process."""
        labels, label_weights, box_targets, box_weights = (torch.cat(part) for part in targets[:4])
        matched, unmatched = targets[4:]
        count = reduce_mean(logits.new_tensor([float(matched)])).clamp(min=1)
        cls_count = logits.new_tensor([matched + unmatched * self.bg_cls_weight])
        cls_count = (reduce_mean(cls_count) if self.sync_cls_avg_factor else cls_count).clamp(min=1)

        logits, boxes = logits.flatten(0, 1), boxes.flatten(0, 1)
        sizes = _sizes(metas, boxes).repeat_interleave(len(boxes) // len(metas), dim=0)
        corners, target_corners = bbox_cxcywh_to_xyxy(boxes) * sizes, bbox_cxcywh_to_xyxy(box_targets) * sizes
        cls_targets = labels
        if isinstance(self.loss_cls, IoUVarifocalLoss | QualityFocalLoss):
            cls_targets = (labels, bbox_overlaps(corners.detach(), target_corners, is_aligned=True))
        loss_cls = self.loss_cls(logits, cls_targets, label_weights, avg_factor=cls_count)
        with image_sizes(sizes_of_images(metas), rows='blocks'):
            loss_iou = self.loss_iou(corners, target_corners, box_weights, avg_factor=count)
        loss_bbox = self.loss_bbox(boxes, box_targets, box_weights, avg_factor=count)
        return loss_cls.sum(), loss_bbox, loss_iou

    @staticmethod
    def split_outputs(logits: Tensor, boxes: Tensor, dn_meta: dict | None) -> tuple[Tensor | None, ...]:
        """Matching and denoising part, ``(L, B, Q, ...)`` and ``(L, B, D, ...)``; None without denoising.

        A batch without objects has no denoising queries (D = 0), but its losses, zeros, are computed all the same:
        their averages are taken over all processes, and another process may have objects.
        """
        if dn_meta is None:
            return logits, boxes, None, None
        count = dn_meta['num_denoising_queries']
        return logits[:, :, count:], boxes[:, :, count:], logits[:, :, :count], boxes[:, :, :count]

    def predict(
        self,
        hidden_states: list[Tensor],
        boxes: list[Tensor],
        batch_data_samples: SampleList,
        proposals: tuple[Tensor, Tensor] | None = None,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """Detections of a batch.

        Args:
            hidden_states (list[Tensor]): As :meth:`forward`'s.
            boxes (list[Tensor]): As :meth:`forward`'s.
            batch_data_samples (list[DetDataSample]): Sizes.
            proposals (tuple[Tensor, Tensor], optional): As :meth:`forward`'s. Defaults to None.
            rescale (bool): Whether boxes are in pixels of the original image. Defaults to True.

        Returns:
            list[InstanceData]: ``bboxes`` (x1, y1, x2, y2), ``scores`` (descending) and ``labels``, for every image the
            ``max_per_img`` best pairs of a query and a class.
        """
        logits, boxes = self(hidden_states, boxes, proposals)
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(logits, boxes, batch_img_metas=metas, rescale=rescale)

    def _predict_by_feat_single(
        self, cls_score: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool = True
    ) -> InstanceData:
        """One image: ``(Q, K)`` and ``(Q, 4)``."""
        count = min((self.test_cfg or {}).get('max_per_img', len(cls_score)), cls_score.numel())
        scores, places = cls_score.float().sigmoid().flatten().topk(count)
        queries, labels = places // self.num_classes, places % self.num_classes
        boxes = bbox_cxcywh_to_xyxy(bbox_pred.float())[queries] * _sizes([_with_padded_size(img_meta)], bbox_pred)
        height, width = img_meta['img_shape'][:2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        if rescale:
            boxes = boxes / boxes.new_tensor(img_meta['scale_factor']).repeat(2)
        return InstanceData(bboxes=boxes, scores=scores, labels=labels)


def _with_padded_size(meta: dict) -> dict:
    """The meta information with the padded batch's size for the image's, as what boxes are divided by."""
    return {**meta, 'img_shape': tuple(meta.get('batch_input_shape', meta['img_shape']))}


def _sizes(metas: list[dict], like: Tensor) -> Tensor:
    """Width, height, width, height of every image, ``(B, 4)``."""
    return torch.tensor([meta['img_shape'][::-1] * 2 for meta in metas], dtype=torch.float, device=like.device)
