"""The head that predicts the heatmaps: who owns a position, what the gradients teach, training and inference."""

import copy
import math

import pytest
import torch
from torch import nn

from mmscale.hmpe import HeatmapHead
from mmscale.hmpe.heatmap_head import assign_positions
from mmscale.hmpe.heatmaps import even_out

from . import literal, small

SIZE = (96, 128)
LEVELS = [(12, 16), (6, 8), (3, 4)]
CLASSES = 5


def head(seed=0, **options):
    """With weights which are not at their start, so that nothing is one half."""
    torch.manual_seed(seed)
    module = HeatmapHead(**{**dict(num_classes=CLASSES, in_channels=8, channels=6), **options})
    module.init_weights()
    for layer in (module.predictor[-1], module.gate):
        if layer is not None:
            nn.init.normal_(layer.weight)
    nn.init.normal_(module.class_branch[-1].bias)
    return module


def maps(batch=2, sizes=LEVELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 8, *size, generator=generator) for size in sizes]


def activations_of(module, inputs):
    return [trunk(x) for trunk, x in zip(module.trunks, inputs, strict=True)]


# Positions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('size', 'sizes'),
    [(SIZE, LEVELS), ((70, 100), [(9, 13), (5, 7), (3, 4)]), ((64, 64), [(1, 1), (2, 5)])],
    ids=str,
)
@pytest.mark.parametrize('seed', range(3))
def test_positions_are_assigned_one_by_one(size, sizes, seed):
    """Objects of all sizes, some that lie in others; maps that divide the batch's size and maps that do not."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for count in (9, 2, 0):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
        side = torch.rand(count, 2, generator=generator).pow(3) * torch.tensor([size[1], size[0]])
        boxes = torch.cat((corner - side / 2, corner + side / 2), 1)
        boxes[:, 0::2].clamp_(0, size[1])
        boxes[:, 1::2].clamp_(0, size[0])
        batch.append(small.sample(boxes, torch.randint(0, CLASSES, (count,), generator=generator), size))
    for shape, found in zip(sizes, assign_positions(batch, [torch.zeros(3, 1, *s) for s in sizes]), strict=True):
        for i, sample in enumerate(batch):
            truth = sample.gt_instances
            expected = literal.assign(truth.bboxes, truth.labels, *shape, size)
            for part, value in zip(found, expected, strict=True):
                torch.testing.assert_close(part[i], value, atol=1e-4, rtol=1e-4)


def owned(boxes, labels, size=SIZE, shape=(6, 8), **options):
    sample = small.sample(boxes, labels, size, **options)
    ((owners, classes, targets),) = assign_positions([sample], [torch.zeros(1, 1, *shape)])
    return owners[0], classes[0], targets[0]


def test_an_object_smaller_than_a_cell_owns_the_cell_of_its_centre():
    """In cells of 16 pixels, around whose middle it does not lie."""
    owners, labels, targets = owned([[33.0, 49.0, 37.0, 51.0]], [4])
    assert (labels >= 0).nonzero().tolist() == [[3, 2]] and labels[3, 2] == 4 and owners[3, 2] == 0
    expected = [(40 - 33) / 16, (56 - 49) / 16, 0.1, 0.1]  # its right and lower side lie before the middle
    torch.testing.assert_close(targets[:, 3, 2], torch.tensor(expected).log())


def test_a_large_object_owns_the_cells_whose_middle_it_covers():
    owners, labels, targets = owned([[25.0, 7.9, 72.1, 40.1]], [1])
    rows, columns = (labels == 1).nonzero().T
    assert rows.unique().tolist() == [0, 1, 2] and columns.unique().tolist() == [2, 3, 4]
    expected = torch.tensor([40 - 25.0, 24 - 7.9, 72.1 - 40, 40.1 - 24]) / 16
    torch.testing.assert_close(targets[:, 1, 2], expected.log())
    assert not targets[:, labels < 0].any() and (owners == labels - 1).logical_or(labels < 0).all()


def test_the_smaller_object_owns_what_two_cover():
    inner, outer = [48.0, 32.0, 80.0, 64.0], [0.0, 0.0, 128.0, 96.0]
    for boxes, labels in (([inner, outer], [1, 2]), ([outer, inner], [2, 1])):
        owners, classes, _ = owned(boxes, labels)
        assert (classes == 1).sum() == 4 and (classes == 2).sum() == 44
        assert (classes[2:4, 3:5] == 1).all()
        assert (torch.tensor(labels)[owners] == classes).all()


def test_a_centre_is_owned_by_the_smaller_of_two_objects():
    """The centre rule takes no position from a smaller object."""
    tiny, tinier = [33.0, 49.0, 37.0, 51.0], [44.0, 60.0, 46.0, 62.0]
    for boxes in ([tiny, tinier], [tinier, tiny]):
        owners, *_ = owned(boxes, [0, 0])
        assert (owners >= 0).sum() == 1 and owners[3, 2] == boxes.index(tinier)


def test_a_centre_on_the_last_edge_is_in_the_last_cell():
    _, labels, _ = owned([[127.0, 95.0, 129.0, 97.0]], [0])
    assert (labels >= 0).nonzero().tolist() == [[5, 7]]
    _, labels, _ = owned([[-3.0, -3.0, 1.0, 1.0]], [0])
    assert (labels >= 0).nonzero().tolist() == [[0, 0]]


def test_positions_are_those_of_the_padded_batch():
    """The image's own size, and a meta without the batch's."""
    box = [[33.0, 49.0, 37.0, 51.0]]
    _, labels, _ = owned(box, [0], SIZE, image_size=(60, 70))
    assert (labels >= 0).nonzero().tolist() == [[3, 2]]
    sample = small.sample(box, [0], SIZE)
    alone = type(sample)(metainfo=dict(img_shape=(96, 64)))
    alone.gt_instances = sample.gt_instances
    ((_, labels, _),) = assign_positions([alone], [torch.zeros(1, 1, 6, 8)])
    assert (labels[0] >= 0).nonzero().tolist() == [[3, 4]]


def test_an_image_without_objects_owns_nothing():
    owners, labels, targets = owned([], [])
    assert (owners == -1).all() and (labels == -1).all() and not targets.any()
    assert labels.dtype is owners.dtype is torch.int64 and targets.dtype is torch.float32


# Teaching -------------------------------------------------------------------------------------------------------------


def test_objects_are_evened_out_one_by_one():
    heat = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    owners = torch.randint(-1, 3, (3, 4, 5), generator=torch.Generator().manual_seed(1))
    owners[1] = -1
    heat[2][owners[2] == 0] = 0
    found = even_out(heat, owners)
    for i in range(3):
        torch.testing.assert_close(found[i], literal.evened_out(heat[i], owners[i]))
    assert found[1].equal(heat[1]) and found.isfinite().all()


def test_targets_are_the_gradients_maps_one_image_and_one_level_at_a_time():
    """Classes in the first map, boxes in the second, by loops in double precision."""
    module, inputs, batch = head().train(), maps(), small.samples([4, 1], SIZE)
    supervision = module(inputs, batch).supervision
    activations = activations_of(module, inputs)
    classify, regress = (copy.deepcopy(branch).double() for branch in (module.class_branch, module.box_branch))
    for level, shape in enumerate(LEVELS):
        for i, sample in enumerate(batch):
            a = activations[level][i].detach().double()
            truth = sample.gt_instances
            owners, labels, targets = literal.assign(truth.bboxes, truth.labels, *shape, SIZE)
            expected = [
                literal.heatmap_by_one_pass(lambda x: classify(x[None])[0], a, labels, CLASSES),
                literal.box_heatmap_by_one_pass(lambda x: regress(x[None])[0], a, targets, labels),
            ]
            for found, heat in zip(supervision.targets[level][i], expected, strict=True):
                assert heat.any()
                expected = literal.evened_out(heat, owners).float()
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_far_from_the_target_the_boxes_map_is_that_of_automatic_derivatives():
    """Huber's loss is linear there, and so is a branch of one layer: eqs. 1 to 3 hold as they stand."""
    module = head(num_levels=1).train()
    module.box_branch = nn.Conv2d(6, 4, 1)
    nn.init.constant_(module.box_branch.bias, 20.0)
    inputs, batch = maps(1, [(3, 4)]), small.samples([2], SIZE)
    supervision = module(inputs, batch).supervision
    (a,) = activations_of(module, inputs)
    truth, regress = batch[0].gt_instances, copy.deepcopy(module.box_branch).double()
    owners, labels, targets = literal.assign(truth.bboxes, truth.labels, 3, 4, SIZE)

    def shifted(x):  # a factor common to all of y, which would be exp(80)
        return literal_cost(regress(x[None])[0], targets, labels)

    def literal_cost(boxes, targets, labels):
        assert ((boxes - targets).abs()[:, labels >= 0] > 1).all()
        return literal.cost_of(boxes, targets, labels) * math.exp(-80)

    expected = literal.normalised(literal.eqs_1_to_3(shifted, a[0].detach().double()))
    expected = literal.evened_out(expected, owners).float()
    torch.testing.assert_close(supervision.targets[0][0, 1], expected, atol=1e-4, rtol=1e-3)
    assert expected.any()


def test_supervision_has_the_shapes_that_it_says():
    supervision = head().train()(maps(), small.samples([2, 0], SIZE)).supervision
    for level, size in enumerate(LEVELS):
        for name, width in (('logits', 2), ('targets', 2), ('scores', CLASSES), ('boxes', 4), ('box_targets', 4)):
            assert getattr(supervision, name)[level].shape == (2, width, *size), name
        assert supervision.labels[level].shape == (2, *size)
        targets = supervision.targets[level]
        assert not targets.requires_grad and (targets >= 0).all() and (targets <= 1).all()
        assert targets[0].any() and not targets[1].any()
        assert (supervision.labels[level][1] == -1).all()
        for learned in (supervision.logits, supervision.scores, supervision.boxes):
            assert learned[level].requires_grad


def test_supervision_is_of_the_same_values_that_are_predicted():
    module, batch = head().train(), small.samples([2, 1], SIZE)
    heat = module(maps(), batch)
    activations = activations_of(module, maps())
    for level, x in enumerate(activations):
        logits = heat.supervision.logits[level].sigmoid()
        assert heat.classes[level].equal(logits[:, :1]) and heat.boxes[level].equal(logits[:, 1:])
        torch.testing.assert_close(heat.supervision.scores[level], module.class_branch(x))
        torch.testing.assert_close(heat.supervision.boxes[level], module.box_branch(x))


def test_other_images_and_levels_do_not_change_the_targets():
    module, inputs, batch = head().train(), maps(3), small.samples([3, 0, 2], SIZE)
    activations = [x.detach() for x in activations_of(module, inputs)]
    whole = module.supervise(activations, activations, batch).targets
    for i in range(3):
        single = module.supervise([x[i : i + 1] for x in activations], activations, batch[i : i + 1]).targets
        for a, b in zip(single, whole, strict=True):
            torch.testing.assert_close(a[0], b[i])


def test_a_forward_leaves_no_gradients_behind():
    module, inputs = head().train(), [x.requires_grad_() for x in maps()]
    heat = module(inputs, small.samples([3, 1], SIZE))
    assert all(p.grad is None for p in module.parameters()) and all(x.grad is None for x in inputs)
    before = [torch.full_like(p, 0.5) for p in module.parameters()]
    for parameter, value in zip(module.parameters(), before, strict=True):
        parameter.grad = value.clone()
    module(inputs, small.samples([3, 1], SIZE))
    assert all(p.grad.equal(value) for p, value in zip(module.parameters(), before, strict=True))
    module.zero_grad()
    sum(x.square().mean() for x in (*heat.mixed, *heat.supervision.scores, *heat.supervision.boxes)).backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters()), 'the graph is still there'
    assert all(x.grad is not None and x.grad.any() for x in inputs)


@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
def test_a_frozen_body_is_no_obstacle(mode):
    """Activations that need no gradient: the trunk is frozen, or everything is."""
    module, batch = head(heatmap=mode).train(), small.samples([3, 1], SIZE)
    expected = module(maps(), batch).supervision.targets
    module.trunks.requires_grad_(False)
    supervision = module(maps(), batch).supervision
    for a, b in zip(supervision.targets, expected, strict=True):
        torch.testing.assert_close(a, b)
    sum(x.square().mean() for x in (*supervision.scores, *supervision.boxes)).backward()
    for branch in (module.class_branch, module.box_branch):
        assert all(p.grad.any() for p in branch.parameters())
    module.requires_grad_(False)
    for a, b in zip(module(maps(), batch).supervision.targets, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_training_without_gradients_is_possible():
    """As a loss on a validation set is computed."""
    module, batch = head().train(), small.samples([3, 1], SIZE)
    expected = module(maps(), batch).supervision.targets
    with torch.no_grad():
        found = module(maps(), batch).supervision.targets
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_under_mixed_precision_targets_are_in_single():
    module, batch = head().train(), small.samples([3, 1], SIZE)
    with torch.autocast('cpu', torch.bfloat16):
        supervision = module(maps(), batch).supervision
    for parts in (supervision.targets, supervision.scores, supervision.boxes):
        assert {x.dtype for x in parts} == {torch.float32} and all(x.isfinite().all() for x in parts)


# Training and inference -----------------------------------------------------------------------------------------------


def no_backward(*args, **kwargs):
    raise AssertionError('a backward pass')


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
def test_inference_needs_no_backward_and_has_no_supervision(mode, context, monkeypatch):
    module = head(heatmap=mode).eval()
    expected = [module.predictor(x).sigmoid() for x in activations_of(module, maps())]
    monkeypatch.setattr(torch.autograd, 'grad', no_backward)
    for batch in (None, small.samples([3, 1], SIZE)):
        with context():
            heat = module(maps(), batch)
        assert heat.supervision is None
        for level, pair in enumerate(expected):
            torch.testing.assert_close(torch.cat((heat.classes[level], heat.boxes[level]), 1), pair)


def test_training_without_a_ground_truth_predicts(monkeypatch):
    monkeypatch.setattr(torch.autograd, 'grad', no_backward)
    assert head(heatmap='gradient').train()(maps()).supervision is None


def test_gradient_mode_works_with_the_targets_in_training():
    module, batch = head(heatmap='gradient').train(), small.samples([3, 0], SIZE)
    heat = module(maps(), batch)
    for level, targets in enumerate(heat.supervision.targets):
        assert heat.classes[level].equal(targets[:, :1]) and heat.boxes[level].equal(targets[:, 1:])
        assert not heat.mixed[level][1].any() and not heat.mask[level][1].any()
        assert heat.mixed[level].requires_grad, 'by the gate'
    predicted = head().train()(maps(), batch)
    for a, b in zip(predicted.supervision.targets, heat.supervision.targets, strict=True):
        torch.testing.assert_close(a, b)
    assert not predicted.classes[0].equal(heat.classes[0])


def test_the_mix_is_a_share_of_both():
    """Eq. 4, lambda from the mean of the level's activations, image by image."""
    module = head().eval()
    heat = module(maps())
    for level, x in enumerate(activations_of(module, maps())):
        for i in range(2):
            mean = x[i].flatten(1).mean(1)
            share = (module.gate.weight[0] @ mean + module.gate.bias[0]).sigmoid()
            expected = share * heat.classes[level][i] + (1 - share) * heat.boxes[level][i]
            torch.testing.assert_close(heat.mixed[level][i], expected)
            assert abs(share - 0.5) > 1e-3
    for value, maps_ in ((100.0, heat.classes), (-100.0, heat.boxes)):
        nn.init.constant_(module.gate.bias, value)
        for a, b in zip(module(maps()).mixed, maps_, strict=True):
            torch.testing.assert_close(a, b)


def test_without_a_gate_both_have_one_half():
    module = head(gate=False).eval()
    assert not any('gate' in name for name, _ in module.named_parameters())
    heat = module(maps())
    for mixed, classes, boxes in zip(heat.mixed, heat.classes, heat.boxes, strict=True):
        torch.testing.assert_close(mixed, (classes + boxes) / 2)


@pytest.mark.parametrize('tau', [0.0, 0.1, 0.5])
def test_the_mask_is_where_the_mix_is_above_tau(tau):
    module = head(tau=tau).eval()
    heat = module(maps())
    for mixed, mask in zip(heat.mixed, heat.mask, strict=True):
        assert mask.dtype is torch.bool and mask.equal(mixed.gt(tau)) and mixed.shape[:2] == (2, 1)
    gradient = head(tau=0.0, heatmap='gradient', gate=False).train()(maps(), small.samples([1, 0], SIZE))
    assert not gradient.mask[0][1].any() and gradient.mask[0][0].any(), 'eq. 6: what is 0 is cold'


def test_what_equals_tau_is_cold():
    module = head(tau=0.5, gate=False).eval()
    nn.init.zeros_(module.predictor[-1].weight)
    heat = module(maps())
    assert all((mixed == 0.5).all() and not mask.any() for mixed, mask in zip(heat.mixed, heat.mask, strict=True))


def test_the_start_is_a_map_of_one_half_and_classes_of_a_percent():
    torch.manual_seed(0)
    module = HeatmapHead(num_classes=3, in_channels=64, channels=64)
    for parameter in module.parameters():
        parameter.data.fill_(9.0)
    module.init_weights()
    inputs = [torch.randn(2, 64, *size, generator=torch.Generator().manual_seed(0)) for size in LEVELS]
    heat = module.train()(inputs)
    for x in (*heat.classes, *heat.boxes, *heat.mixed):
        assert abs(x.mean().item() - 0.5) < 0.1
    assert all(mask.all() for mask in heat.mask)
    scores = module.class_branch(activations_of(module, inputs)[0]).sigmoid()
    assert 0.005 < scores.mean() < 0.02
    assert not module.predictor[-1].bias.any() and not module.gate.bias.any()


def test_levels_share_all_but_the_trunk():
    module = head()
    assert len(module.trunks) == 3 and not module.trunks[0].conv.weight.equal(module.trunks[1].conv.weight)
    same = maps(1, [(4, 4)]) * 3
    module.eval()
    for trunk in module.trunks[1:]:
        trunk.load_state_dict(module.trunks[0].state_dict())
    heat = module(same)
    assert heat.mixed[0].equal(heat.mixed[2]) and heat.classes[0].equal(heat.classes[1])


def test_the_prediction_sees_the_neighbours_and_the_boxes_do_not():
    module, x = head(num_levels=1).eval(), maps(1, [(5, 6)])
    other = [x[0].clone()]
    other[0][..., 2, 3] += 1
    changed = (module(x).classes[0] != module(other).classes[0])[0, 0].nonzero()
    assert changed.amin(0).tolist() == [1, 2] and changed.amax(0).tolist() == [3, 4]
    for branch in (module.class_branch, module.box_branch):
        a, b = (branch(activations_of(module, inputs)[0]) for inputs in (x, other))
        assert (a != b).any(1)[0].nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(heatmap='both'), "heatmap='both' must be 'predicted' or 'gradient'"),
        (dict(tau=-0.1), 'tau=-0.1 must be at least 0 and below 1'),
        (dict(tau=1.0), 'tau=1.0 must be at least 0 and below 1'),
    ],
    ids=str,
)
def test_a_wrong_option_is_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=f'^{sentence}$'):
        head(**options)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError):
        head()(maps()[:2])
