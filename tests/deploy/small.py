"""Detectors small enough to be exported in seconds, with random weights whose scores lie well apart."""

from functools import cache

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.deploy import build_file

PREPROCESSOR = dict(
    type='mmdet.DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
BACKBONE = dict(type='mmdet.ResNet', depth=18, base_channels=8)
FPN = dict(
    type='mmdet.FPN',
    in_channels=[8, 16, 32, 64],
    out_channels=16,
    start_level=1,
    add_extra_convs='on_output',
    num_outs=5,
)
TEST_CFG = dict(nms_pre=60, min_bbox_size=0, score_thr=0.02, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)
HEADS = dict(
    fcos=dict(type='mmdet.FCOSHead', norm_cfg=None, norm_on_bbox=True, strides=[8, 16, 32, 64, 128]),
    retinanet=dict(
        type='mmdet.RetinaHead',
        anchor_generator=dict(
            type='mmdet.AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
    ),
    ssd=dict(
        type='mmdet.SSDHead',
        in_channels=[16] * 5,
        anchor_generator=dict(
            type='mmdet.SSDAnchorGenerator',
            scale_major=False,
            input_size=300,
            basesize_ratio_range=(0.15, 0.9),
            strides=[8, 16, 32, 64, 128],
            ratios=[[2], [2, 3], [2, 3], [2], [2]],
        ),
    ),
)
CODER = dict(type='mmdet.DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])


def dense_config(name: str) -> dict:
    """``fcos``, ``retinanet`` or ``ssd``, with ``-fine`` for FINE in its neck."""
    kind, _, fine = name.partition('-')
    neck = dict(FPN, type='mmscale.FINEFPN') if fine else FPN
    head = dict(num_classes=3, in_channels=16, **HEADS[kind]) if kind != 'ssd' else dict(num_classes=3, **HEADS[kind])
    if kind != 'ssd':
        head |= dict(feat_channels=16, stacked_convs=1)
    if kind != 'fcos':
        head |= dict(bbox_coder=CODER)
    types = dict(fcos='mmdet.FCOS', retinanet='mmdet.RetinaNet', ssd='mmdet.SingleStageDetector')
    return dict(
        type=types[kind],
        data_preprocessor=PREPROCESSOR,
        backbone=BACKBONE,
        neck=neck,
        bbox_head=head,
        test_cfg=TEST_CFG,
    )


def rtdetr_config(name: str) -> dict:
    """``rtdetr``, or ``rtdetr-fine``."""
    return dict(
        type='mmscale.RTDETR',
        num_queries=30,
        data_preprocessor=dict(PREPROCESSOR, mean=[0.0] * 3, std=[255.0] * 3),
        backbone=dict(BACKBONE, out_indices=(1, 2, 3)),
        neck=dict(
            type='mmscale.FINEHybridEncoder' if name.endswith('-fine') else 'mmscale.HybridEncoder',
            in_channels=[16, 32, 64],
            out_channels=16,
            num_blocks=1,
            aifi=dict(num_heads=2, feedforward_channels=16),
        ),
        decoder=dict(num_layers=2, embed_dims=16, num_heads=2, feedforward_channels=16),
        bbox_head=dict(type='mmscale.RTDETRHead', num_classes=3, embed_dims=16),
        test_cfg=dict(max_per_img=20),
    )


def whole_config(name: str) -> Config:
    """A config with a model, a test pipeline and class names."""
    model = rtdetr_config(name) if name.startswith('rtdetr') else dense_config(name)
    pipeline = [
        dict(type='mmscale.LoadImageFromFile'),
        dict(type='mmdet.Resize', scale=(320, 240), keep_ratio=not name.startswith('rtdetr')),
        dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(type='mmscale.VOCDataset', metainfo=dict(classes=('RBC', 'WBC', 'Platelets')), pipeline=pipeline)
    parts = dict(default_scope='mmdet', model=model, test_dataloader=dict(dataset=dataset))
    return Config(parts, cfg_text='written by a test', filename=f'{name}.py')


def spread(model: nn.Module) -> nn.Module:
    """Weights that tell places and classes apart: scores from 0.02 to 0.9, boxes of some pixels' difference."""
    generator = torch.Generator().manual_seed(1)
    head = model.bbox_head
    for name, parameter in head.named_parameters():
        if name.endswith('.scale'):  # FCOS's per level
            continue
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if 'branches' in name else 0.1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.running_mean.shape, generator=generator) * 0.1
            module.running_var = torch.rand(module.running_var.shape, generator=generator) + 0.5
    return model


@cache
def small_detector(name: str) -> Detector:
    """A detector by the names of :func:`dense_config` and :func:`rtdetr_config`; shared, so leave it as it is."""
    config = whole_config(name)
    return Detector(config, spread(build_model(config)), 'random weights', ('RBC', 'WBC', 'Platelets'))


@cache
def small_file(name: str, size: tuple[int, int] | None = None):
    """Its file."""
    return build_file(small_detector(name), size)


def read_batch(bccd_root, size: tuple[int, int], count: int) -> np.ndarray:
    """Real images in RGB, ``(count, 3, H, W)``."""
    files = sorted((bccd_root / 'JPEGImages').glob('*.jpg'))[:count]
    images = [cv2.resize(cv2.imread(str(file)), size[::-1])[..., ::-1] for file in files]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2), dtype=np.float32)
