"""A small HSD-DETR, whole, and batches for it: HCSSNet behind SPDMixer, DSAIFI, RF-MPDIoU.

At 96x128 the scan of stage 1 has 768 tokens in 24 chunks, and DSAIFI 12 keys.
"""

import copy
from functools import cache

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.hsd_detr import AGSA, SS2D
from mmscale.registry import MODELS

from ..rtdetr.small import ASSIGNER, calibrated, images, not_finite, samples, stirred, without_gradient

__all__ = [
    'CLASSES',
    'MODEL',
    'batch',
    'model_config',
    'not_finite',
    'shares',
    'small_detector',
    'spread_model',
    'total',
    'training_model',
    'whole_config',
    'without_gradient',
]

CLASSES = ('RBC', 'WBC', 'Platelets')
GATE = (1.0, 1.5)  # mean and spread of the gate's logits: K differs from image to image
HCSSNET = dict(type='mmscale.HCSSNet', arch=dict(widths=(16, 32, 48, 64), depths=(1, 1, 1, 1)), stem='spd_mixer')
RESNET = dict(type='mmscale.ResNetVd', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_eval=False)
MODEL = dict(
    type='mmscale.RTDETR',
    num_queries=20,
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], bgr_to_rgb=True, pad_size_divisor=1
    ),
    backbone=HCSSNET,
    neck=dict(
        type='mmscale.HybridEncoder',
        in_channels=[32, 48, 64],
        out_channels=32,
        expansion=0.5,
        num_blocks=1,
        aifi=dict(type='mmscale.DSAIFI', feedforward_channels=32),
    ),
    decoder=dict(num_layers=2, embed_dims=32, num_heads=4, feedforward_channels=32),
    bbox_head=dict(
        type='mmscale.RTDETRHead',
        num_classes=len(CLASSES),
        embed_dims=32,
        loss_iou=dict(type='mmscale.RFMPDIoULoss', loss_weight=2.0),
    ),
    dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=10)),
    train_cfg=dict(assigner=ASSIGNER),
    test_cfg=dict(max_per_img=20),
)
# The whole, and its parts in an RT-DETR with ResNet-18-vd.
KINDS = {
    'hsd-detr': {},
    'dsaifi': dict(backbone=RESNET, neck=dict(in_channels=[16, 32, 64])),
    'spdmixer': dict(
        backbone=dict(RESNET, type='mmscale.SPDMixerResNetVd'),
        neck=dict(in_channels=[16, 32, 64], aifi=dict(type='mmscale.AIFI', num_heads=4)),
    ),
}


def model_config(kind='hsd-detr', **backbone) -> dict:
    """The config of one of :data:`KINDS`, with other arguments of its backbone."""
    model = copy.deepcopy(MODEL)
    changes = copy.deepcopy(KINDS[kind])
    model['neck'].update(changes.get('neck', {}))
    model['backbone'] = changes.get('backbone', model['backbone']) | backbone
    return model


def whole_config(kind='hsd-detr', size=(128, 96), model=None) -> Config:
    """A config with a model, a test pipeline and class names; images are stretched to one size."""
    pipeline = [
        dict(type='mmscale.LoadImageFromFile'),
        dict(type='mmdet.Resize', scale=size, keep_ratio=False),
        dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(type='mmscale.VOCDataset', metainfo=dict(classes=CLASSES), pipeline=pipeline)
    parts = dict(default_scope='mmdet', model=model or model_config(kind), test_dataloader=dict(dataset=dataset))
    return Config(parts, cfg_text='written by a test', filename=f'{kind}.py')


def training_model(seed=0, **backbone) -> nn.Module:
    """The small detector in training mode, as it starts."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(seed)
        model = MODELS.build(model_config(**backbone))
        model.init_weights()
    return model.train()


def batch(counts, size=(96, 128), image_size=None, seed=0):
    """Images, and data samples with ``counts[i]`` objects in image i."""
    return images(len(counts), size, seed), samples(counts, size, image_size, seed, len(CLASSES))


def total(losses) -> torch.Tensor:
    """The loss that the engine would go down."""
    return sum(value for name, value in losses.items() if 'loss' in name)


def spread_model(config: Config) -> nn.Module:
    """A detector in evaluation mode with weights that tell places, classes and images apart.

    Steps and rates of the scans stay as they start, so that tokens are remembered for long; batch norms have the
    statistics of real maps; an image keeps few or many keys.
    """
    model = stirred(build_model(config))
    for module in model.modules():
        if isinstance(module, SS2D):
            module._init_scan()
    model = calibrated(model, images(4))
    for module in model.modules():
        if isinstance(module, AGSA):
            _spread_gate(model, module.gate)
    return model


@torch.no_grad()
def _spread_gate(model: nn.Module, gate: nn.Sequential) -> None:
    """Few keys for some images, many for others."""
    seen = []
    handle = gate.register_forward_hook(lambda module, args, output: seen.append(output))
    model.extract_feat(torch.cat((images(4), 0.3 * images(4, seed=1), 1 - images(4, seed=2))))
    handle.remove()
    mean, spread = GATE
    factor = spread / seen[0].std()
    gate[2].weight *= factor
    gate[2].bias.copy_((gate[2].bias - seen[0].mean()) * factor + mean)


@cache
def small_detector(kind='hsd-detr') -> Detector:
    """One of :data:`KINDS` as :func:`spread_model` makes it; shared, so leave it as it is."""
    config = whole_config(kind)
    return Detector(config, spread_model(config), 'random weights', CLASSES)


@torch.no_grad()
def shares(model: nn.Module, image: torch.Tensor) -> list[int]:
    """K, how many keys DSAIFI keeps of each image ``(B, 3, H, W)``, as the network gets it."""
    agsa, seen = model.neck.aifi.agsa, []
    handle = agsa.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.extract_feat(image)
    handle.remove()
    (x,) = seen
    return (agsa.rho(x) * x.shape[2] * x.shape[3]).floor().clamp(min=1).int().tolist()
