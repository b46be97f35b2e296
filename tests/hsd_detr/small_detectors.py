"""Small detectors with a box loss of one's choice, and a padded batch of two images of different sizes."""

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

PADDED = (96, 128)
SHAPES = [(96, 128), (64, 80)]  # height and width of the images
BORDER = 64.0  # image 0 has its objects to the right of it, image 1 to the left
OBJECTS = [[[70.0, 20, 119, 90], [90, 9, 123, 31]], [[8, 7, 41, 30], [9, 24, 58, 61]]]
LOSS = dict(type='mmscale.RFMPDIoULoss', loss_weight=2.0)

BACKBONE = dict(type='ResNet', depth=18, base_channels=8, norm_eval=False)
NECK = dict(
    type='FPN', in_channels=[8, 16, 32, 64], out_channels=32, start_level=1, add_extra_convs='on_output', num_outs=3
)
STRIDES = [8, 16, 32]
ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
NMS = dict(nms_pre=100, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20)
HUNGARIAN = dict(
    type='mmdet.HungarianAssigner',
    match_costs=[dict(type='mmdet.FocalLossCost', weight=2.0), dict(type='mmdet.BBoxL1Cost', weight=5.0)],
)


def anchors(**changes):
    return dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=STRIDES, **changes)


def retina_head(**changes):
    return {
        **dict(type='mmscale.SizeAwareRetinaHead', num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1),
        **dict(anchor_generator=anchors(), reg_decoded_bbox=True, loss_bbox=LOSS),
        **changes,
    }


def fcos_head(**changes):
    """Each of the two levels has an object of every image."""
    return {
        **dict(type='mmscale.SizeAwareFCOSHead', num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1),
        **dict(strides=[8, 16], regress_ranges=((-1, 32), (32, 1e8)), norm_cfg=dict(type='GN', num_groups=4)),
        **dict(loss_bbox=LOSS),
        **changes,
    }


def box_head(**changes):
    return {
        **dict(type='Shared2FCBBoxHead', in_channels=32, fc_out_channels=32, roi_feat_size=3, num_classes=3),
        **dict(reg_decoded_bbox=True, loss_bbox=LOSS),
        **changes,
    }


def roi_head(bbox_head=None, **changes):
    extractor = dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=3, sampling_ratio=1),
        out_channels=32,
        featmap_strides=STRIDES,
    )
    bbox_head = bbox_head or box_head()
    return {**dict(type='mmscale.SizeAwareRoIHead', bbox_roi_extractor=extractor, bbox_head=bbox_head), **changes}


def rcnn_train_cfg(**changes):
    assigner = {**ASSIGNER, 'neg_iou_thr': 0.5, 'match_low_quality': False}
    sampler = dict(type='RandomSampler', num=12, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True)
    return dict(assigner=assigner, sampler=sampler, pos_weight=-1, debug=False, **changes)


def rpn_train_cfg():
    sampler = dict(type='RandomSampler', num=64, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False)
    assigner = {**ASSIGNER, 'pos_iou_thr': 0.7, 'neg_iou_thr': 0.3, 'min_pos_iou': 0.3}
    return dict(assigner=assigner, sampler=sampler, allowed_border=-1, pos_weight=-1, debug=False)


def one_stage(name, head, score_thr=0.05):
    """RetinaNet of three levels, or FCOS of two."""
    train_cfg = dict(
        assigner=ASSIGNER, sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False
    )
    backbone, neck = BACKBONE, NECK
    if name == 'FCOS':
        backbone = dict(BACKBONE, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2))
        neck = dict(NECK, in_channels=NECK['in_channels'][:3], num_outs=2)
    return dict(
        type=name,
        backbone=backbone,
        neck=neck,
        bbox_head=head,
        train_cfg=train_cfg,
        test_cfg=dict(NMS, score_thr=score_thr),
    )


def faster_rcnn(head=None, score_thr=0.05):
    proposals = dict(nms_pre=50, max_per_img=12, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    return dict(
        type='FasterRCNN',
        backbone=BACKBONE,
        neck=NECK,
        rpn_head=dict(type='RPNHead', in_channels=32, feat_channels=32, anchor_generator=anchors()),
        roi_head=head or roi_head(),
        train_cfg=dict(rpn=rpn_train_cfg(), rpn_proposal=proposals, rcnn=rcnn_train_cfg()),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=score_thr, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20),
        ),
    )


def rtdetr(loss=LOSS):
    neck = dict(aifi=dict(num_heads=2, feedforward_channels=32), in_channels=[16, 32, 64], out_channels=32)
    return dict(
        type='mmscale.RTDETR',
        backbone=dict(type='mmscale.ResNetVd', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_eval=False),
        neck=dict(type='mmscale.HybridEncoder', **neck),
        decoder=dict(num_layers=2, embed_dims=32, num_heads=2, feedforward_channels=32),
        bbox_head=dict(type='mmscale.RTDETRHead', num_classes=3, embed_dims=32, loss_iou=loss),
        num_queries=20,
        dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=4)),
        train_cfg=dict(assigner=HUNGARIAN),
        test_cfg=dict(max_per_img=20),
    )


DETECTORS = dict(
    faster_rcnn=faster_rcnn(),
    faster_rcnn_agnostic=faster_rcnn(roi_head(box_head(reg_class_agnostic=True))),
    retinanet=one_stage('RetinaNet', retina_head()),
    fcos=one_stage('FCOS', fcos_head()),
    rtdetr=rtdetr(),
)


def build(cfg, seed=0):
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    return model


def box_loss(model):
    """The module which is the detector's RF-MPDIoU."""
    head = model.bbox_head if hasattr(model, 'bbox_head') else model.roi_head.bbox_head
    return getattr(head, 'loss_iou', head.loss_bbox)


def samples(shapes=SHAPES, objects=OBJECTS):
    result = []
    for shape, boxes in zip(shapes, objects, strict=True):
        meta = dict(img_shape=shape, ori_shape=shape, pad_shape=PADDED, batch_input_shape=PADDED)
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), labels=torch.arange(len(boxes))
        )
        result.append(sample)
    return result


def images(seed=0):
    return torch.rand(2, 3, *PADDED, generator=torch.Generator().manual_seed(seed))


def losses(model, batch, seed=0):
    """Everything random of a step is drawn from the seed."""
    torch.manual_seed(seed)
    return flat(model.loss(images(), batch))


def flat(losses):
    """Each loss as one number; what is no loss is left out."""
    return {
        name: sum(value) if isinstance(value, list | tuple) else value
        for name, value in losses.items()
        if 'loss' in name
    }
