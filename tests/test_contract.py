"""What every component registered under ``mmscale`` promises.

A component that is registered and not listed in ``MODEL_CONTRACTS`` fails here: state what it takes, what it returns
and how it stands in a detector, and it is tested with the rest.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmscale.hmpe import Heatmaps
from mmscale.registry import HAS_MMYOLO, MODELS

from .hsd_detr import small_detectors
from .yolo import small as small_yolos

WIDTHS = [8, 16, 32, 64]
SIZES = [(24, 32), (12, 16), (6, 8), (3, 4)]  # strides 4 to 32 of an image of 96x128
YOLO_WIDTHS = [16, 32, 64, 128]
STAND_INS = 'mmscale.registry'  # where they are made for components that need an absent package


@dataclass
class Contract:
    """What one component takes and returns, for a batch of two images of 96x128."""

    cfg: dict
    inputs: list | Callable  # shapes without the batch (a nested list: a sequence of maps), or what makes the arguments
    outputs: list  # shapes of the maps that come back
    detector: dict | Callable  # a neck, for an FCOS in which the component works; or what builds another detector
    no_gradient: str = r'(?!)'  # parameters whose gradient is zero by construction: a regular expression, and why
    by_loss: str = r'(?!)'  # parameters that only the detector's losses reach: a regular expression
    part: str = 'neck'  # the detector's part that holds the component
    detections: int = 0  # of an image in which nothing is found; a detector without a threshold gives its worst

    def build_detector(self, score_thr=0.05) -> nn.Module:
        build = partial(fcos, self.detector) if isinstance(self.detector, dict) else self.detector
        return build(score_thr=score_thr)


def fcos(neck, score_thr=0.05, backbone=None):
    """A small FCOS around the neck; ``backbone`` changes options of its backbone."""
    return MMDET_MODELS.build(
        dict(
            type='FCOS',
            backbone={**dict(type='ResNet', depth=18, base_channels=8, norm_eval=False), **(backbone or {})},
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


def behind_fpn(type, width=None, **options):
    """A neck that takes any maps and keeps their sizes, and their widths unless told, behind an FPN."""
    inputs = [(c, *s) for c, s in zip(WIDTHS, SIZES, strict=True)]
    plain = {**neck('FPN'), 'type': 'FPN'}
    behind = dict(type=f'mmscale.{type}', in_channels=[32] * 5, **options)
    return Contract(
        {**behind, 'in_channels': WIDTHS},
        [inputs],
        [(width or c, *s) for c, *s in inputs],
        partial(fcos, [plain, behind]),
        part='neck.1',
    )


def resnet(type, outputs, part='backbone', **options):
    """A ResNet, or a part of one, in an FCOS with an FPN."""
    backbone = dict(type='mmscale.SPDMixerResNet')
    detector = partial(fcos, {**neck('FPN'), 'type': 'FPN'}, backbone=backbone)
    return Contract(dict(type=f'mmscale.{type}', **options), [(3, 96, 128)], outputs, detector, part=part)


def rtdetr_parts():
    """The configs of a small RT-DETR's parts, by name; widths 16, 32, 64 at strides 8 to 32."""
    return dict(
        backbone=dict(type='mmscale.ResNetVd', depth=18, base_channels=8, out_indices=(1, 2, 3)),
        neck=dict(
            type='mmscale.HybridEncoder',
            in_channels=WIDTHS[1:],
            out_channels=32,
            aifi=dict(num_heads=2, feedforward_channels=32),
        ),
        decoder=dict(num_layers=2, embed_dims=32, num_heads=2, feedforward_channels=32),
        bbox_head=dict(type='mmscale.RTDETRHead', num_classes=3, embed_dims=32),
    )


def rtdetr_cfg(parts=None):
    """A small RT-DETR; ``parts`` take the place of its own."""
    costs = [dict(type='mmdet.FocalLossCost', weight=2.0), dict(type='mmdet.BBoxL1Cost', weight=5.0)]
    return dict(
        type='mmscale.RTDETR',
        **{**rtdetr_parts(), **(parts or {})},
        num_queries=20,
        dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=4)),
        train_cfg=dict(assigner=dict(type='mmdet.HungarianAssigner', match_costs=costs)),
        test_cfg=dict(max_per_img=20),
    )


def rtdetr(parts=None, score_thr=None):
    """It has no threshold: ``score_thr`` changes nothing."""
    return MMDET_MODELS.build(rtdetr_cfg(parts))


def rtdetr_part(name, inputs, outputs, cfg=None, no_gradient=r'(?!)', **parts):
    """A part of RT-DETR, in it."""
    cfg = cfg or rtdetr_parts()[name]
    detector = partial(rtdetr, {name: cfg, **parts})
    return Contract(cfg, inputs, outputs, detector, no_gradient, part=name, detections=20)


def encoder(type, no_gradient=r'(?!)', **options):
    """RT-DETR's neck or a child of it, with strides 8 to 32."""
    cfg = {**rtdetr_parts()['neck'], 'type': f'mmscale.{type}', **options}
    return rtdetr_part('neck', [pyramid()], pyramid([32] * 3), cfg, no_gradient)


def hmpe_parts(**changes):
    """The configs of a small HMPE's parts, by name: snakes, MOHFE and HIDQ."""
    parts = rtdetr_parts()
    mohfe = dict(num_heads=2, feedforward_channels=32, max_tokens=20)
    neck = dict(type='mmscale.HMPEEncoder', aifi=None, mohfe=mohfe, conv=dict(type='mmscale.LSConv'))
    head = dict(type='mmscale.HMPEHead')
    return {**parts, 'neck': {**parts['neck'], **neck}, 'bbox_head': {**parts['bbox_head'], **head}, **changes}


def hmpe_cfg():
    return {**rtdetr_cfg(hmpe_parts()), 'type': 'mmscale.HMPE', 'heatmap_head': dict(channels=8), 'hidq': True}


def hmpe(score_thr=None):
    """It has no threshold: ``score_thr`` changes nothing."""
    return MMDET_MODELS.build(hmpe_cfg())


def snake(type):
    """Linear-Snake convolution or its snakes alone, in a bottleneck behind an FPN."""
    plain, widths = {**neck('FPN'), 'type': 'FPN'}, [32] * 5
    behind = dict(type='mmscale.SnakeNeck', in_channels=widths, conv=dict(type=f'mmscale.{type}'))
    cfg = dict(type=f'mmscale.{type}', channels=8)
    return Contract(cfg, [(8, 12, 16)], [(8, 12, 16)], partial(fcos, [plain, behind]), part='neck.1.blocks.1.body.1')


def pyramid(widths=WIDTHS[1:], sizes=SIZES[1:]):
    return [(c, *s) for c, s in zip(widths, sizes, strict=True)]


def hcss_net():
    """A small HCSSNet with the widths of :func:`rtdetr_parts`."""
    arch = dict(widths=WIDTHS, depths=[1, 1, 1, 1])
    return dict(type='mmscale.HCSSNet', arch=arch, fusion=dict(ss2d=dict(state_channels=4, head_channels=8)))


def hcss_plugin(score_thr=0.05):
    """HCSS-Fusion behind the 3x3 convolutions of a ResNet's second stage, in an FCOS."""
    plugin = dict(cfg=dict(type='mmscale.HCSSFusion'), stages=(False, True, False, False), position='after_conv2')
    backbone = dict(depth=50, plugins=[plugin])
    return fcos({**neck('FPN'), 'type': 'FPN', 'in_channels': [32, 64, 128, 256]}, score_thr, backbone)


def dsaifi(**options):
    return dict(type='mmscale.DSAIFI', feedforward_channels=32, **options)


def queries_and_boxes():
    """What the head takes: content and boxes of 7 queries from two decoder layers."""
    return [torch.randn(2, 7, 32) for _ in range(2)], [torch.rand(2, 7, 4) for _ in range(2)]


def maps_and_heat():
    """What MOHFE takes: maps of strides 8 to 32, and heat with a mask for each."""
    heat = [[torch.rand(2, 1, *s) for s in SIZES[1:]] for _ in range(3)]
    return [torch.randn(2, 32, *s) for s in SIZES[1:]], Heatmaps(*heat, [x > 0.5 for x in heat[2]])


def labels_and_ious():
    """What the class loss takes: logits, labels and IoUs of two queries, one of them without an object."""
    return torch.randn(2, 3, requires_grad=True), (torch.tensor([1, 3]), torch.rand(2))


def boxes_and_sizes():
    """What RF-MPDIoU takes: boxes, targets, and the size of the image that each is in."""
    pred = (torch.rand(2, 4) + torch.tensor([0, 0, 40, 30])).requires_grad_()
    return pred, pred.detach() + torch.rand(2, 4), None, None, None, torch.tensor([[128.0, 96], [80, 60]])


def maps_and_proposals():
    """What a RoI head takes: maps of strides 8 to 32 and a proposal in each image."""
    return [torch.randn(2, 32, *s) for s in SIZES[1:]], [InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 30]]))] * 2


def size_aware(name, head, anchors):
    """A dense head of MMDetection around RF-MPDIoU, in its detector; for every map classes, boxes and perhaps more."""

    def build(score_thr=0.05):
        return small_detectors.build(small_detectors.one_stage(name, head, score_thr))

    sizes = SIZES[1:] if name == 'RetinaNet' else SIZES[1:3]
    widths = [3 * anchors, 4 * anchors] + ([1] if name == 'FCOS' else [])
    outputs = [(width, *size) for width in widths for size in sizes]
    return Contract(head, [pyramid([32] * len(sizes), sizes)], outputs, build, part='bbox_head')


def yolo(score_thr=0.05, **parts):
    """A small YOLOv8 of MMYOLO's; ``parts`` take the place of its own."""
    if not HAS_MMYOLO:
        pytest.skip(small_yolos.ABSENT)
    return MMDET_MODELS.build(small_yolos.detector(score_thr=score_thr, **parts))


def yolo_part(name, cfg, inputs, outputs, no_gradient=r'(?!)', **parts):
    """A part of a YOLO, in it; the widths at strides 4 to 32 are 16 to 128."""
    return Contract(cfg, inputs, outputs, partial(yolo, **{name: cfg, **parts}), no_gradient, part=name)


def yolo_backbone(type, widths=YOLO_WIDTHS[1:], neck=None, **options):
    parts = dict(neck=neck) if neck else {}
    cfg = small_yolos.backbone(f'mmscale.{type}', **options)
    return yolo_part('backbone', cfg, [(3, 96, 128)], pyramid(widths), **parts)


def yolo_neck(type, no_gradient=r'(?!)', widths=YOLO_WIDTHS[1:], outputs=YOLO_WIDTHS[1:], **parts):
    """A neck from maps of some widths to others, 1/8 of which are the small ones."""
    io = dict(in_channels=[8 * width for width in widths], out_channels=[8 * width for width in outputs])
    blocks = dict(block_cfg=dict(type='mmyolo.RepVGGBlock')) if 'YOLOv6' in type else {}
    cfg = small_yolos.neck(f'mmscale.{type}', **io, **blocks)
    if outputs != YOLO_WIDTHS[1:]:
        parts['bbox_head'] = small_yolos.head(module=small_yolos.head_module(in_channels=outputs))
    return yolo_part('neck', cfg, [pyramid(widths, SIZES[-len(widths) :])], pyramid(outputs), no_gradient, **parts)


def yolo_head(type, module, part='bbox_head', branches=1, **options):
    """A head or its module: scores, distances and distributions of all levels, of one branch or of two.

    With few objects some levels have no positive, and then nothing to learn about boxes.
    """
    sizes = SIZES[1:]
    outputs = [(width, *size) for width in (3, 4) for size in sizes] + [(h * w, 4, 16) for h, w in sizes]
    module = small_yolos.head_module(f'mmscale.{module}' if module else 'mmyolo.YOLOv8HeadModule')
    head = small_yolos.head(type, module, **options)
    cfg = module if part.endswith('head_module') else head
    detector = partial(yolo, bbox_head=head)
    return Contract(cfg, [pyramid(YOLO_WIDTHS[1:])], outputs * branches, detector, NO_POSITIVE, part=part)


def csf_net(part, cfg, inputs, outputs):
    """A part of a small CSF-Net, in it; quotas of other widths than the stages', that there is something to project."""
    backbone = small_yolos.backbone('mmscale.CSFBackbone', fusion_blocks=(1, 1, 1, 1), quotas=[16, 16, 16])
    detector = partial(yolo, backbone=backbone, neck=small_yolos.neck('mmscale.CSFPAFPN'))
    return Contract(cfg, inputs, outputs, detector, part=part)


def images_and_samples():
    """What a detector takes."""
    return torch.randn(2, 3, 96, 128, requires_grad=True), [sample(2), sample(1)]


# A bias on the keys adds the same to every score of a query, and the softmax takes it out again.
KEY_BIAS = r'key\.\d\.bias$'
# Offsets start at zero weights, which pass no gradient on to the layer before them until the first step is done.
BEFORE_OFFSETS = r'^(align\.\d\.difference|adapt\.\d\.upsample\.guide)\.'
# An affine block scales and shifts all channels alike; the batch norm after the next convolution takes that out again.
AFFINE = r'lab\.(scale|bias)$'
# A YOLO's branch for boxes at a level where no object has a positive.
NO_POSITIVE = r'reg_preds\.'

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
    'CFSAM': behind_fpn('CFSAM', channels=32, num_layers=2, num_heads=2, feedforward_channels=32),
    'SENeck': behind_fpn('SENeck', reduction=1),
    'CFAM': behind_fpn('CFAM', width=32, out_channels=32),
    'MobileViTNeck': behind_fpn('MobileViTNeck', channels=16, num_layers=1, feedforward_channels=32),
    'ResNetVd': rtdetr_part('backbone', [(3, 96, 128)], pyramid()),
    'SPDMixer': resnet('SPDMixer', [(8, 24, 32)], 'backbone.stem', out_channels=8),
    'SPDMixerResNet': resnet('SPDMixerResNet', pyramid(WIDTHS, SIZES), depth=18, base_channels=8, norm_eval=False),
    'SPDMixerResNetVd': rtdetr_part(
        'backbone', [(3, 96, 128)], pyramid(), {**rtdetr_parts()['backbone'], 'type': 'mmscale.SPDMixerResNetVd'}
    ),
    'HCSSNet': rtdetr_part('backbone', [(3, 96, 128)], pyramid(), hcss_net()),
    'HCSSFusion': Contract(
        dict(type='mmscale.HCSSFusion', in_channels=16),
        [(16, 12, 16)],
        [(16, 12, 16)],
        hcss_plugin,
        part='backbone.layer2.0.hcss_fusion',
    ),
    'HGNetV2': rtdetr_part(
        'backbone',
        [(3, 96, 128)],
        pyramid([256, 512, 1024]),
        dict(type='mmscale.HGNetV2', arch='B0'),
        AFFINE,
        neck={**rtdetr_parts()['neck'], 'in_channels': [256, 512, 1024]},
    ),
    'HybridEncoder': encoder('HybridEncoder'),
    'FINEHybridEncoder': encoder('FINEHybridEncoder', KEY_BIAS),
    'SNIHybridEncoder': encoder('SNIHybridEncoder'),
    'FaPNHybridEncoder': encoder('FaPNHybridEncoder', BEFORE_OFFSETS),
    'AdaFPNHybridEncoder': encoder('AdaFPNHybridEncoder', BEFORE_OFFSETS),
    'MGCHybridEncoder': encoder('MGCHybridEncoder'),
    'AIFI': Contract(
        dict(type='mmscale.AIFI', channels=32, num_heads=2, feedforward_channels=32),
        [(32, 3, 4)],
        [(32, 3, 4)],
        rtdetr,
        part='neck.aifi',
        detections=20,
    ),
    'DSAIFI': Contract(
        dsaifi(channels=32),
        [(32, 3, 4)],
        [(32, 3, 4)],
        partial(rtdetr, {'neck': {**rtdetr_parts()['neck'], 'aifi': dsaifi()}}),
        part='neck.aifi',
        detections=20,
    ),
    # On a map of one pixel attention has no choice, and nothing to learn from.
    'DSAIFINeck': behind_fpn('DSAIFINeck', levels=[2, 3], feedforward_channels=32),
    'RTDETRHead': Contract(
        {**rtdetr_parts()['bbox_head'], 'num_pred_layer': 3, 'as_two_stage': True},  # which the detector sets
        queries_and_boxes,
        [(2, 7, 3), (2, 7, 4)],  # by layer and then by image, two of both
        rtdetr,
        by_loss=r'^reg_branches|^cls_branches\.2',  # the decoder calls the former, the query selection the latter
        part='bbox_head',
        detections=20,
    ),
    'RTDETR': Contract(
        rtdetr_cfg(),
        images_and_samples,
        [(2, 28, 3), (2, 28, 4)],  # 8 denoising queries: of two groups, two images, a positive and a negative each
        rtdetr,
        by_loss=r'^memory_proj|_branches\.2',  # the decoder gets proposals without their history
        part='',
        detections=20,
    ),
    'DSConv': snake('DSConv'),
    'LSConv': snake('LSConv'),
    'SnakeNeck': behind_fpn('SnakeNeck', levels=[1, 2]),  # on a map of one pixel nothing can bend
    'MOHFE': Contract(
        dict(type='mmscale.MOHFE', channels=32, num_heads=2, feedforward_channels=32, max_tokens=20),
        maps_and_heat,
        pyramid([32] * 3),
        hmpe,
        part='neck.mohfe',
        detections=20,
    ),
    'HMPEEncoder': encoder('HMPEEncoder', conv=dict(type='mmscale.LSConv')),  # MOHFE needs the detector's heatmaps
    'HMPEHead': Contract(
        {**hmpe_parts()['bbox_head'], 'num_pred_layer': 3, 'as_two_stage': True},  # which the detector sets
        queries_and_boxes,
        [(2, 7, 3), (2, 7, 4)],  # by layer and then by image, two of both
        hmpe,
        by_loss=r'^reg_branches|^cls_branches\.2',  # the decoder calls the former, the query selection the latter
        part='bbox_head',
        detections=20,
    ),
    'HMPE': Contract(
        hmpe_cfg(),
        images_and_samples,
        [(2, 28, 3), (2, 28, 4)],  # 8 denoising queries: of two groups, two images, a positive and a negative each
        hmpe,
        # The decoder gets proposals without their history, and the branches below learn from losses of their own.
        by_loss=r'^memory_proj|_branches\.2|^heatmap_head\.(class_branch|box_branch|gate)',
        part='',
        detections=20,
    ),
    'IoUVarifocalLoss': Contract(
        dict(type='mmscale.IoUVarifocalLoss', reduction='none'),
        labels_and_ious,
        [(3,)],
        rtdetr,
        part='bbox_head',
        detections=20,
    ),
    'RFMPDIoULoss': Contract(
        dict(type='mmscale.RFMPDIoULoss', reduction='none'),
        boxes_and_sizes,
        [()],
        partial(rtdetr, {'bbox_head': {**rtdetr_parts()['bbox_head'], 'loss_iou': dict(type='mmscale.RFMPDIoULoss')}}),
        part='bbox_head',
        detections=20,
    ),
    'SizeAwareRetinaHead': size_aware('RetinaNet', small_detectors.retina_head(), anchors=3),
    'SizeAwareFCOSHead': size_aware('FCOS', small_detectors.fcos_head(), anchors=1),
    'SizeAwareRoIHead': Contract(
        small_detectors.roi_head(),
        maps_and_proposals,
        [(4,), (12,)],
        lambda score_thr=0.05: small_detectors.build(small_detectors.faster_rcnn(score_thr=score_thr)),
        part='roi_head',
    ),
    'YOLOv10Backbone': yolo_backbone('YOLOv10Backbone'),
    'YOLOv12Backbone': yolo_backbone(
        'YOLOv12Backbone', [64, 64, 128], small_yolos.neck('mmscale.YOLOv12PAFPN', in_channels=[512, 512, 1024])
    ),
    'YOLOv10PAFPN': yolo_neck('YOLOv10PAFPN'),
    'YOLOv12PAFPN': yolo_neck('YOLOv12PAFPN'),
    'FINEYOLOv5PAFPN': yolo_neck('FINEYOLOv5PAFPN', KEY_BIAS),
    'FINEYOLOv6RepPAFPN': yolo_neck('FINEYOLOv6RepPAFPN', KEY_BIAS, outputs=[16, 32, 64]),
    'FINEYOLOv6RepBiPAFPN': yolo_neck(
        'FINEYOLOv6RepBiPAFPN',
        KEY_BIAS,
        YOLO_WIDTHS,
        [16, 32, 64],
        backbone=small_yolos.backbone(out_indices=(1, 2, 3, 4)),
    ),
    'FINEYOLOv8PAFPN': yolo_neck('FINEYOLOv8PAFPN', KEY_BIAS),
    'FINEYOLOv10PAFPN': yolo_neck('FINEYOLOv10PAFPN', KEY_BIAS),
    'FINEYOLOv12PAFPN': yolo_neck('FINEYOLOv12PAFPN', KEY_BIAS),
    'LightYOLOHeadModule': yolo_head('mmyolo.YOLOv8Head', 'LightYOLOHeadModule', 'bbox_head.head_module'),
    'YOLOv10HeadModule': yolo_head('mmscale.YOLOv10Head', 'YOLOv10HeadModule', 'bbox_head.head_module', branches=2),
    'YOLOv10Head': yolo_head('mmscale.YOLOv10Head', 'YOLOv10HeadModule', branches=2),
    'SizeAwareYOLOv10Head': yolo_head(
        'mmscale.SizeAwareYOLOv10Head', 'YOLOv10HeadModule', branches=2, loss_bbox=small_yolos.RF_MPDIOU
    ),
    'SizeAwareYOLOv8Head': yolo_head('mmscale.SizeAwareYOLOv8Head', None, loss_bbox=small_yolos.RF_MPDIOU),
    'CSFBackbone': yolo_backbone('CSFBackbone'),
    'CSFPAFPN': yolo_neck('CSFPAFPN'),
    'CSwitch': csf_net(
        'backbone.switches.1',
        dict(type='mmscale.CSwitch', in_channels=16, quotas=[8, 16, 24], kernel=3),
        [(16, 12, 16)],
        pyramid([8, 16, 24], [(12, 16)] * 3),
    ),
    'DFuse': csf_net(
        'backbone.early_fuses.1',
        dict(type='mmscale.DFuse', in_channels=[8, 32, 16]),
        [[(8, 24, 32), (32, 6, 8), (16, 12, 16)]],
        [(16, 12, 16)],
    ),
    'CReToNeXt': csf_net(
        'neck.top_down_layers.1',
        dict(type='mmscale.CReToNeXt', in_channels=16, out_channels=32),
        [(16, 12, 16)],
        [(32, 12, 16)],
    ),
    'BatchResizeChoice': Contract(
        dict(type='mmscale.BatchResizeChoice', sizes=[[48, 64]]),
        images_and_samples,
        [(3, 48, 64)],
        rtdetr,
        part='',
        detections=20,
    ),
}


def tensors(outs):
    """Those in nested lists."""
    if torch.is_tensor(outs):
        return [outs]
    return [x for out in outs for x in tensors(out)] if isinstance(outs, list | tuple) else []


def registered():
    """All components; what stands in for those that need MMYOLO, where it is absent, is none."""
    MODELS.import_from_location()
    own = {name: cls.__module__ for name, cls in MODELS.module_dict.items()}
    return sorted(name for name, module in own.items() if module.startswith('mmscale.') and module != STAND_INS)


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


def check_gradients(module, no_gradient, by_loss=r'(?!)'):
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or re.search(by_loss, name):
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
    arguments = contract.inputs() if callable(contract.inputs) else batch_of_two(contract.inputs)
    outs = tensors(module(*arguments))
    assert [tuple(out.shape) for out in outs] == [(2, *shape) for shape in contract.outputs]
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    check_gradients(module, contract.no_gradient, contract.by_loss)


@pytest.mark.parametrize('objects', [(2, 0), (0, 0)], ids=['one image empty', 'both empty'])
def test_trains_with_images_without_objects(contract, objects):
    model = contract.build_detector()
    inputs = torch.randn(2, 3, 96, 128)
    losses = model.loss(inputs, [sample(count) for count in objects])
    total = sum(value for loss in losses.values() for value in (loss if isinstance(loss, list) else [loss]))
    assert total.isfinite()
    total.backward()
    part = attrgetter(contract.part)(model) if contract.part else model
    check_gradients(part, '' if not any(objects) else contract.no_gradient)


def test_finds_nothing_without_failing(contract):
    model = contract.build_detector(score_thr=2.0).eval()
    with torch.no_grad():
        results = model.predict(torch.randn(2, 3, 96, 128), [sample(0), sample(0)])
    assert [len(result.pred_instances) for result in results] == [contract.detections] * 2


def sample(objects):
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [50.0, 20.0, 120.0, 90.0]])[:objects]
    out = DetDataSample(
        metainfo=dict(
            img_shape=(96, 128),
            ori_shape=(96, 128),
            pad_shape=(96, 128),
            batch_input_shape=(96, 128),
            scale_factor=(1.0, 1.0),
        )
    )
    out.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])[:objects])
    return out
