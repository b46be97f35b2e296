"""Small YOLOs, and what their tests feed them. It imports without MMYOLO, which is optional."""

import copy
from contextlib import contextmanager

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmscale.registry import HAS_MMYOLO, MODELS

ABSENT = 'mmyolo, which the YOLOs stand on, is not installed'
needs_mmyolo = pytest.mark.skipif(not HAS_MMYOLO, reason=ABSENT)

CLASSES = 3
WIDTHS = [32, 64, 128]  # of the strides 8, 16 and 32 at a widen_factor of 1/8
SCALE = dict(deepen_factor=1 / 3, widen_factor=1 / 8)
BATCH = (96, 128)  # height and width
SHAPES = [(96, 128), (64, 80)]  # of the images without padding
BORDER = 64  # image 0 has its objects to the right of it, image 1 to the left
OBJECTS = [[[70.0, 20, 119, 90], [90, 9, 123, 31]], [[8.0, 7, 41, 30], [9, 24, 58, 61]]]
LABELS = [0, 2]
BOX_LOSS = dict(
    type='mmyolo.IoULoss', iou_mode='ciou', bbox_format='xyxy', reduction='sum', loss_weight=7.5, return_iou=False
)
RF_MPDIOU = dict(type='mmscale.RFMPDIoULoss', reduction='sum', loss_weight=2.0)


def build(type: str, **options) -> nn.Module:
    """A component of ``mmscale``, under whatever scope is set; or MMYOLO's by its full name, under MMYOLO's."""
    if type.startswith('mmyolo.'):
        with DefaultScope.overwrite_default_scope('mmyolo'):
            return MODELS.build(dict(type=type, **options))
    return MODELS.build(dict(type=type if '.' in type else f'mmscale.{type}', **options))


def backbone(type='mmyolo.YOLOv8CSPDarknet', **options) -> dict:
    return dict(type=type, **{**SCALE, **options})


def neck(type='mmyolo.YOLOv8PAFPN', **options) -> dict:
    return dict(type=type, **{**SCALE, **dict(in_channels=[256, 512, 1024], out_channels=[256, 512, 1024]), **options})


def head_module(type='mmyolo.YOLOv8HeadModule', **options) -> dict:
    return dict(type=type, **{**dict(num_classes=CLASSES, in_channels=WIDTHS), **options})


def head(type='mmyolo.YOLOv8Head', module=None, topk=10, **options) -> dict:
    """A head for maps of :data:`WIDTHS`."""
    assigner = dict(type='mmyolo.BatchTaskAlignedAssigner', num_classes=CLASSES, topk=topk, alpha=0.5, beta=6.0)
    cfg = dict(
        type=type,
        head_module=module or head_module(),
        prior_generator=dict(type='mmdet.MlvlPointGenerator', offset=0.5, strides=[8, 16, 32]),
        bbox_coder=dict(type='mmyolo.DistancePointBBoxCoder'),
        loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='none', loss_weight=0.5),
        loss_bbox=BOX_LOSS,
        loss_dfl=dict(type='mmdet.DistributionFocalLoss', reduction='mean', loss_weight=1.5 / 4),
        train_cfg=ConfigDict(assigner=dict(**assigner, use_ciou=True, eps=1e-9)),
        test_cfg=ConfigDict(test_cfg()),
    )
    return copy.deepcopy({**cfg, **options})


def test_cfg(score_thr=0.001) -> dict:
    nms = dict(type='nms', iou_threshold=0.7)
    return dict(multi_label=True, nms_pre=1000, score_thr=score_thr, nms=nms, max_per_img=20)


test_cfg.__test__ = False  # it is none


def detector(bbox_head=None, score_thr=0.05, **parts) -> dict:
    """A YOLO's config; parts take the place of YOLOv8's."""
    bbox_head = dict(bbox_head or head())
    train = bbox_head.pop('train_cfg')
    bbox_head.pop('test_cfg')
    test = ConfigDict(test_cfg(score_thr))
    parts = {**dict(backbone=backbone(), neck=neck()), **parts}
    return dict(type='mmyolo.YOLODetector', **parts, bbox_head=bbox_head, train_cfg=train, test_cfg=test)


def maps(widths=WIDTHS, size=BATCH, batch=2, strides=(8, 16, 32), seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, width, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for width, stride in zip(widths, strides, strict=True)
    ]


def stirred(module: nn.Module, seed=0) -> nn.Module:
    """In evaluation mode, with weights and statistics that leave nothing at its start."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator).to(like)

    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data = draw(part.weight, 0.5, 1.5)
            part.bias.data = draw(part.bias, -0.5, 0.5)
            part.running_mean = draw(part.running_mean, -0.5, 0.5)
            part.running_var = draw(part.running_var, 0.5, 2.0)
        elif isinstance(part, nn.Conv2d):
            bound = (3 / part.weight[0].numel()) ** 0.5
            part.weight.data = draw(part.weight, -bound, bound)
        if isinstance(getattr(part, 'gamma', None), nn.Parameter):
            part.gamma.data = draw(part.gamma, 0.5, 1.5)
    module.eval()
    return module


def samples(objects=OBJECTS, shapes=SHAPES, **meta) -> list[DetDataSample]:
    """One of every image, padded to :data:`BATCH`."""
    out = []
    for boxes, shape in zip(objects, shapes, strict=True):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape,
                ori_shape=shape,
                pad_shape=BATCH,
                batch_input_shape=BATCH,
                scale_factor=(1.0, 1.0),
                **meta,
            )
        )
        boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(LABELS[: len(boxes)], dtype=torch.long))
        out.append(sample)
    return out


def collated(objects=OBJECTS) -> dict:
    """The batch as MMYOLO's ``yolov5_collate`` and its data pre-processor make it."""
    rows = [
        [image, label, *box]
        for image, boxes in enumerate(objects)
        for label, box in zip(LABELS, boxes, strict=False)
    ]
    metas = [dict(batch_input_shape=BATCH)] * len(objects)
    return dict(bboxes_labels=torch.tensor(rows).reshape(-1, 6), img_metas=metas)


def count(*modules: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def weigh(outs) -> torch.Tensor:
    """A number to which every value counts in its own way."""
    generator = torch.Generator().manual_seed(7)
    return sum((out * torch.randn(out.shape, generator=generator).to(out)).sum() for out in outs)


def without_gradient(module: nn.Module) -> list[str]:
    """Names of the parameters that a backward pass did not reach."""
    return [name for name, p in module.named_parameters() if p.grad is None or not (p.grad != 0).any()]


def moved(head, seed=3):
    """With weights that tell branches, levels and classes apart; still in training."""
    stirred(head, seed)
    head.train()
    return head


@contextmanager
def assigned(*assigners):
    """What each assigner returns."""
    calls = [[] for _ in assigners]
    handles = [
        assigner.register_forward_hook(
            lambda m, args, out, call=call: call.append(copy.deepcopy(out) | dict(truth=args[4]))
        )
        for assigner, call in zip(assigners, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
