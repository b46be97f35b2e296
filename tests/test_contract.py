"""What every component registered under ``mmscale`` promises.

A component that is registered and not listed in ``MODEL_CONTRACTS`` fails here: state what it takes, what it returns
and how it stands in a detector, and it is tested with the rest.
"""

import re
from dataclasses import dataclass

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmscale.registry import MODELS

WIDTHS = [8, 16, 32, 64]
SIZES = [(24, 32), (12, 16), (6, 8), (3, 4)]  # strides 4 to 32 of an image of 96x128


@dataclass
class Contract:
    """What one component takes and returns, for a batch of two images of 96x128."""

    cfg: dict
    inputs: list  # shapes without the batch; one nested list where forward takes a sequence of maps
    outputs: list  # shapes of the maps that come back
    neck: dict  # the neck of a detector in which the component works
    no_gradient: str = r'(?!)'  # parameters whose gradient is zero by construction: a regular expression, and why


def align(type, no_gradient=r'(?!)', **options):
    """A module that is called with a low and a high level and returns the low one, used within FINEFPN."""
    cfg = dict(type=f'mmscale.{type}', channels=32, **options)
    fine = dict(num_heads=2) if type == 'FINE' else dict(attention=dict(type=f'mmscale.{type}'))
    return Contract(cfg, [(32, 12, 16), (32, 6, 8)], [(32, 12, 16)], neck('FINEFPN', fine=fine), no_gradient)


def neck(type, **options):
    """A neck of a detector with strides 8 to 128."""
    return dict(
        type=f'mmscale.{type}',
        in_channels=WIDTHS,
        out_channels=32,
        num_outs=5,
        start_level=1,
        add_extra_convs='on_output',
        **options,
    )


def fpn(type, no_gradient=r'(?!)', **options):
    """A neck with the interface of MMDetection's FPN, on its own with strides 4 to 64."""
    return Contract(
        {**neck(type, **options), 'start_level': 0, 'add_extra_convs': False},
        [[(c, *s) for c, s in zip(WIDTHS, SIZES, strict=True)]],
        [*((32, *s) for s in SIZES), (32, 2, 2)],
        neck(type, **options),
        no_gradient,
    )


# A bias on the keys adds the same to every score of a query, and the softmax takes it out again.
KEY_BIAS = r'key\.\d\.bias$'
# Offsets start at zero weights, which pass no gradient on to the layer before them until the first step is done.
BEFORE_OFFSETS = r'^(align\.\d\.difference|adapt\.\d\.upsample\.guide)\.'

MODEL_CONTRACTS = {
    'FINE': align('FINE', KEY_BIAS),
    'CrossLevelAttention': align('CrossLevelAttention', KEY_BIAS),
    'WindowCrossLevelAttention': align('WindowCrossLevelAttention', KEY_BIAS),
    'AreaCrossLevelAttention': align('AreaCrossLevelAttention', KEY_BIAS),
    'LinearCrossLevelAttention': align('LinearCrossLevelAttention'),
    'FINEFPN': fpn('FINEFPN', KEY_BIAS),
    'SNIFPN': fpn('SNIFPN'),
    'FaPN': fpn('FaPN', BEFORE_OFFSETS),
    'AdaFPN': fpn('AdaFPN', BEFORE_OFFSETS),
    'MGCFPN': fpn('MGCFPN'),
}


def registered():
    MODELS.import_from_location()
    return sorted(name for name, cls in MODELS.module_dict.items() if cls.__module__.startswith('mmscale.'))


@pytest.fixture(params=registered())
def contract(request):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    assert request.param in MODEL_CONTRACTS, (
        f'{request.param} is registered, but has no contract: add it to MODEL_CONTRACTS'
    )
    return MODEL_CONTRACTS[request.param]


def batch_of_two(shapes):
    return tuple(batch_of_two(s) if isinstance(s, list) else torch.randn(2, *s) for s in shapes)


def check_gradients(module, no_gradient):
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f'{name} has no gradient'
        assert parameter.grad.isfinite().all(), f'{name} has a gradient that is not finite'
        if not re.search(no_gradient, name):
            assert (parameter.grad != 0).any(), f'the gradient of {name} is zero'


def test_builds_from_a_config_in_mmdetections_registry(contract):
    module = MMDET_MODELS.build(contract.cfg)
    assert type(module).__doc__, 'a public component has a docstring'
    twin = MMDET_MODELS.build(contract.cfg)
    twin.load_state_dict(module.state_dict())


def test_shapes_and_gradients(contract):
    module = MMDET_MODELS.build(contract.cfg)
    outs = module(*batch_of_two(contract.inputs))
    outs = [outs] if torch.is_tensor(outs) else list(outs)
    assert [tuple(out.shape) for out in outs] == [(2, *shape) for shape in contract.outputs]
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    check_gradients(module, contract.no_gradient)


@pytest.mark.parametrize('objects', [(2, 0), (0, 0)], ids=['one image empty', 'both empty'])
def test_trains_with_images_without_objects(contract, objects):
    model = detector(contract.neck)
    inputs = torch.randn(2, 3, 96, 128)
    losses = model.loss(inputs, [sample(count) for count in objects])
    total = sum(value for loss in losses.values() for value in (loss if isinstance(loss, list) else [loss]))
    assert total.isfinite()
    total.backward()
    check_gradients(model.neck, '' if not any(objects) else contract.no_gradient)


def test_finds_nothing_without_failing(contract):
    model = detector(contract.neck, score_thr=2.0).eval()
    with torch.no_grad():
        results = model.predict(torch.randn(2, 3, 96, 128), [sample(0), sample(0)])
    assert [len(result.pred_instances) for result in results] == [0, 0]


def detector(neck, score_thr=0.05):
    """A small FCOS around the neck."""
    return MMDET_MODELS.build(
        dict(
            type='FCOS',
            backbone=dict(type='ResNet', depth=18, base_channels=8, norm_eval=False),
            neck=neck,
            bbox_head=dict(
                type='FCOSHead',
                num_classes=3,
                in_channels=32,
                feat_channels=32,
                stacked_convs=1,
                strides=[8, 16, 32, 64, 128],
                norm_cfg=dict(type='GN', num_groups=4),
            ),
            test_cfg=dict(nms_pre=100, score_thr=score_thr, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20),
        )
    )


def sample(objects):
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [50.0, 20.0, 120.0, 90.0]])[:objects]
    out = DetDataSample(
        metainfo=dict(img_shape=(96, 128), ori_shape=(96, 128), pad_shape=(96, 128), scale_factor=(1.0, 1.0))
    )
    out.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])[:objects])
    return out
