"""Each row of the box loss is divided by the size of its own image, in each detector."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmscale.hsd_detr import size_aware_heads
from mmscale.layers.image_sizes import row_image_sizes

from . import small_detectors as small
from .rows_by_hand import PADDED, SIZES, by_hand, captured


@pytest.fixture(params=small.DETECTORS)
def name(request):
    return request.param


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


def test_rtdetrs_head_goes_by_the_sizes_that_it_divides_by():
    """In a detector they are the batch's; here they are not, so that the rows can be told apart."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    options = dict(num_pred_layer=2, as_two_stage=True, train_cfg=dict(assigner=small.HUNGARIAN))
    head = MODELS.build(dict(type='mmscale.RTDETRHead', num_classes=3, embed_dims=8, loss_iou=small.LOSS, **options))
    batch = small.samples()
    truth = [x.gt_instances for x in batch], [x.metainfo for x in batch]
    boxes = torch.rand(2, 10, 4) * 0.4 + 0.2
    with captured(head.loss_iou) as calls:
        head.loss_by_feat_single(torch.randn(2, 10, 3), boxes, *truth)
        head._loss_dn_single(
            torch.randn(2, 8, 3), boxes[:, :8], *truth, dict(num_denoising_queries=8, num_denoising_groups=2)
        )
    for call in calls:
        expected, images = by_hand(call, SIZES)
        assert set(images) == {0, 1}
        assert call['output'].item() == pytest.approx(expected, rel=1e-4)


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
