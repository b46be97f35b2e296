"""The heads of YOLOv10 and YOLOv12 in MMYOLO's form, and those that tell a loss the images' sizes.

Papers: "YOLOv10: Real-Time End-to-End Object Detection" (Wang et al., NeurIPS 2024), section 3.1 (dual assignments,
fig. 2a) and 3.2 ("Lightweight classification head"). YOLOv12 has YOLOv11's head: YOLOv8's boxes and such a
classification branch.

Shape shorthand in this module:
    B: batch, K: classes, R: bins of a side's distribution, M: positions of all levels, N: detections per image
"""

from collections.abc import Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.layers.image_sizes import image_sizes, state_rows
from mmscale.registry import MODELS

from .api import TASK_UTILS, YOLOv8Head, YOLOv8HeadModule
from .blocks import conv

__all__ = [
    'LightYOLOHeadModule',
    'SizeAwareYOLOv10Head',
    'SizeAwareYOLOv8Head',
    'YOLOv10Head',
    'YOLOv10HeadModule',
]


@MODELS.register_module()
class LightYOLOHeadModule(YOLOv8HeadModule):
    """YOLOv8's head module with YOLOv10's light classification branch, which YOLOv12 has, too.

    The branch: depthwise 3x3, 1x1, depthwise 3x3, 1x1, then the 1x1 to the scores.

    Args:
        *args: As MMYOLO's ``YOLOv8HeadModule``.
        **kwargs: As MMYOLO's ``YOLOv8HeadModule``.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        hidden = max(self.in_channels[0], min(self.num_classes, 100))
        cfg = dict(norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        self.cls_preds = nn.ModuleList(
            nn.Sequential(
                conv(width, width, 3, groups=width, **cfg),
                conv(width, hidden, **cfg),
                conv(hidden, hidden, 3, groups=hidden, **cfg),
                conv(hidden, hidden, **cfg),
                nn.Conv2d(hidden, self.num_classes, 1),
            )
            for width in self.in_channels
        )

    def init_weights(self, prior_prob: float = 0.01) -> None:
        """PyTorch's own start, and biases for few objects on large images (as MMYOLO's)."""
        if self.init_cfg is None:
            init_as_torch(self)
        super().init_weights(prior_prob)


@MODELS.register_module()
class YOLOv10HeadModule(BaseModule):
    """Two head modules of one form on the same maps: one to many, and one to one, which needs no NMS (fig. 2a).

    The second gets the maps without gradient, so that the network below learns from the first alone; at inference only
    the second runs.

    Args:
        module (str): Type of both. Defaults to ``'mmscale.LightYOLOHeadModule'``.
        run_both (bool): Whether the first runs at inference, too, as in the released code before it is exported. Its
            output is not used: this is for counting what papers counted. Defaults to False.
        init_cfg (dict or list[dict], optional): Defaults to None.
        **kwargs: Arguments of both, as MMYOLO's ``YOLOv8HeadModule``.
    """

    def __init__(
        self,
        module: str = 'mmscale.LightYOLOHeadModule',
        run_both: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        self.run_both = run_both
        self.one_to_many = MODELS.build(dict(type=module, **kwargs))
        self.one_to_one = MODELS.build(dict(type=module, **kwargs))

    num_classes = property(lambda self: self.one_to_one.num_classes)
    in_channels = property(lambda self: self.one_to_one.in_channels)
    num_base_priors = property(lambda self: self.one_to_one.num_base_priors)
    featmap_strides = property(lambda self: self.one_to_one.featmap_strides)
    reg_max = property(lambda self: self.one_to_one.reg_max)

    def init_weights(self) -> None:
        """Both start alike, as in the released code."""
        super().init_weights()
        self.one_to_one.load_state_dict(self.one_to_many.state_dict())

    def forward(self, x: tuple[Tensor, ...]) -> tuple:
        """Scores and distances of every level.

        Args:
            x (tuple[Tensor]): Maps of the neck.

        Returns:
            tuple: What ``YOLOv8HeadModule`` returns, of the one-to-one branch; in training before it, as a tuple, that
            of the one-to-many branch, and this one as a tuple, too.
        """
        if not self.training:
            if self.run_both:
                self.one_to_many(x)
            return self.one_to_one(x)
        return self.one_to_many(x), self.one_to_one(tuple(level.detach() for level in x))


@MODELS.register_module()
class YOLOv10Head(YOLOv8Head):
    """YOLOv10's head: consistent dual assignments in training, no NMS at inference.

    Both branches have YOLOv8's losses and its task-aligned assigner with the same alpha and beta (the paper's
    consistent matching metric); of an object's candidates the first takes ``topk``, the second one.

    Args:
        *args: As MMYOLO's ``YOLOv8Head``; the head module is a :class:`YOLOv10HeadModule`. Of ``test_cfg`` it reads
            ``max_per_img`` (300) and ``score_thr`` (0).
        one_to_one_topk (int): Candidates that the one-to-one branch takes for an object. Defaults to 1.
        **kwargs: As MMYOLO's ``YOLOv8Head``.
    """

    def __init__(self, *args, one_to_one_topk: int = 1, **kwargs) -> None:
        self.one_to_one_topk = one_to_one_topk
        super().__init__(*args, **kwargs)

    def special_init(self) -> None:
        """Both assigners."""
        super().special_init()
        if self.train_cfg:
            self.one_to_many_assigner = self.assigner
            self.one_to_one_assigner = TASK_UTILS.build({**self.train_cfg.assigner, 'topk': self.one_to_one_topk})

    def loss_by_feat(self, one_to_many: tuple, one_to_one: tuple, *targets, **kwargs) -> dict[str, Tensor]:
        """The losses of both branches.

        Args:
            one_to_many (tuple): Scores, distances and distributions of every level, of the one-to-many branch.
            one_to_one (tuple): Likewise, of the one-to-one branch.
            *targets: As ``YOLOv8Head``'s.
            **kwargs: As ``YOLOv8Head``'s.

        Returns:
            dict[str, Tensor]: ``YOLOv8Head``'s losses, those of the one-to-one branch as ``one_to_one.loss_cls``, ...
        """
        losses = super().loss_by_feat(*one_to_many, *targets, **kwargs)
        self.assigner = self.one_to_one_assigner
        try:
            own = super().loss_by_feat(*one_to_one, *targets, **kwargs)
        finally:
            self.assigner = self.one_to_many_assigner
        return losses | {f'one_to_one.{name}': loss for name, loss in own.items()}

    def decode(self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores ``(B, M, K)`` and boxes ``(B, M, 4)``, in pixels of the batch, of all levels, in float32."""
        sizes = [score.shape[2:] for score in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device, with_stride=True)
        priors = torch.cat(levels)
        scores = torch.cat([x.flatten(2) for x in cls_scores], dim=2).transpose(1, 2).float().sigmoid()
        distances = torch.cat([x.flatten(2) for x in bbox_preds], dim=2).transpose(1, 2).float()
        return scores, self.bbox_coder.decode(priors[:, :2], distances, priors[:, 2])

    @staticmethod
    def select(scores: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of a position and a class, without NMS.

        As the released code: first the ``count`` positions whose best class has the highest score, then of all their
        pairs the ``count`` highest.

        Args:
            scores (Tensor): ``(B, M, K)``.
            boxes (Tensor): ``(B, M, 4)``.
            count (int): N.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Scores ``(B, N)``, descending, boxes ``(B, N, 4)`` and labels ``(B, N)``.
        """
        classes = scores.shape[2]
        places = scores.amax(dim=2).topk(count, dim=1).indices
        scores = scores.gather(1, places[..., None].expand(-1, -1, classes))
        scores, pairs = scores.flatten(1).topk(count, dim=1)
        places = places.gather(1, pairs // classes)
        return scores, boxes.gather(1, places[..., None].expand(-1, -1, 4)), pairs % classes

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: None = None,
        batch_img_metas: Sequence[dict] | None = None,
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of every image.

        Args:
            cls_scores (Sequence[Tensor]): ``(B, K, H, W)`` of every level.
            bbox_preds (Sequence[Tensor]): ``(B, 4, H, W)``, distances of the sides over the stride, likewise.
            objectnesses (None): There are none.
            batch_img_metas (Sequence[dict]): MMDetection's meta information of every image.
            cfg (ConfigDict, optional): In place of ``test_cfg``. Defaults to None.
            rescale (bool): Whether boxes are in the original image's pixels. Defaults to False.
            with_nms (bool): Of no effect. Defaults to True.

        Returns:
            list[InstanceData]: ``bboxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,), scores descending.
        """
        cfg = self.test_cfg if cfg is None else cfg
        scores, boxes = self.decode(cls_scores, bbox_preds)
        count = min(cfg.get('max_per_img', 300), scores.shape[1])
        results = []
        for image in zip(*self.select(scores, boxes, count), batch_img_metas, strict=True):
            scores, boxes, labels, meta = image
            kept = scores > cfg.get('score_thr', 0)
            boxes, shape = boxes[kept], meta['img_shape']
            if rescale:
                boxes, shape = _to_original(boxes, meta), meta['ori_shape']
            boxes = torch.stack(
                [side.clamp(0, limit) for side, limit in zip(boxes.unbind(-1), (shape[1], shape[0]) * 2, strict=True)],
                dim=-1,
            )
            results.append(InstanceData(bboxes=boxes, scores=scores[kept], labels=labels[kept]))
        return results


def _to_original(boxes: Tensor, meta: dict) -> Tensor:
    """Boxes of a padded and resized image in the original's pixels."""
    if meta.get('pad_param') is not None:  # top, bottom, left, right
        boxes = boxes - boxes.new_tensor([meta['pad_param'][2], meta['pad_param'][0]] * 2)
    return boxes / boxes.new_tensor([*meta['scale_factor']] * 2)


@MODELS.register_module()
class SizeAwareYOLOv8Head(YOLOv8Head):
    """MMYOLO's YOLOv8 head, which tells RF-MPDIoU the size of each box's image.

    MMYOLO compares boxes in units of their level's stride; the sizes are told in the same unit. Ours, as in the other
    size-aware heads: each image's own size without padding where the head knows it; with MMYOLO's ``yolov5_collate``,
    whose batches are one size, the batch's.

    Args:
        *args: As MMYOLO's ``YOLOv8Head``.
        **kwargs: As MMYOLO's ``YOLOv8Head``.
    """

    def special_init(self) -> None:
        """The assigner, which also states what it selects."""
        super().special_init()
        if self.train_cfg:
            self.assigner.register_forward_hook(self._state_positives)

    def loss_by_feat(self, cls_scores: Sequence[Tensor], *args, **kwargs) -> dict[str, Tensor]:
        """The parent's, which knows the images' sizes meanwhile."""
        metas = kwargs['batch_img_metas'] if 'batch_img_metas' in kwargs else args[3]
        sizes = [_image_size(meta, cls_scores[0], self.featmap_strides[0]) for meta in metas]
        with image_sizes(sizes, rows='stated'):
            return super().loss_by_feat(cls_scores, *args, **kwargs)

    def _state_positives(self, assigner: nn.Module, inputs: tuple, assigned: dict) -> None:
        positive = assigned['fg_mask_pre_prior'].bool()
        images, places = positive.nonzero(as_tuple=True)
        state_rows(images, unit=self.stride_tensor[places, 0])


@MODELS.register_module()
class SizeAwareYOLOv10Head(YOLOv10Head, SizeAwareYOLOv8Head):
    """YOLOv10's head, both branches of which tell RF-MPDIoU the size of each box's image, as YOLOv8's does.

    Args:
        *args: As :class:`YOLOv10Head`.
        **kwargs: As :class:`YOLOv10Head`.
    """

    def special_init(self) -> None:
        """Both assigners, which also state what they select."""
        super().special_init()
        if self.train_cfg:
            self.one_to_one_assigner.register_forward_hook(self._state_positives)


def _image_size(meta: dict, scores: Tensor, stride: int) -> tuple[int, int]:
    """Width and height of an image, of the batch where the meta information does not say it."""
    height, width = meta.get('img_shape', (scores.shape[2] * stride, scores.shape[3] * stride))[:2]
    return width, height
