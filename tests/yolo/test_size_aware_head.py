"""YOLOv8's head with RF-MPDIoU, which it tells the size of every box's image."""

import copy
from contextlib import contextmanager

import pytest
import torch

from mmscale.layers.image_sizes import row_image_sizes
from mmscale.registry import HAS_MMYOLO

from ..hsd_detr import literal_rf_mpdiou
from .small import (
    ABSENT,
    BATCH,
    BORDER,
    LABELS,
    OBJECTS,
    RF_MPDIOU,
    SHAPES,
    assigned,
    build,
    collated,
    head,
    head_module,
    maps,
    moved,
    samples,
    stirred,
)

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

STRIDES = [8, 16, 32]


def size_aware(type='mmscale.SizeAwareYOLOv8Head', **loss):
    torch.manual_seed(0)
    return moved(build(**head(type, topk=60, loss_bbox={**RF_MPDIOU, **loss})))  # so that all levels take part


def size_aware_v10():
    torch.manual_seed(0)
    module = head_module('mmscale.YOLOv10HeadModule')
    return moved(build(**head('mmscale.SizeAwareYOLOv10Head', module, topk=60, loss_bbox=RF_MPDIOU)))


def objects_of(image):
    return [tuple(box) for box in OBJECTS[image]]


@contextmanager
def box_loss_calls(module):
    calls = []

    def keep(loss, args, kwargs, output):
        calls.append(dict(zip(('pred', 'target', 'weight'), args, strict=False), **kwargs, output=output))

    handle = module.loss_bbox.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def rows_by_hand(call):
    """Pairs of boxes in pixels, the image of each and its weight: an object and a stride fit a row's target."""
    weights = call['weight'].reshape(len(call['pred']), -1)[:, 0].tolist()
    for pred, target, weight in zip(call['pred'].tolist(), call['target'].tolist(), weights, strict=True):
        fitting = {
            (image, stride)
            for image in range(2)
            for box in objects_of(image)
            for stride in STRIDES
            if all(abs(a * stride - b) < 1e-2 for a, b in zip(target, box, strict=True))
        }
        (image, stride), = fitting
        yield [side * stride for side in pred], [side * stride for side in target], image, stride, weight


@pytest.mark.parametrize(
    'batch, sizes',
    [
        (samples, [(128, 96), (80, 64)]),  # each image's own, without padding
        (collated, [(128, 96), (128, 96)]),  # a batch that says nothing of its images
        (lambda: samples(shapes=[(64, 80), (96, 128)]), [(80, 64), (128, 96)]),
    ],
    ids=['own sizes', 'collated', 'changed places'],
)
def test_the_loss_is_the_formula_in_pixels(batch, sizes):
    module = size_aware()
    with box_loss_calls(module) as calls, assigned(module.assigner) as (outs,):
        losses = module.loss(tuple(maps()), batch())
    (call,) = calls
    total, images, strides = 0.0, set(), set()
    for pred, target, image, stride, weight in rows_by_hand(call):
        total += weight * literal_rf_mpdiou.loss(pred, target, sizes[image])
        images.add(image)
        strides.add(stride)
    assert images == {0, 1} and len(strides) > 1
    factor = 2 / max(outs[0]['assigned_scores'].sum().item(), 1)  # images of the batch
    assert losses['loss_bbox'].item() == pytest.approx(RF_MPDIOU['loss_weight'] * total * factor, rel=1e-4)


def test_both_branches_of_yolov10_have_the_formula_in_pixels():
    module, sizes = size_aware_v10(), [(128, 96), (80, 64)]
    with box_loss_calls(module) as calls, assigned(module.one_to_many_assigner, module.one_to_one_assigner) as outs:
        losses = module.loss(tuple(maps()), samples())
    assert len(calls) == 2
    for call, (out,), prefix in zip(calls, outs, ('', 'one_to_one.'), strict=True):
        rows = list(rows_by_hand(call))
        assert {image for _, _, image, _, _ in rows} == {0, 1}
        total = sum(
            weight * literal_rf_mpdiou.loss(pred, target, sizes[image]) for pred, target, image, _, weight in rows
        )
        factor = 2 / max(out['assigned_scores'].sum().item(), 1)  # images of the batch
        assert losses[f'{prefix}loss_bbox'].item() == pytest.approx(RF_MPDIOU['loss_weight'] * total * factor, rel=1e-4)
    assert len(list(rows_by_hand(calls[0]))) > len(list(rows_by_hand(calls[1]))) == 4  # one per object


def test_the_loss_is_told_width_and_height_in_that_order():
    """In units of the row's stride; the formula itself would not notice."""
    module, told = size_aware(), []
    module.loss_bbox.register_forward_pre_hook(lambda loss, args: told.append(row_image_sizes(len(args[0])).tolist()))
    with box_loss_calls(module) as calls:
        module.loss(tuple(maps()), samples())
    rows = list(rows_by_hand(calls[0]))
    sizes = [(128, 96), (80, 64)]
    assert told == [[[side / stride for side in sizes[image]] for _, _, image, stride, _ in rows]]


def test_which_image_is_which_changes_the_loss():
    """So the test above can tell."""
    losses = [
        size_aware().loss(tuple(maps()), samples(shapes=shapes))['loss_bbox'].item()
        for shapes in (SHAPES, SHAPES[::-1], [BATCH, BATCH])
    ]
    assert len({round(loss, 3) for loss in losses}) == 3


def test_a_batch_without_sizes_is_as_large_as_its_maps():
    batches = collated(), samples(shapes=[BATCH] * 2)
    losses = [size_aware().loss(tuple(maps()), batch)['loss_bbox'] for batch in batches]
    torch.testing.assert_close(*losses)


def test_without_corners_it_is_the_plain_head():
    ours, theirs = (size_aware(type, corners=False) for type in ('mmscale.SizeAwareYOLOv8Head', 'mmyolo.YOLOv8Head'))
    ours, theirs = (module.loss(tuple(maps()), samples()) for module in (ours, theirs))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_with_yolov8s_own_loss_it_is_the_plain_head():
    losses = []
    for type in ('mmscale.SizeAwareYOLOv8Head', 'mmyolo.YOLOv8Head'):
        torch.manual_seed(0)
        losses.append(moved(build(**head(type))).loss(tuple(maps()), samples()))
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0] | losses[1])


@pytest.mark.parametrize('type', ['mmyolo.YOLOv8Head', 'mmscale.YOLOv10Head'])
def test_a_head_that_tells_no_sizes_fails_with_one_sentence(type):
    module = head_module('mmscale.YOLOv10HeadModule') if type == 'mmscale.YOLOv10Head' else head_module()
    plain = moved(build(**head(type, module, loss_bbox=RF_MPDIOU)))
    with pytest.raises(ValueError, match='the loss needs the size of the image that each box is in, and this') as error:
        plain.loss(tuple(maps()), samples())
    assert '\n' not in str(error.value) and 'mmscale.SizeAwareYOLOv8Head' in str(error.value)


@pytest.mark.parametrize('objects', [[OBJECTS[0], []], [[], OBJECTS[1]], [[], []]], ids=['2+0', '0+2', '0+0'])
@pytest.mark.parametrize('batch', [samples, collated])
def test_images_without_objects_train_with_rf_mpdiou(objects, batch):
    module = size_aware()
    total = sum(module.loss(tuple(maps()), batch(objects)).values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_metas_by_name_and_by_place():
    """As MMDetection's head calls it, and as MMYOLO's fast path does."""
    module, batch = size_aware(), samples()
    outs = module(tuple(maps()))
    truth, metas = [x.gt_instances for x in batch], [x.metainfo for x in batch]
    by_place = module.loss_by_feat(*copied(outs), truth, metas)
    by_name = module.loss_by_feat(*copied(outs), batch_gt_instances=truth, batch_img_metas=metas)
    assert all(torch.equal(by_place[key], by_name[key]) for key in by_place | by_name)


def copied(outs):
    return [[level.clone() for level in part] for part in outs]


def test_a_copy_of_the_head_tells_its_own_rows():
    """As the average of a model's weights is one."""
    module = size_aware()
    twin = copy.deepcopy(module)
    del module
    twin.loss(tuple(maps(size=(64, 64))), samples(shapes=[(64, 64)] * 2))
    with box_loss_calls(twin) as calls:
        twin.loss(tuple(maps()), samples())
    assert {image for _, _, image, _, _ in rows_by_hand(calls[0])} == {0, 1}


def test_without_a_training_config_the_size_aware_head_predicts():
    torch.manual_seed(0)
    module = stirred(build(**head('mmscale.SizeAwareYOLOv8Head', train_cfg=None)))
    assert len(module.predict(tuple(maps()), samples())) == 2


def test_the_objects_tell_the_images():
    assert all(box[0] > BORDER for box in OBJECTS[0]) and all(box[2] < BORDER for box in OBJECTS[1])
    assert len(LABELS) == 2
