"""Contrastive denoising queries: noisy copies of the ground truth, to be restored (positive) or refused (negative).

Papers: "DINO" (Zhang et al., ICLR 2023), section 3.3; RT-DETR takes it over with 100 queries' worth of groups.

MMDetection's generator makes the noise, the groups and the attention mask. What differs in RT-DETR and here: boxes are
divided by the padded batch's size (no mask tells the padding apart), their logits are cut at 1e-5 and not at 1e-3,
places without an object get the boxes of an empty ground truth and the content of a class of its own, which stays zero,
and noise may be switched off.
"""

import torch
from mmdet.models.layers import CdnQueryGenerator, inverse_sigmoid
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.structures import InstanceData
from torch import Tensor, nn

__all__ = ['ContrastiveDenoising']


class ContrastiveDenoising(CdnQueryGenerator):
    """MMDetection's ``CdnQueryGenerator`` with RT-DETR's numbers.

    Args:
        num_classes (int): Classes of the detector.
        embed_dims (int): Channels of a query.
        num_matching_queries (int): Queries that are matched, for the attention mask.
        label_noise_scale (float): Half of it is the share of queries with a random label. Defaults to 0.5.
        box_noise_scale (float): Corners move by up to half of it (positive) or all of it (negative), in sides of the
            box. Defaults to 1.0.
        group_cfg (dict, optional): As MMDetection's. Defaults to None, groups for 100 positive queries.

    Raises:
        ValueError: If a noise is negative.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dims: int,
        num_matching_queries: int,
        label_noise_scale: float = 0.5,
        box_noise_scale: float = 1.0,
        group_cfg: dict | None = None,
    ) -> None:
        for name, value in (('label_noise_scale', label_noise_scale), ('box_noise_scale', box_noise_scale)):
            if value < 0:
                raise ValueError(f'{name}={value} of the denoising queries must not be negative')
        group_cfg = group_cfg or dict(dynamic=True, num_dn_queries=100)
        super().__init__(
            num_classes, embed_dims, num_matching_queries, label_noise_scale, box_noise_scale, group_cfg=group_cfg
        )
        self.label_embedding = nn.Embedding(num_classes + 1, embed_dims, padding_idx=num_classes)

    def init_weights(self) -> None:
        """PyTorch's normal distribution; zero for no object."""
        self.label_embedding.reset_parameters()
        super().init_weights()

    def __call__(self, batch_data_samples: SampleList) -> tuple[Tensor, Tensor, Tensor, dict]:
        """Make the queries of a batch.

        Args:
            batch_data_samples (list[DetDataSample]): Samples with ``gt_instances`` and ``batch_input_shape``.

        Returns:
            tuple[Tensor, Tensor, Tensor, dict]: Contents ``(B, D, C)``, logits of the boxes (cx, cy, w, h)
            ``(B, D, 4)``, what a query must not see ``(D + Q, D + Q)`` (True), and MMDetection's ``dn_meta``; D is 0
            where no image has an object.
        """
        return super().__call__([_over_padded_size(sample) for sample in batch_data_samples])

    def generate_dn_label_query(self, gt_labels: Tensor, num_groups: int) -> Tensor:
        """Contents of noisy labels, ``(2 * num_groups * N, C)``."""
        labels = gt_labels.repeat(2 * num_groups)
        noisy = torch.rand_like(labels, dtype=torch.float) < self.label_noise_scale * 0.5
        labels = torch.where(noisy, torch.randint_like(labels, 0, self.num_classes), labels)
        return self.label_embedding(labels)

    def generate_dn_bbox_query(self, gt_bboxes: Tensor, num_groups: int) -> Tensor:
        """Logits of noisy boxes, ``(2 * num_groups * N, 4)``; positives and negatives of a group follow each other."""
        boxes = gt_bboxes.repeat(2 * num_groups, 1)  # x1 y1 x2 y2
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        negative = torch.arange(2 * num_groups, device=boxes.device).remainder(2).repeat_interleave(len(gt_bboxes))
        sign = torch.randint_like(boxes, 0, 2) * 2 - 1
        noise = sign * (torch.rand_like(boxes) + negative[:, None]) * sides * (self.box_noise_scale / 2)
        return inverse_sigmoid(bbox_xyxy_to_cxcywh((boxes + noise).clamp(0, 1)), eps=1e-5)

    def collate_dn_queries(self, input_label_query: Tensor, input_bbox_query: Tensor, batch_idx, *args) -> tuple:
        """As MMDetection's, ``(B, D, C)`` and ``(B, D, 4)``; an empty place has the logits of an empty box."""
        nowhere = inverse_sigmoid(input_bbox_query.new_zeros(()), eps=1e-5)
        contents, boxes = super().collate_dn_queries(input_label_query, input_bbox_query - nowhere, batch_idx, *args)
        return contents, boxes + nowhere


def _over_padded_size(sample):
    """The sample with the padded size for the image's, which MMDetection's generator divides the boxes by."""
    meta = sample.metainfo
    height, width = meta.get('batch_input_shape', meta['img_shape'])
    boxes = sample.gt_instances.bboxes
    padded = type(sample)(metainfo=dict(img_shape=(height, width)))
    padded.gt_instances = InstanceData(bboxes=boxes, labels=sample.gt_instances.labels)
    return padded
