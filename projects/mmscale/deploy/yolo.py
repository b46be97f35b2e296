"""The YOLOs: MMYOLO's post-processing, for a whole batch and without Python loops, and YOLOv10's without NMS.

    MMYOLO's:   scores (times objectness) -- nms_pre best of (position, class) -- above score_thr -- min_bbox_size --
                NMS per class -- max_per_img best -- clip
    YOLOv10's:  the N best positions -- of their pairs with a class the N best -- clip

Only where MMYOLO, which is optional, is installed: :mod:`mmscale.deploy` imports this module then.

Shape shorthand in this module:
    B: batch, A: priors of a position of a map, M: priors of all levels, C: classes, K: candidates per image, N:
    detections per image
"""

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn

from mmscale.yolo.api import YOLOv5Head
from mmscale.yolo.heads import YOLOv10Head

from .detector import ExportableDetector, register_adapter, take
from .with_nms import ExportableWithNMS, by_position

__all__ = ['ExportableYOLO', 'ExportableYOLOv10']


@register_adapter
class ExportableYOLO(ExportableWithNMS):
    """A detector whose head predicts as MMYOLO's ``YOLOv5Head`` does, as do those of YOLOv6, v7 and v8.

    ``nms_pre`` is kept, whatever it is: as many candidates of an image go through NMS as MMYOLO takes.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.

    Raises:
        ValueError: If ``test_cfg`` asks for what the graph does not do: another NMS, or no limit on candidates or
            detections.
    """

    family = "detectors whose head keeps MMYOLO's own post-processing (YOLOv5 to v8, v12)"
    NMS_PRE = 100000  # MMYOLO's

    def __init__(self, model: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__(model, size)
        cfg = self.head.test_cfg
        if cfg.get('yolox_style', False):
            raise ValueError(
                'test_cfg.yolox_style=True sets no limit on detections, but an exported file returns a fixed number: '
                'set it to False, max_per_img then holds'
            )
        self.multi_label = cfg.multi_label and self.head.num_classes > 1

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether nothing of MMYOLO's post-processing was overridden."""
        if not isinstance(model, SingleStageDetector) or type(model).predict is not SingleStageDetector.predict:
            return False
        head = type(model.bbox_head)
        return (
            issubclass(head, YOLOv5Head)
            and head.predict_by_feat is YOLOv5Head.predict_by_feat
            and all(getattr(head, step) is getattr(BaseDenseHead, step) for step in ('predict', '_bbox_post_process'))
        )

    def detect(self, inputs: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`~mmscale.deploy.ExportableDetector`."""
        scores, boxes = predict_everywhere(self, inputs)
        if self.multi_label:
            scores, pairs = self.best(scores.flatten(1))
            places, labels = pairs // self.head.num_classes, pairs % self.head.num_classes
        else:
            scores, labels = scores.max(dim=2)
            scores, places = self.best(scores)
            labels = take(labels, places)
        boxes, scores, labels = self.finish(take(boxes, places), scores, labels)
        return torch.minimum(boxes.clamp(min=0), size), scores, labels


@register_adapter
class ExportableYOLOv10(ExportableDetector):
    """YOLOv10 with its one-to-one branch alone, and no NMS.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.
    """

    family = 'YOLOv10'

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether it has YOLOv10's head."""
        return isinstance(getattr(model, 'bbox_head', None), YOLOv10Head)

    def detect(self, inputs: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`~mmscale.deploy.ExportableDetector`."""
        cfg = self.model.bbox_head.test_cfg or {}
        count = cfg.get('max_per_img', 300)
        scores, boxes = predict_everywhere(self, inputs)
        positions = self.known(scores.shape[1:2])[0]
        # N stays a constant: where there are fewer positions, they are followed by some of score -1
        missing = count if self.size is None else max(count - positions, 0)
        if missing:
            scores, boxes = F.pad(scores, (0, 0, 0, missing), value=-1.0), F.pad(boxes, (0, 0, 0, missing))
        scores, boxes, labels = self.model.bbox_head.select(scores, boxes, count)
        found = scores > max(cfg.get('score_thr', 0), 0)
        if missing:  # MMScale's head finds no more than there are positions
            found = found & (torch.arange(count, device=scores.device) < positions)
        return torch.minimum(boxes.clamp(min=0), size), torch.where(found, scores, 0.0), labels


def predict_everywhere(exportable: ExportableDetector, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and boxes of every prior.

    Args:
        exportable (ExportableDetector): The detector, one of the YOLOs.
        inputs (Tensor): ``(B, 3, H, W)``.

    Returns:
        tuple[Tensor, Tensor]: Scores ``(B, M, C)``, with the objectness if there is one, and boxes ``(B, M, 4)``.
    """
    head = exportable.model.bbox_head
    cls_scores, bbox_preds, *more = head(exportable.model.extract_feat(inputs))  # (B, A * C, H, W) of every level, ...
    sizes = [exportable.known(x.shape[-2:]) for x in cls_scores]
    priors = head.prior_generator.grid_priors(sizes, device=inputs.device)
    strides = [torch.full_like(prior[:, 0], stride) for prior, stride in zip(priors, head.featmap_strides, strict=True)]

    def join(levels: list[Tensor], channels: int) -> Tensor:
        return torch.cat([by_position(x, channels) for x in levels], dim=1).float()  # as the priors

    scores = join(cls_scores, head.num_classes).sigmoid()
    if more and more[0] is not None:
        scores = scores * join(more[0], 1).sigmoid()
    return scores, head.bbox_coder.decode(torch.cat(priors)[None], join(bbox_preds, 4), torch.cat(strides))
