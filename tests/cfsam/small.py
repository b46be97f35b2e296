"""A small SSD with CFSAM behind its neck, and batches for it.

Four maps of 12 to 1 points a side at 96x96, 190 tokens: two parts divide them, three do not.
"""

import copy
from functools import cache

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.registry import MODELS

from ..deploy.small import spread

CLASSES = ('RBC', 'WBC', 'Platelets')
WIDTHS = (16, 32, 16, 16)
MODEL = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_eval=False,
    ),
    neck=[
        dict(
            type='SSDNeck',
            in_channels=WIDTHS[:2],
            out_channels=WIDTHS,
            level_strides=(2, 1),
            level_paddings=(1, 0),
            l2_norm_scale=2,
        ),
        dict(
            type='mmscale.CFSAM',
            in_channels=WIDTHS,
            channels=16,
            num_layers=2,
            num_heads=2,
            feedforward_channels=24,
        ),
    ],
    bbox_head=dict(
        type='SSDHead',
        in_channels=WIDTHS,
        num_classes=3,
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            strides=[8, 16, 32, 96],
            ratios=[[2], [2, 3], [2, 3], [2]],
            min_sizes=[10, 20, 40, 64],
            max_sizes=[20, 40, 64, 96],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=60, nms=dict(type='nms', iou_threshold=0.45), min_bbox_size=0, score_thr=0.02, max_per_img=100
    ),
)


def model_config(**cfsam) -> dict:
    """The small detector's config, with other arguments of CFSAM."""
    model = copy.deepcopy(MODEL)
    model['neck'][1].update(cfsam)
    return model


def whole_config(size=96, model=None, **cfsam) -> Config:
    """A config with a model, a test pipeline and class names; images are stretched to a square."""
    pipeline = [
        dict(type='mmscale.LoadImageFromFile'),
        dict(type='mmdet.Resize', scale=(size, size), keep_ratio=False),
        dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(type='mmscale.VOCDataset', metainfo=dict(classes=CLASSES), pipeline=pipeline)
    parts = dict(default_scope='mmdet', model=model or model_config(**cfsam), test_dataloader=dict(dataset=dataset))
    return Config(parts, cfg_text='written by a test', filename='ssd-cfsam.py')


def training_model(seed=0, **cfsam) -> nn.Module:
    """The small detector in training mode, as it starts."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(seed)
        model = MODELS.build(model_config(**cfsam))
        model.init_weights()
    return model.train()


def spread_detector(config: Config) -> Detector:
    """A detector with weights that tell places and classes apart, and scores below 1, where ties would begin."""
    model = spread(build_model(config))
    for name, parameter in model.neck.named_parameters():  # it starts near the identity, where little would be tested
        if '.gfe.' in name and name.endswith('weight') and parameter.ndim == 2:
            parameter.data *= 5
    for name, parameter in model.bbox_head.cls_convs.named_parameters():
        parameter.data *= 0.3 if name.endswith('weight') else 0.0
    return Detector(config, model, 'random weights', CLASSES)


@cache
def small_detector(**cfsam) -> Detector:
    """The small detector; shared, so leave it as it is."""
    return spread_detector(whole_config(**cfsam))


def batch(counts, size=(96, 96), seed=0) -> tuple[Tensor, list[DetDataSample]]:
    """Images of noise, and data samples with ``counts[i]`` objects in image i."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(counts), 3, *size, generator=generator)
    return images, [_sample(count, size, generator) for count in counts]


def _sample(count, size, generator) -> DetDataSample:
    height, width = size
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([0.6 * width, 0.6 * height])
    side = (torch.rand(count, 2, generator=generator) * 0.3 + 0.1) * torch.tensor([width, height])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=torch.cat((corner, corner + side), dim=1), labels=torch.randint(0, 3, (count,), generator=generator)
    )
    return sample
