"""One-stage detectors with dense heads: MMDetection's own post-processing, for a whole batch and without Python loops.

    per level:  scores -- nms_pre best of (position, class) -- above score_thr
    together:   decode -- clip -- times centre-ness -- min_bbox_size -- NMS per class -- max_per_img best

Shape shorthand in this module:
    B: batch, P: priors of a level, C: classes, K: candidates per image, k: of them of a level
"""

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from .detector import register_adapter, take
from .with_nms import ExportableWithNMS, by_position

__all__ = ['ExportableDense']

OWN_STEPS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')


@register_adapter
class ExportableDense(ExportableWithNMS):
    """A one-stage detector whose head predicts as MMDetection's ``BaseDenseHead`` does.

    Args:
        model (nn.Module): The detector.
        size (tuple[int, int], optional): Height and width of the input. Defaults to None: any.

    Raises:
        ValueError: If ``test_cfg`` asks for what the graph does not do: another NMS, or no limit on candidates.
    """

    family = "one-stage detectors whose head keeps MMDetection's own post-processing (FCOS, RetinaNet, SSD, ATSS ...)"

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
        """See :class:`~mmscale.deploy.ExportableDetector`."""
        scores, labels, priors, deltas, factors = self._candidates(inputs)
        boxes = self.head.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=None)
        boxes = get_box_tensor(boxes).view(*scores.shape, 4)
        if getattr(self.head.bbox_coder, 'clip_border', True):
            boxes = torch.minimum(boxes.clamp(min=0), size)
        if factors is not None:
            scores = scores * factors
        return self.finish(boxes, scores, labels)

    def _candidates(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The best pairs of a position and a class of every level.

        Returns:
            tuple: Scores ``(B, K)``, 0 below the threshold, labels ``(B, K)``, priors ``(B, K, 2 or 4)``, box
            predictions ``(B, K, 4)`` and score factors ``(B, K)`` or None.
        """
        cls_scores, bbox_preds, *more = self.head(self.model.extract_feat(inputs))
        sizes = [self.known(x.shape[-2:]) for x in cls_scores]
        priors = self.head.prior_generator.grid_priors(sizes, dtype=cls_scores[0].dtype, device=inputs.device)
        classes = self.head.num_classes
        levels = []
        for level, prior in enumerate(priors):
            scores = self._activate(by_position(cls_scores[level], self.head.cls_out_channels))
            scores, pairs = self.best(scores.flatten(1))  # (B, k) of P * C
            places = pairs // classes
            deltas = by_position(bbox_preds[level], self.head.bbox_coder.encode_size)
            factor = take(by_position(more[0][level], 1)[..., 0].sigmoid(), places) if more else None
            levels.append((scores, pairs % classes, get_box_tensor(prior)[places], take(deltas, places), factor))
        *parts, factors = zip(*levels, strict=True)
        return *(torch.cat(part, dim=1) for part in parts), torch.cat(factors, dim=1) if more else None

    def _activate(self, logits: Tensor) -> Tensor:
        """``(B, P, outputs)`` to scores of the C classes."""
        loss_cls = getattr(self.head, 'loss_cls', None)  # SSD's head has none
        if getattr(loss_cls, 'custom_cls_channels', False):
            return loss_cls.get_activation(logits)
        return logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
