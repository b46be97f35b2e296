"""Each row of the box loss is divided by the size of its own image, in each detector.

Which image a row comes from is known here by where its object is: image 0 has its objects to the right of a border,
image 1 to the left.
"""

from contextlib import contextmanager

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmscale.hsd_detr import RFMPDIoULoss, size_aware_heads
from mmscale.layers.image_sizes import row_image_sizes

from . import literal_rf_mpdiou as literal
from . import small_detectors as small

SIZES = [(128, 96), (80, 64)]
PADDED = (128, 96)


@pytest.fixture(params=small.DETECTORS)
def name(request):
    return request.param


@contextmanager
def captured(loss):
    """What the loss is called with, and what it returns."""
    calls = []

    def keep(module, args, kwargs, output):
        named = dict(zip(('pred', 'target', 'weight', 'avg_factor'), args, strict=False), **kwargs)
        calls.append(dict(named, output=output))

    handle = loss.register_forward_hook(keep, with_kwargs=True)
    yield calls
    handle.remove()


def by_hand(call, sizes, loss_weight=2.0, unit=1.0):
    """The loss of a call, row by row; the images of the rows; no head took part."""
    total, images = 0.0, []
    weights = call['weight'] if call['weight'].dim() == 1 else call['weight'][:, 0]
    for pred, target, weight in zip(call['pred'].tolist(), call['target'].tolist(), weights.tolist(), strict=True):
        if weight:
            images.append(int(target[0] * unit < small.BORDER))
            size = [side / unit for side in sizes[images[-1]]]
            total += weight * literal.loss(pred, target, size)
    return loss_weight * total / float(call['avg_factor']), images


def sizes_of(name):
    return [PADDED, PADDED] if name == 'rtdetr' else SIZES  # RT-DETR divides everything by the batch's size


def test_each_row_has_the_size_of_its_own_image(name):
    model = small.build(small.DETECTORS[name])
    with captured(small.box_loss(model)) as calls:
        losses = small.losses(model, small.samples())
    seen = set()
    for call in calls:
        expected, images = by_hand(call, sizes_of(name))
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)
        seen.update(images)
        if name != 'retinanet':  # whose small levels have objects of one image alone
            assert set(images) == {0, 1}
    assert seen == {0, 1}
    kind = 'loss_iou' if name == 'rtdetr' else 'loss_bbox'
    total = sum(value for key, value in losses.items() if key.endswith(kind))
    assert sum(call['output'] for call in calls).item() == pytest.approx(total.item(), rel=1e-5)


def test_rtdetrs_matched_encoders_and_denoising_queries_all_have_it():
    model = small.build(small.DETECTORS['rtdetr'])
    with captured(small.box_loss(model)) as calls:
        losses = small.losses(model, small.samples())
    names = [key for key in losses if key.endswith('loss_iou')]
    assert len(calls) == len(names) == 5 and {'enc_loss_iou', 'loss_iou', 'dn_loss_iou', 'd0.dn_loss_iou'} < set(names)
    assert all(losses[key].item() > 0 for key in names)


@pytest.mark.parametrize('name', [name for name in small.DETECTORS if name != 'rtdetr'], indirect=True)
def test_sizes_that_changed_places_change_the_loss(name, monkeypatch):
    """The test above can tell them apart."""
    right = small.losses(small.build(small.DETECTORS[name]), small.samples())
    monkeypatch.setattr(size_aware_heads, 'sizes_of_images', lambda metas: SIZES[::-1])
    model = small.build(small.DETECTORS[name])
    with captured(small.box_loss(model)) as calls:
        swapped = small.losses(model, small.samples())
    assert abs(swapped['loss_bbox'] / right['loss_bbox'] - 1) > 1e-3
    for call in calls:
        if by_hand(call, SIZES)[1]:
            assert call['output'].item() == pytest.approx(by_hand(call, SIZES[::-1])[0], rel=1e-4)
            assert call['output'].item() != pytest.approx(by_hand(call, SIZES)[0], rel=1e-3)


def test_the_images_own_size_changes_nothing_in_rtdetr():
    losses = [
        small.losses(small.build(small.DETECTORS['rtdetr']), small.samples(shapes))['loss_iou'].item()
        for shapes in (small.SHAPES, [small.PADDED] * 2)
    ]
    assert losses[0] == losses[1]


def test_with_equal_sizes_it_is_the_plain_loss(name):
    model = small.build(small.DETECTORS[name])
    loss = small.box_loss(model)
    with captured(loss) as calls:
        small.losses(model, small.samples([small.PADDED] * 2))
    assert calls
    for call in calls:
        output = call.pop('output')
        torch.testing.assert_close(loss(**call, image_sizes=PADDED), output)


@pytest.mark.parametrize('counts', [(2, 0), (0, 1), (0, 0)], ids=str)
def test_images_without_objects(name, counts):
    model = small.build(small.DETECTORS[name])
    objects = [boxes[:count] for boxes, count in zip(small.OBJECTS, counts, strict=True)]
    with captured(small.box_loss(model)) as calls:
        losses = small.losses(model, small.samples(objects=objects))
    for call in calls:
        expected, images = by_hand(call, sizes_of(name))
        assert set(images) <= {image for image, count in enumerate(counts) if count}
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_every_parameter_of_the_box_branch_learns_from_it(name):
    model = small.build(small.DETECTORS[name])
    with torch.no_grad():
        for parameter in model.parameters():  # RT-DETR's last layers start at zero and pass no gradient on
            parameter += 0.01 * torch.randn_like(parameter)
    losses = small.losses(model, small.samples())
    sum(value for key, value in losses.items() if key.endswith(('loss_iou', 'loss_bbox'))).backward()
    branch = [(key, p) for key, p in model.named_parameters() if 'reg' in key and 'head' in key and 'rpn' not in key]
    silent = [key for key, p in branch if p.grad is None or not p.grad.any()]
    assert branch and not silent


def test_steps_decrease_the_loss(name):
    model = small.build(small.DETECTORS[name])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    history = []
    for _ in range(4):
        total = sum(small.losses(model, small.samples()).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history == sorted(history, reverse=True)


def test_nothing_stays_open(name):
    small.losses(small.build(small.DETECTORS[name]), small.samples())
    with pytest.raises(ValueError, match='this head does not tell it'):
        row_image_sizes(2)


@pytest.mark.parametrize('name', ['retinanet', 'fcos', 'rtdetr'], indirect=True)  # mmcv's NMS on CPUs knows no bfloat16
def test_mixed_precision(name):
    model = small.build(small.DETECTORS[name])
    with torch.autocast('cpu', torch.bfloat16), captured(small.box_loss(model)) as calls:
        total = sum(small.losses(model, small.samples()).values())
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    for call in calls:
        assert call['output'].item() == pytest.approx(by_hand(call, sizes_of(name))[0], rel=1e-3)


def test_fcos_in_units_of_the_stride_is_fcos_in_pixels():
    """With ``norm_on_bbox`` distances are over the level's stride; the same boxes must have the same loss."""
    init_default_scope('mmdet')
    head, normed = (MODELS.build(small.fcos_head(norm_on_bbox=on)) for on in (False, True))
    assert normed.norm_on_bbox
    torch.manual_seed(0)
    shapes, strides = [(12, 16), (6, 8)], [8, 16]
    scores, distances, center = (
        [torch.rand(2, count, *shape) * scale for shape in shapes] for count, scale in ((3, 1), (4, 40), (1, 1))
    )
    batch = small.samples()
    truth, metas = [x.gt_instances for x in batch], [x.metainfo for x in batch]
    with captured(head.loss_bbox) as calls:
        pixels = head.loss_by_feat(scores, distances, center, truth, metas)['loss_bbox']
    in_strides = [x / stride for x, stride in zip(distances, strides, strict=True)]
    units = normed.loss_by_feat(scores, in_strides, center, truth, metas)['loss_bbox']
    assert units.item() == pytest.approx(pixels.item(), rel=1e-5)
    assert pixels.item() == pytest.approx(by_hand(calls[0], SIZES)[0], rel=1e-5)


def test_a_size_aware_head_with_another_loss_is_its_parent():
    giou = dict(type='GIoULoss', loss_weight=2.0)
    cases = [
        (one, small.one_stage(name, {**head(loss_bbox=giou), 'type': one}))
        for name, head, types in (
            ('RetinaNet', small.retina_head, ('mmscale.SizeAwareRetinaHead', 'RetinaHead')),
            ('FCOS', small.fcos_head, ('mmscale.SizeAwareFCOSHead', 'FCOSHead')),
        )
        for one in types
    ]
    heads = ('mmscale.SizeAwareRoIHead', 'StandardRoIHead')
    cases += [(one, small.faster_rcnn(small.roi_head(small.box_head(loss_bbox=giou), type=one))) for one in heads]
    values = [small.losses(small.build(cfg), small.samples())['loss_bbox'].item() for _, cfg in cases]
    assert values[::2] == values[1::2] and min(values) > 0


@pytest.mark.parametrize(
    'cfg',
    [
        small.one_stage('RetinaNet', small.retina_head(type='RetinaHead')),
        small.one_stage('FCOS', small.fcos_head(type='FCOSHead')),
        small.faster_rcnn(small.roi_head(type='StandardRoIHead')),
    ],
    ids=['RetinaHead', 'FCOSHead', 'StandardRoIHead'],
)
def test_a_head_that_tells_no_size_is_told_what_to_do(cfg):
    with pytest.raises(ValueError, match='this head does not tell it: use .*SizeAwareRetinaHead.*docs/rf_mpdiou.md'):
        small.losses(small.build(cfg), small.samples())


@pytest.mark.parametrize(
    ('cfg', 'head'),
    [
        (small.retina_head(reg_decoded_bbox=False), 'SizeAwareRetinaHead'),
        (small.roi_head(small.box_head(reg_decoded_bbox=False)), 'Shared2FCBBoxHead'),
    ],
)
def test_offsets_are_refused(cfg, head):
    init_default_scope('mmdet')
    sentence = f'loss_bbox of {head} is RFMPDIoULoss.*reg_decoded_bbox=False .*set reg_decoded_bbox=True'
    with pytest.raises(ValueError, match=sentence):
        MODELS.build(cfg)


def test_offsets_with_another_loss_are_not():
    init_default_scope('mmdet')
    other = dict(reg_decoded_bbox=False, loss_bbox=dict(type='L1Loss'))
    MODELS.build(small.retina_head(**other))
    MODELS.build(small.roi_head(small.box_head(**other)))


# docs/rf_mpdiou.md, to the letter


def blocks(repo):
    text = (repo / 'docs' / 'rf_mpdiou.md').read_text()
    return [part.split('```')[0] for part in text.split('```python\n')[1:]]


@pytest.mark.parametrize('index', range(4), ids=['rtdetr', 'fcos', 'retinanet', 'faster_rcnn'])
def test_the_snippets_of_the_docs_build(repo, tmp_path, index):
    path = tmp_path / 'config.py'
    path.write_text(blocks(repo)[index].replace('./configs', str(repo / 'configs')))
    cfg = Config.fromfile(path)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    assert isinstance(small.box_loss(model), RFMPDIoULoss)
    assert small.box_loss(model).loss_weight == [2.0, 1.0, 1.0, 10.0][index]


@pytest.fixture(scope='module')
def recipe(repo):
    """The classes of the recipe, as a user's own module would define them."""
    names = dict(__name__='users_own')
    exec(blocks(repo)[4], names)
    assert len(blocks(repo)) == 5
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
