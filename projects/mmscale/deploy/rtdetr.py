"""RT-DETR: no NMS, the best pairs of a query and a class.

Shape shorthand in this module:
    B: batch, Q: queries, K: classes, N: detections per image
"""

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmscale.rtdetr import RTDETR

from .detector import ExportableDetector, register_adapter, take

__all__ = ['ExportableRTDETR']


@register_adapter
class ExportableRTDETR(ExportableDetector):
    """RT-DETR with the layers that its decoder runs at inference.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any that has as many
            positions as the detector has queries; the graph's TopK needs them.
    """

    family = 'RT-DETR'

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether it is an RT-DETR."""
        return isinstance(model, RTDETR)

    def detect(self, inputs: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`ExportableDetector`."""
        logits, boxes = (x[-1] for x in self.model(inputs, mode='tensor'))  # (B, Q, K), (B, Q, 4)
        queries, classes = int(logits.shape[1]), self.model.bbox_head.num_classes
        count = min((self.model.test_cfg or {}).get('max_per_img', queries), queries * classes)
        scores, pairs = logits.sigmoid().flatten(1).topk(count)
        boxes = bbox_cxcywh_to_xyxy(take(boxes, pairs // classes)) * self.size_of(inputs)
        return torch.minimum(boxes.clamp(min=0), size), scores, pairs % classes
