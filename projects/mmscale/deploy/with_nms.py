"""How detectors with NMS end: for a whole batch, with a fixed number of candidates and of detections.

    boxes, scores, labels -- min_bbox_size -- NMS per class -- max_per_img best

MMDetection and MMYOLO do this image by image with as many rows as pass a threshold. Here every image keeps all its
candidates, and one that they would have dropped has score 0; the detections are the same.

Shape shorthand in this module:
    B: batch, K: candidates per image, N: detections per image
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .detector import ExportableDetector, take
from .nms import keep_best

__all__ = ['ExportableWithNMS', 'by_position']


class ExportableWithNMS(ExportableDetector):
    """A detector whose ``bbox_head`` has a ``test_cfg`` with NMS.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.

    Raises:
        ValueError: If ``test_cfg`` asks for what the graph does not do: another NMS, or no limit on candidates.
    """

    NMS_PRE = -1
    """int: ``nms_pre`` where ``test_cfg`` has none."""

    def __init__(self, model: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__(model, size)
        self.head = model.bbox_head
        cfg = self.head.test_cfg or {}
        self.nms_pre = _positive('nms_pre', cfg.get('nms_pre', self.NMS_PRE))
        self.max_per_img = _positive('max_per_img', cfg.get('max_per_img', -1))
        self.score_thr = cfg.get('score_thr', 0)
        self.min_bbox_size = cfg.get('min_bbox_size', -1)
        self.iou_threshold, self.class_agnostic = _read_nms(cfg.get('nms'))

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The ``nms_pre`` best of an image's scores, and which they are.

        Args:
            scores (Tensor): ``(B, M)``, not below 0.

        Returns:
            tuple[Tensor, Tensor]: Scores, 0 where they are not above ``score_thr``, and places among the M, ``(B, K)``
            each. Of a fixed size, K is the smaller one of M and ``nms_pre``; of an open one, ``nms_pre``.
        """
        count, total = self.nms_pre, scores.shape[1]
        if self.size is None:  # K stays a constant: where there are fewer scores, the best of them are followed by -1
            scores, places = F.pad(scores, (0, count), value=-1.0).topk(count)
        elif count < int(total):
            scores, places = scores.topk(count)
        else:  # all of them; NMS sorts by itself
            places = torch.arange(int(total), device=scores.device).expand_as(scores)
        valid = scores > max(self.score_thr, 0)
        return torch.where(valid, scores, 0.0), torch.where(valid, places, 0)

    def finish(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections out of candidates.

        Args:
            boxes (Tensor): ``(B, K, 4)``.
            scores (Tensor): ``(B, K)``, 0 for no candidate.
            labels (Tensor): ``(B, K)``.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Boxes ``(B, N, 4)``, scores ``(B, N)``, descending, and labels ``(B, N)``.
        """
        missing = self.max_per_img - int(scores.shape[1])
        if missing > 0:
            boxes = F.pad(boxes, (0, 0, 0, missing))
            scores, labels = (F.pad(x, (0, missing)) for x in (scores, labels))
        if self.min_bbox_size >= 0:
            large = (boxes[..., 2:] - boxes[..., :2] > self.min_bbox_size).all(-1)
            scores = torch.where(large, scores, 0.0)
        if self.iou_threshold is not None:
            kept = keep_best(self._apart(boxes, scores, labels), scores, self.iou_threshold, self.max_per_img)
            scores = torch.where(kept, scores, 0.0)
        scores, best = scores.topk(self.max_per_img)
        return take(boxes, best), scores, take(labels, best)

    def _apart(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Boxes moved apart by class, so that one NMS serves all classes; as far as in MMCV's ``batched_nms``."""
        if self.class_agnostic:
            return boxes
        farthest = torch.where(scores[..., None] > 0, boxes, 0.0).amax((1, 2), keepdim=True)
        return boxes + labels[..., None].to(boxes.dtype) * (farthest + 1)


def by_position(x: Tensor, channels: int) -> Tensor:
    """``(B, A * channels, H, W)`` to ``(B, H * W * A, channels)``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def _positive(key: str, value: int) -> int:
    if value < 1:
        raise ValueError(
            f'test_cfg.{key}={value} sets no limit, but an exported file returns a fixed number of detections out of a '
            'fixed number of candidates: give a positive number'
        )
    return value


def _read_nms(cfg: dict | None) -> tuple[float | None, bool]:
    """IoU threshold, None without NMS, and whether classes suppress each other."""
    if cfg is None:
        return None, False
    unknown = sorted(set(cfg) - {'type', 'iou_threshold', 'class_agnostic', 'split_thr'})
    if cfg.get('type', 'nms') != 'nms' or unknown or 'iou_threshold' not in cfg:
        raise ValueError(
            f"test_cfg.nms={dict(cfg)} cannot be exported: ONNX has dict(type='nms', iou_threshold=...), with "
            'class_agnostic or without'
        )
    return float(cfg['iou_threshold']), bool(cfg.get('class_agnostic', False))
