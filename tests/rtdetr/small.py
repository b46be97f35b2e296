"""A small RT-DETR, and batches for it."""

import copy
import re

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmscale.registry import MODELS

CLASSES = 5
STEP = 0.1
LAST_NORM = r'layer\d\.\d+\.bn3\.weight'
ASSIGNER = dict(
    type='mmdet.HungarianAssigner',
    match_costs=[
        dict(type='mmdet.FocalLossCost', weight=2.0),
        dict(type='mmdet.BBoxL1Cost', weight=5.0, box_format='xywh'),
        dict(type='mmdet.IoUCost', iou_mode='giou', weight=2.0),
    ],
)
SMALL = dict(
    type='mmscale.RTDETR',
    num_queries=30,
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True, pad_size_divisor=32
    ),
    backbone=dict(type='mmscale.ResNetVd', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_eval=False),
    neck=dict(
        type='mmscale.HybridEncoder',
        in_channels=[16, 32, 64],
        out_channels=32,
        expansion=0.5,
        aifi=dict(num_heads=4, feedforward_channels=64),
    ),
    decoder=dict(num_layers=3, embed_dims=32, num_heads=4, feedforward_channels=64),
    bbox_head=dict(type='mmscale.RTDETRHead', num_classes=CLASSES, embed_dims=32),
    train_cfg=dict(assigner=ASSIGNER),
    test_cfg=dict(max_per_img=30),
)


def config(**changes):
    """The small detector's config; ``neck__out_channels=16`` changes one of a part's options."""
    cfg = copy.deepcopy(SMALL)
    for key, value in changes.items():
        *parts, last = key.split('__')
        owner = cfg
        for part in parts:
            owner = owner[part]
        owner[last] = value
    return cfg


def detector(seed=0, **changes):
    """The small detector as it starts; its weights are drawn from the seed."""
    init_default_scope('mmscale')
    torch.manual_seed(seed)
    model = MODELS.build(config(**changes))
    model.init_weights()
    return model


def stirred(model, seed=0):
    """Weights of a trained network's spread, that no layer is silent and no two branches are alike.

    Boxes move in steps as small as a trained decoder's: with large ones it is chaotic, and the last digit decides.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator)

    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() > 1:
            gain = STEP if re.search(r'sampling_offsets|reg_branches\.\d+\.4', name) else 1.0
            value.copy_(gain * normal(value) / value[0].numel() ** 0.5)
        elif value.is_floating_point():
            if 'sampling_offsets' not in name:  # which start at a pattern
                value.fill_(1.0 if name.endswith(('weight', 'scale')) else 0.0)
            value.add_(0.05 * normal(value))
            if re.search(LAST_NORM, name):
                value.mul_(STEP)
    for name, parameter in model.named_parameters():
        if name.startswith('bbox_head.cls_branches') and name.endswith('bias'):
            nn.init.constant_(parameter, -1.0)
    return model


def calibrated(model, image):
    """Batch norms' statistics of an image's own maps, so that deep features differ from place to place."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.extract_feat(image)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def samples(counts, size=(96, 128), image_size=None, seed=0, classes=CLASSES):
    """Data samples with ``counts[i]`` objects in image i, in a batch of ``size``; ``image_size`` is the images' own."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image_size or size
    batch = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([0.6 * width, 0.6 * height])
        side = (torch.rand(count, 2, generator=generator) * 0.3 + 0.08) * torch.tensor([width, height])
        batch.append(
            sample(
                torch.cat((corner, corner + side), dim=1),
                torch.randint(0, classes, (count,), generator=generator),
                size,
                image_size,
            )
        )
    return batch


def sample(boxes, labels, size, image_size=None):
    """One data sample with boxes (x1, y1, x2, y2) in pixels."""
    meta = dict(img_shape=tuple(image_size or size), batch_input_shape=tuple(size), scale_factor=(1.0, 1.0))
    result = DetDataSample(metainfo=meta)
    result.gt_instances = InstanceData(
        bboxes=torch.as_tensor(boxes, dtype=torch.float).reshape(-1, 4), labels=torch.as_tensor(labels).long()
    )
    return result


def images(batch=2, size=(96, 128), seed=0):
    """Patches of random colours, and noise on them: a picture has something to see at every scale."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(batch, 3, *size)
    for parts in (1, 4, 16, 64):
        rough = torch.rand(batch, 3, -(-size[0] // parts), -(-size[1] // parts), generator=generator)
        image += F.interpolate(rough, size=size) / 4
    return image


def without_gradient(model):
    """Names of the parameters that should have learned from the last backward, and did not take part."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def not_finite(model):
    return [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
