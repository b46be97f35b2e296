"""YOLOv10's head (dual assignments, no NMS) and the light head module."""

import copy
import math

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmscale.registry import HAS_MMYOLO

from . import literal
from .small import (
    ABSENT,
    CLASSES,
    OBJECTS,
    WIDTHS,
    assigned,
    build,
    collated,
    count,
    head,
    head_module,
    maps,
    moved,
    samples,
    stirred,
    weigh,
    without_gradient,
)

if not HAS_MMYOLO:
    pytest.skip(ABSENT, allow_module_level=True)

STRIDES = [8, 16, 32]


def light(**options):
    torch.manual_seed(0)
    return build(**head_module('mmscale.LightYOLOHeadModule', **options))


def dual_module(**options):
    torch.manual_seed(0)
    return build(**head_module('mmscale.YOLOv10HeadModule', **options))


def dual_head(**options):
    torch.manual_seed(0)
    return build(**head('mmscale.YOLOv10Head', head_module('mmscale.YOLOv10HeadModule'), **options))


# The light head module ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('classes, hidden', [(3, 32), (40, 40), (100, 100), (300, 100)])
def test_the_light_branchs_width(classes, hidden):
    """At least the finest map's, else the classes', but not above 100."""
    module = light(num_classes=classes)
    for width, branch in zip(WIDTHS, module.cls_preds, strict=True):
        shapes = [layer.conv.weight.shape for layer in branch[:-1]]
        assert shapes == [(width, 1, 3, 3), (hidden, width, 1, 1), (hidden, 1, 3, 3), (hidden, hidden, 1, 1)]
        assert branch[-1].weight.shape == (classes, hidden, 1, 1)


def test_the_light_branch_is_its_drawing_and_the_other_is_yolov8s():
    module, x = stirred(light()), maps()
    plain = build(**head_module())
    for key, value in plain.state_dict().items():
        if key.startswith('reg_preds'):
            value.copy_(module.state_dict()[key])
    plain.eval()
    scores, boxes = module(x)
    for branch, level, score in zip(module.cls_preds, x, scores, strict=True):
        first, widen, second, mix, last = branch
        y = literal.conv(widen, literal.depthwise(first, level))
        y = literal.conv(mix, literal.depthwise(second, y))
        torch.testing.assert_close(score, nn.functional.conv2d(y, last.weight, last.bias), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(boxes, plain(x)[1], strict=True):
        assert torch.equal(ours, theirs)


def test_the_light_module_starts_as_pytorchs_with_biases_for_few_objects():
    module = light()
    for parameter in module.parameters():
        nn.init.constant_(parameter, 7)
    module.init_weights()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.5 * bound < layer.weight.abs().max() <= bound * 1.0001
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and not layer.bias.any()
    for stride, scores, boxes in zip(STRIDES, module.cls_preds, module.reg_preds, strict=True):
        few = math.log(5 / CLASSES / (640 / stride) ** 2)
        torch.testing.assert_close(scores[-1].bias, torch.full((CLASSES,), few))
        assert (boxes[-1].bias == 1).all()


def test_a_start_of_the_users_stands_in_the_light_module():
    module = light(init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
    module.init_weights()
    assert all((layer.weight == 0.5).all() for layer in module.modules() if isinstance(layer, nn.Conv2d))


def test_the_light_modules_norm_and_activation_are_the_users():
    mine = light(norm_cfg=dict(type='BN', eps=0.25), act_cfg=dict(type='ReLU'))
    assert {m.eps for m in mine.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}
    assert not any(isinstance(m, nn.SiLU) for m in mine.modules())


# YOLOv10's head module ------------------------------------------------------------------------------------------------


def flat(outs):
    return [outs] if torch.is_tensor(outs) else [x for out in outs for x in flat(out)]


def test_both_branches_start_alike_and_are_two():
    module = dual_module()
    module.init_weights()
    first, second = module.one_to_many.state_dict(), module.one_to_one.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not {p.data_ptr() for p in module.one_to_many.parameters()} & {
        p.data_ptr() for p in module.one_to_one.parameters()
    }
    assert module.one_to_one.cls_preds[0][-1].bias[0] < -5  # the start reached them


def test_the_one_to_one_branch_gives_the_maps_no_gradient():
    module = moved(dual_module())
    x = [level.requires_grad_() for level in maps()]
    many, one = module(tuple(x))
    weigh(flat(one)).backward()
    assert all(level.grad is None for level in x)
    assert not without_gradient(module.one_to_one) and all(p.grad is None for p in module.one_to_many.parameters())
    weigh(flat(many)).backward()
    assert all((level.grad != 0).any() for level in x)


def test_in_training_both_branches_answer_in_order():
    module, x = moved(dual_module()), tuple(maps())
    twin = copy.deepcopy(module)
    many, one = module(x)
    assert isinstance(many, tuple) and isinstance(one, tuple)
    for ours, theirs in ((many, twin.one_to_many(x)), (one, twin.one_to_one(x))):
        assert all(torch.equal(a, b) for a, b in zip(flat(ours), flat(theirs), strict=True))
    assert not torch.equal(many[0][0], one[0][0])


@torch.no_grad()
@pytest.mark.parametrize('run_both', [False, True])
def test_at_inference_the_one_to_one_branch_answers(run_both):
    """And the other one does not even run, unless it is to be counted."""
    module, x, runs = stirred(dual_module(run_both=run_both)), tuple(maps()), []
    module.one_to_many.register_forward_hook(lambda *args: runs.append(args))
    outs = module(x)
    assert len(outs) == 2  # no distributions
    assert all(torch.equal(a, b) for a, b in zip(flat(outs), flat(module.one_to_one(x)), strict=True))
    assert len(runs) == run_both


def test_the_head_reads_from_it_what_it_reads_from_yolov8s():
    module, one = dual_module(), light()
    for name in ('num_classes', 'in_channels', 'num_base_priors', 'featmap_strides', 'reg_max'):
        assert getattr(module, name) == getattr(one, name)


def test_another_module_for_both_branches():
    module = dual_module(module='mmyolo.YOLOv8HeadModule')
    plain = build(**head_module())
    assert type(module.one_to_many) is type(module.one_to_one) is type(plain)
    assert count(module) == 2 * count(plain)


# YOLOv10's losses -----------------------------------------------------------------------------------------------------


def plain_losses(branch, topk, batch, **options):
    """YOLOv8's head with one branch's module alone."""
    theirs = build(**head(topk=topk, **options))
    theirs.head_module = copy.deepcopy(branch)
    return theirs.loss(tuple(maps()), batch)


@pytest.mark.parametrize('batch', [samples, collated])
@pytest.mark.parametrize('topk', [1, 2])
def test_the_losses_are_yolov8s_of_each_branch(topk, batch):
    module = moved(dual_head(one_to_one_topk=topk))
    many = plain_losses(module.head_module.one_to_many, 10, batch())
    one = plain_losses(module.head_module.one_to_one, topk, batch())
    losses = module.loss(tuple(maps()), batch())
    assert list(losses) == [
        *('loss_cls', 'loss_bbox', 'loss_dfl'),
        *('one_to_one.loss_cls', 'one_to_one.loss_bbox', 'one_to_one.loss_dfl'),
    ]
    for name, value in many.items():
        torch.testing.assert_close(losses[name], value, atol=0, rtol=1e-6)
        torch.testing.assert_close(losses[f'one_to_one.{name}'], one[name], atol=0, rtol=1e-6)
        assert value != one[name] and value > 0


def positives(outs):
    """How many positions of every object are positive: by image and place in the truth."""
    tally = {}
    for image, mask in enumerate(outs['fg_mask_pre_prior'].bool()):
        for box in outs['assigned_bboxes'][image][mask].tolist():
            places = [i for i, other in enumerate(outs['truth'][image].tolist()) if other == box]
            tally[image, places[0]] = tally.get((image, places[0]), 0) + 1
    return tally


def test_an_object_has_one_positive_in_one_branch_and_up_to_ten_in_the_other():
    module = moved(dual_head())
    with assigned(module.one_to_many_assigner, module.one_to_one_assigner) as (many, one):
        module.loss(tuple(maps()), samples())
    assert len(many) == len(one) == 1
    many, one = positives(many[0]), positives(one[0])
    objects = {(image, place) for image in range(2) for place in range(2)}
    assert set(one) <= objects and set(one.values()) == {1}
    assert set(many) <= objects and max(many.values()) <= 10 and min(many.values()) > 1


def test_the_metric_is_the_same_in_both():
    """The paper's consistent matching: alpha and beta of one are the other's."""
    module = dual_head()
    one, many = module.one_to_one_assigner, module.one_to_many_assigner
    assert (one.topk, many.topk) == (1, 10) and one is not many
    for name in ('alpha', 'beta', 'eps', 'use_ciou', 'num_classes'):
        assert getattr(one, name) == getattr(many, name)


def test_a_failure_leaves_the_right_assigner_behind(monkeypatch):
    module = moved(dual_head())
    many = module.assigner
    module.loss(tuple(maps()), samples())
    assert module.assigner is many is module.one_to_many_assigner

    def fail(*args, **kwargs):
        raise RuntimeError('no')

    monkeypatch.setattr(module.one_to_one_assigner, 'forward', fail)
    with pytest.raises(RuntimeError, match='no'):
        module.loss(tuple(maps()), samples())
    assert module.assigner is many


@pytest.mark.parametrize('objects', [[OBJECTS[0], []], [[], OBJECTS[1]], [[], []]], ids=['2+0', '0+2', '0+0'])
@pytest.mark.parametrize('batch', [samples, collated])
def test_images_without_objects_train(objects, batch):
    module = moved(dual_head())
    losses = module.loss(tuple(maps()), batch(objects))
    total = sum(losses.values())
    assert total.isfinite() and total > 0
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    if not any(objects):
        assert losses['loss_bbox'] == losses['one_to_one.loss_bbox'] == 0


def test_it_learns():
    module = moved(dual_head())
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    history = []
    for _ in range(5):
        losses = module.loss(tuple(maps()), samples())
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append([total.item(), losses['one_to_one.loss_cls'].item()])
    assert history[-1][0] < history[0][0] and history[-1][1] < history[0][1]


# YOLOv10's detections -------------------------------------------------------------------------------------------------


def select_by_sorting(scores, boxes, count):
    """The released rule: the best positions by their best class, then the best pairs of these; one image, in lists."""
    places = sorted(range(len(scores)), key=lambda i: -max(scores[i]))[:count]
    pairs = sorted(((scores[i][k], i, k) for i in places for k in range(len(scores[i]))), key=lambda pair: -pair[0])
    return [(score, boxes[i], k) for score, i, k in pairs[:count]]


@pytest.mark.parametrize('shape, kept', [((2, 30, 4), 7), ((2, 30, 1), 30), ((3, 5, 6), 5), ((1, 9, 3), 1)], ids=str)
def test_selection_is_a_literal_sort(shape, kept):
    generator = torch.Generator().manual_seed(0)
    batch, places, classes = shape
    scores = torch.randperm(batch * places * classes, generator=generator).float().view(shape) / 1000
    boxes = torch.rand(batch, places, 4, generator=generator)
    found = build(**head('mmscale.YOLOv10Head', head_module('mmscale.YOLOv10HeadModule'))).select(scores, boxes, kept)
    assert [tuple(out.shape) for out in found] == [(batch, kept), (batch, kept, 4), (batch, kept)]
    for image in range(batch):
        expected = select_by_sorting(scores[image].tolist(), boxes[image].tolist(), kept)
        ours = list(zip(*(out[image].tolist() for out in found), strict=True))
        assert ours == [tuple(row) for row in expected]


def test_a_position_may_be_found_with_two_classes_but_not_beyond_the_best_positions():
    """Of two positions, the pairs; the third position's class 0 has a higher score than the second's class 1."""
    scores = torch.tensor([[[0.9, 0.8], [0.7, 0.1], [0.6, 0.5]]])
    select = dual_head().select
    found, _, labels = select(scores, torch.zeros(1, 3, 4), 2)
    assert found[0].tolist() == pytest.approx([0.9, 0.8]) and labels[0].tolist() == [0, 1]
    scores = torch.tensor([[[0.9, 0.2], [0.7, 0.1], [0.6, 0.5]]])
    found, _, labels = select(scores, torch.zeros(1, 3, 4), 3)
    assert found[0].tolist() == pytest.approx([0.9, 0.7, 0.6])


META = dict(img_shape=(96, 128), ori_shape=(70, 200), scale_factor=(0.5, 0.8), pad_param=[8, 8, 14, 14])
METAS = {
    'plain': dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1.0, 1.0)),
    'resized': dict(img_shape=(96, 128), ori_shape=(48, 32), scale_factor=(4.0, 2.0)),
    'padded': META,
    'padded by an array': {**META, 'pad_param': torch.tensor([8.0, 8, 14, 14]).numpy()},
    'not padded': {**META, 'pad_param': None},
    'a smaller image': dict(img_shape=(64, 80), ori_shape=(32, 40), scale_factor=(2.0, 2.0)),
}


def detections_by_hand(scores, distances, meta, rescale, max_per_img=300, score_thr=0.0):
    """Of one image: positions one by one, distances from their centres, the sort, the original image's pixels."""
    all_scores, all_boxes = [], []
    for stride, score, distance in zip(STRIDES, scores, distances, strict=True):
        for i in range(score.shape[1]):
            for j in range(score.shape[2]):
                x, y = (j + 0.5) * stride, (i + 0.5) * stride
                left, top, right, bottom = (distance[:, i, j] * stride).tolist()
                all_scores.append([1 / (1 + math.exp(-s)) for s in score[:, i, j].tolist()])
                all_boxes.append([x - left, y - top, x + right, y + bottom])
    found = []
    for score, box, label in select_by_sorting(all_scores, all_boxes, min(max_per_img, len(all_scores))):
        if score <= score_thr:
            continue
        height, width = meta['img_shape']
        if rescale:
            top, _, left, _ = meta['pad_param'] if meta.get('pad_param') is not None else (0, 0, 0, 0)
            box = [side - pad for side, pad in zip(box, (left, top, left, top), strict=True)]
            box = [side / factor for side, factor in zip(box, meta['scale_factor'] * 2, strict=True)]
            height, width = meta['ori_shape']
        limits = (width, height, width, height)
        found.append((score, [min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)], label))
    return found


@torch.no_grad()
@pytest.mark.parametrize('rescale', [False, True])
@pytest.mark.parametrize('meta', METAS.values(), ids=METAS)
def test_detections_by_hand(meta, rescale):
    module = stirred(dual_head(), seed=5)
    module.test_cfg = ConfigDict(max_per_img=25)
    scores, distances = module(tuple(maps()))
    scores = [level * 2 for level in scores]
    results = module.predict_by_feat(scores, distances, batch_img_metas=[meta, METAS['plain']], rescale=rescale)
    for image, (result, own) in enumerate(zip(results, (meta, METAS['plain']), strict=True)):
        parts = [level[image] for level in scores], [level[image] for level in distances]
        expected = detections_by_hand(*parts, own, rescale, max_per_img=25)
        assert len(result.scores) == 25 and result.labels.dtype == torch.long
        torch.testing.assert_close(result.scores, torch.tensor([row[0] for row in expected]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result.bboxes, torch.tensor([row[1] for row in expected]), atol=1e-3, rtol=1e-4)
        assert result.labels.tolist() == [row[2] for row in expected]


@torch.no_grad()
def test_predict_takes_the_one_to_one_branch_and_the_samples_metas():
    module = stirred(dual_head(), seed=5)
    batch = samples(pad_param=[4, 4, 2, 2])
    ours = module.predict(tuple(maps()), batch, rescale=True)
    scores, distances = module.head_module.one_to_one(tuple(maps()))
    for image, result in enumerate(ours):
        parts = [level[image] for level in scores], [level[image] for level in distances]
        expected = detections_by_hand(*parts, batch[image].metainfo, True, 20, 0.001)
        torch.testing.assert_close(result.bboxes, torch.tensor([row[1] for row in expected]), atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    'cfg, number', [(dict(), 252), (dict(max_per_img=3), 3), (dict(max_per_img=1000), 252), (dict(score_thr=2), 0)]
)
def test_how_many_detections(cfg, number):
    """All 252 positions are fewer than the default of 300."""
    module = stirred(dual_head())
    module.test_cfg = ConfigDict(cfg)
    results = module.predict(tuple(maps()), samples())
    assert [len(result) for result in results] == [number] * 2
    for result in results:
        assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)


@torch.no_grad()
def test_a_threshold_drops_the_lower_scores_and_a_config_of_the_calls_own_rules():
    module = stirred(dual_head())
    outs, metas = module(tuple(maps())), [sample.metainfo for sample in samples()]
    every = module.predict_by_feat(*outs, batch_img_metas=metas, cfg=ConfigDict(max_per_img=50))
    threshold = every[0].scores[20].item()
    some = module.predict_by_feat(*outs, batch_img_metas=metas, cfg=ConfigDict(max_per_img=50, score_thr=threshold))
    assert len(every[0]) == 50 and len(some[0]) == 20
    assert torch.equal(some[0].bboxes, every[0].bboxes[:20])


def test_without_a_training_config_it_predicts():
    module = stirred(dual_head(train_cfg=None))
    assert not hasattr(module, 'assigner')
    assert len(module.predict(tuple(maps()), samples())[0]) == 20
