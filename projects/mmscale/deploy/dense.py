"""One-stage detectors with dense heads: MMDetection's own post-processing, for a whole batch and without Python loops.

    per level:  scores -- nms_pre best of (position, class) -- above score_thr
    together:   decode -- clip -- times centre-ness -- min_bbox_size -- NMS per class -- max_per_img best

MMDetection does this image by image with as many rows as pass a threshold. Here every image keeps all its candidates,
and one that MMDetection would have dropped has score 0; the detections are the same.

Shape shorthand in this module:
    B: batch, P: priors of a level, C: classes, K: candidates per image, N: detections per image
"""

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from .detector import ExportableDetector, register_adapter, take
from .nms import keep_best

__all__ = ['ExportableDense']

OWN_STEPS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')


@register_adapter
class ExportableDense(ExportableDetector):
    """A one-stage detector whose head predicts as MMDetection's ``BaseDenseHead`` does.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.

    Raises:
        ValueError: If ``test_cfg`` asks for what the graph does not do: another NMS, or no limit on candidates.
    """

    family = "one-stage detectors whose head keeps MMDetection's own post-processing (FCOS, RetinaNet, SSD, ATSS ...)"

    def __init__(self, model: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__(model, size)
        self.head = model.bbox_head
        cfg = self.head.test_cfg or {}
        self.nms_pre, self.max_per_img = (_positive(cfg, key) for key in ('nms_pre', 'max_per_img'))
        self.score_thr = cfg.get('score_thr', 0)
        self.min_bbox_size = cfg.get('min_bbox_size', -1)
        self.iou_threshold, self.class_agnostic = _read_nms(cfg.get('nms'))

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether nothing of MMDetection's post-processing was overridden."""
        if not isinstance(model, SingleStageDetector) or type(model).predict is not SingleStageDetector.predict:
            return False
        head = type(model.bbox_head)
        return issubclass(head, BaseDenseHead) and all(
            getattr(head, step) is getattr(BaseDenseHead, step) for step in OWN_STEPS
        )

    def detect(self, inputs: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`ExportableDetector`."""
        scores, labels, priors, deltas, factors = self._candidates(inputs)
        boxes = self.head.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=None)
        boxes = get_box_tensor(boxes).view(*scores.shape, 4)
        if getattr(self.head.bbox_coder, 'clip_border', True):
            boxes = torch.minimum(boxes.clamp(min=0), size)
        if factors is not None:
            scores = scores * factors
        if self.min_bbox_size >= 0:
            large = (boxes[..., 2:] - boxes[..., :2] > self.min_bbox_size).all(-1)
            scores = torch.where(large, scores, 0.0)
        if self.iou_threshold is not None:
            kept = keep_best(self._apart(boxes, scores, labels), scores, self.iou_threshold, self.max_per_img)
            scores = torch.where(kept, scores, 0.0)
        scores, best = scores.topk(self.max_per_img)
        return take(boxes, best), scores, take(labels, best)

    def _candidates(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The best pairs of a position and a class of every level.

        Returns:
            tuple: Scores ``(B, K)``, 0 below the threshold, labels ``(B, K)``, priors ``(B, K, 2 or 4)``, box
            predictions ``(B, K, 4)`` and score factors ``(B, K)`` or None.
        """
        cls_scores, bbox_preds, *more = self.head(self.model.extract_feat(inputs))
        sizes = [self.known(x.shape[-2:]) for x in cls_scores]
        priors = self.head.prior_generator.grid_priors(sizes, dtype=cls_scores[0].dtype, device=inputs.device)
        levels = []
        for level, prior in enumerate(priors):
            scores, labels, places = self._best(cls_scores[level])
            deltas = _by_position(bbox_preds[level], self.head.bbox_coder.encode_size)
            factor = take(_by_position(more[0][level], 1)[..., 0].sigmoid(), places) if more else None
            levels.append((scores, labels, get_box_tensor(prior)[places], take(deltas, places), factor))
        *parts, factors = zip(*levels, strict=True)
        joined = [torch.cat(part, dim=1) for part in parts]
        factors = torch.cat(factors, dim=1) if more else None
        scores, *others = self._at_least(joined, self.max_per_img)
        return scores, *others, factors if factors is None else self._at_least([factors], self.max_per_img)[0]

    def _best(self, cls_score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, labels and positions of the ``nms_pre`` best pairs of a level, ``(B, k)`` each."""
        scores = self._activate(_by_position(cls_score, self.head.cls_out_channels))
        classes = self.head.num_classes
        scores = scores.flatten(1)
        count = self.nms_pre
        if self.size is None:  # k stays a constant: where a level has fewer pairs, the best of them are followed by -1
            scores = F.pad(scores, (0, count), value=-1.0)
        else:
            count = min(count, int(scores.shape[1]))
        scores, pairs = scores.topk(count)
        valid = scores > self.score_thr
        pairs = torch.where(valid, pairs, 0)
        return torch.where(valid, scores, 0.0), pairs % classes, pairs // classes

    def _activate(self, logits: Tensor) -> Tensor:
        """``(B, P, outputs)`` to scores of the C classes."""
        loss_cls = getattr(self.head, 'loss_cls', None)  # SSD's head has none
        if getattr(loss_cls, 'custom_cls_channels', False):
            return loss_cls.get_activation(logits)
        return logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]

    def _apart(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Boxes moved apart by class, so that one NMS serves all classes; as far as in MMCV's ``batched_nms``."""
        if self.class_agnostic:
            return boxes
        farthest = torch.where(scores[..., None] > 0, boxes, 0.0).amax((1, 2), keepdim=True)
        return boxes + labels[..., None].to(boxes.dtype) * (farthest + 1)

    def _at_least(self, tensors: list[Tensor], count: int) -> list[Tensor]:
        """Tensors ``(B, K, ...)`` filled up with zeros to ``count`` candidates, where there are fewer."""
        missing = count - int(tensors[0].shape[1])
        if missing <= 0:
            return tensors
        return [F.pad(x, (0, 0) * (x.dim() - 2) + (0, missing)) for x in tensors]


def _by_position(x: Tensor, channels: int) -> Tensor:
    """``(B, A * channels, H, W)`` to ``(B, H * W * A, channels)``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def _positive(cfg: dict, key: str) -> int:
    value = cfg.get(key, -1)
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
