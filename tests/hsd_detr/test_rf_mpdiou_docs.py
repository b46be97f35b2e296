"""docs/rf_mpdiou.md, to the letter: its configs build, its recipes divide each row by the size of its own image."""

import pytest
import torch
from mmdet.models.dense_heads import DeformableDETRHead, DETRHead, RPNHead
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData

from mmscale.hsd_detr import RFMPDIoULoss, SizeAwareMixin

from . import small_detectors as small
from .rows_by_hand import SIZES, by_hand, captured


def blocks(repo):
    text = (repo / 'docs' / 'rf_mpdiou.md').read_text()
    return [part.split('```')[0] for part in text.split('```python\n')[1:]]


NAMES = ['rtdetr', 'fcos', 'retinanet', 'faster_rcnn', 'yolov8']


@pytest.mark.parametrize('index', range(5), ids=NAMES)
def test_the_snippets_of_the_docs_build(repo, tmp_path, index):
    if NAMES[index].startswith('yolo'):
        pytest.importorskip('mmyolo')
    path = tmp_path / 'config.py'
    path.write_text(blocks(repo)[index].replace('./configs', str(repo / 'configs')))
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    assert isinstance(small.box_loss(model), RFMPDIoULoss)
    assert small.box_loss(model).loss_weight == [2.0, 1.0, 1.0, 10.0, 7.5][index]


@pytest.fixture(scope='module')
def recipe(repo):
    """The classes of the recipe, as a user's own module would define them."""
    names = dict(__name__='users_own')
    *configs, module = blocks(repo)
    assert len(configs) == len(NAMES)
    exec(module, names)
    return names


def test_recipe_for_dino(recipe):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    options = dict(num_pred_layer=3, as_two_stage=True, train_cfg=dict(assigner=small.HUNGARIAN))
    options['loss_cls'] = dict(type='FocalLoss', use_sigmoid=True)
    head = MODELS.build(dict(type='SizeAwareDINOHead', num_classes=3, embed_dims=8, loss_iou=small.LOSS, **options))
    meta = dict(num_denoising_queries=8, num_denoising_groups=2)
    queries, batch = 8 + 10, small.samples()
    predictions = torch.randn(2, 2, queries, 3), torch.rand(2, 2, queries, 4) * 0.4 + 0.2
    encoded = torch.randn(2, 10, 3), torch.rand(2, 10, 4) * 0.4 + 0.2
    truth = [x.gt_instances for x in batch], [x.metainfo for x in batch]
    with captured(head.loss_iou) as calls:
        losses = small.flat(head.loss_by_feat(*predictions, *encoded, *truth, meta))
    assert len(calls) == 5  # of two layers and the encoder, and of two layers' denoising queries
    for call in calls:
        expected, images = by_hand(call, SIZES)
        assert set(images) == {0, 1}
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)
    assert losses['loss_iou'].item() in [call['output'].item() for call in calls]


@pytest.mark.parametrize('parent', [DETRHead, DeformableDETRHead])
def test_the_mixin_for_detr(parent):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    options = dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True), loss_iou=small.LOSS)
    head = type('Own', (SizeAwareMixin, parent), {})(3, 8, train_cfg=dict(assigner=small.HUNGARIAN), **options)
    batch = small.samples()
    predictions = torch.randn(2, 2, 10, 3), torch.rand(2, 2, 10, 4) * 0.4 + 0.2
    encoded = () if parent is DETRHead else (None, None)
    with captured(head.loss_iou) as calls:
        head.loss_by_feat(*predictions, *encoded, [x.gt_instances for x in batch], [x.metainfo for x in batch])
    assert len(calls) == 2
    for call in calls:
        expected, images = by_hand(call, SIZES)
        assert images == [0, 0, 1, 1]
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)


def test_the_mixin_for_rpn():
    init_default_scope('mmdet')
    torch.manual_seed(0)
    options = dict(reg_decoded_bbox=True, loss_bbox=small.LOSS, train_cfg=small.rpn_train_cfg())
    head = type('Own', (SizeAwareMixin, RPNHead), {})(
        in_channels=8, feat_channels=8, anchor_generator=small.anchors(), **ConfigDict(options)
    )
    feats = [torch.randn(2, 8, 96 // stride, 128 // stride) for stride in small.STRIDES]
    batch = small.samples()
    for sample in batch:
        sample.gt_instances.labels.zero_()
    with captured(head.loss_bbox) as calls:
        head.loss(feats, batch)
    results = [by_hand(call, SIZES) for call in calls]
    assert [call['output'].item() for call in calls] == pytest.approx([value for value, _ in results], rel=1e-4)
    assert {image for _, images in results for image in images} == {0, 1}


def dense_head(kind, **options):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    train_cfg = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False)
    anchors = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[4, 8])
    cfg = dict(type=kind, num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors)
    cfg |= dict(norm_cfg=dict(type='GN', num_groups=4), train_cfg=train_cfg, loss_bbox=small.LOSS)
    return MODELS.build({**cfg, **options})


@pytest.mark.parametrize('kind', ['SizeAwareATSSHead', 'SizeAwareGFLHead'])
def test_recipe_for_atss_and_gfl(recipe, kind):
    options = {}
    if kind == 'SizeAwareGFLHead':
        options = dict(reg_decoded_bbox=True, loss_cls=dict(type='QualityFocalLoss'))
    head = dense_head(kind, **options)
    feats = torch.randn(2, 8, 24, 32), torch.randn(2, 8, 12, 16)
    with captured(head.loss_bbox) as calls:
        total = sum(small.flat(head.loss(feats, small.samples())).values())
    total.backward()
    assert len(calls) == 2
    seen = []
    for call, stride in zip(calls, [4, 8], strict=True):
        unit = stride if kind == 'SizeAwareGFLHead' else 1
        objects = torch.tensor(small.OBJECTS).flatten(0, 1)
        assert (torch.cdist(call['target'] * unit, objects).min(dim=1).values < 1e-3).all()  # the unit is right
        expected, images = by_hand(call, SIZES, unit=unit)
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)
        assert call['output'].item() != pytest.approx(by_hand(call, SIZES[::-1], unit=unit)[0], rel=1e-3)
        seen += images
    assert set(seen) == {0, 1}


def test_recipe_for_cascade_rcnn(recipe):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    extractor = small.roi_head()['bbox_roi_extractor']
    stages = [small.box_head(reg_class_agnostic=True) for _ in range(2)]
    cfg = dict(num_stages=2, stage_loss_weights=[1, 0.5], bbox_roi_extractor=extractor)
    cfg |= dict(type='SizeAwareCascadeRoIHead', train_cfg=Config(dict(cfg=[small.rcnn_train_cfg()] * 2)).cfg)
    head = MODELS.build(dict(cfg, bbox_head=stages))
    proposals = [InstanceData(bboxes=torch.tensor(boxes) + 3, scores=torch.ones(2)) for boxes in small.OBJECTS]
    feats = [torch.randn(2, 32, 96 // stride, 128 // stride) for stride in small.STRIDES]
    with captured(head.bbox_head[0].loss_bbox) as first, captured(head.bbox_head[1].loss_bbox) as second:
        losses = head.loss(feats, proposals, small.samples())
    for call in first + second:
        expected, images = by_hand(call, SIZES)
        assert set(images) == {0, 1}
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)
    assert len(first) == len(second) == 1 and 's1.loss_bbox' in losses
    with pytest.raises(ValueError, match='loss_bbox of Shared2FCBBoxHead is RFMPDIoULoss'):
        MODELS.build(dict(cfg, bbox_head=[stages[0], {**stages[1], 'reg_decoded_bbox': False}]))


def test_the_recipes_refuse_offsets(recipe):
    with pytest.raises(ValueError, match='loss_bbox of SizeAwareATSSHead is RFMPDIoULoss'):
        dense_head('SizeAwareATSSHead', reg_decoded_bbox=False)
