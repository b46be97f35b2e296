"""A small HMPE, whose parts can be switched off one by one."""

import torch
from mmengine.registry import init_default_scope

from mmscale.registry import MODELS

from ..rtdetr import small as rtdetr
from ..rtdetr.small import CLASSES, images, sample, samples, stirred

__all__ = ['CLASSES', 'MOHFE', 'config', 'detector', 'images', 'sample', 'samples', 'stirred', 'trained']

MOHFE = dict(num_heads=4, feedforward_channels=64, max_tokens=20)


def config(conv='LSConv', mohfe=True, hidq=True, **changes):
    """The small detector's config with every part, or without those that are False; changes as RT-DETR's."""
    if mohfe:
        changes = {'neck__aifi': None, 'neck__mohfe': dict(MOHFE), **changes}
    if conv:
        changes = {'neck__conv': dict(type=f'mmscale.{conv}'), **changes}
    if mohfe or hidq:
        changes = {'heatmap_head': dict(channels=16), **changes}
    types = {'type': 'mmscale.HMPE', 'neck__type': 'mmscale.HMPEEncoder', 'bbox_head__type': 'mmscale.HMPEHead'}
    return rtdetr.config(**{**types, 'hidq': hidq, **changes})


def detector(seed=0, **options):
    """The small detector as it starts; its weights are drawn from the seed."""
    init_default_scope('mmscale')
    torch.manual_seed(seed)
    model = MODELS.build(config(**options))
    model.init_weights()
    return model


def trained(**options):
    """With weights of a trained network's spread."""
    return stirred(detector(**options))
