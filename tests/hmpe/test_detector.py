"""The detector: RT-DETR without its parts, all switches, losses and gradients in any case, inference, sentences."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmscale.hmpe import MOHFE, HMPEEncoder, HMPEHead
from mmscale.hmpe.heatmap_head import Supervision
from mmscale.rtdetr import RTDETR, HybridEncoder
from mmscale.rtdetr.query_selection import proposal_anchors

from ..rtdetr import small as rtdetr
from . import small

HEAT_LOSSES = {'loss_heatmap', 'loss_heat_cls', 'loss_heat_bbox'}
FPN = dict(type='mmdet.FPN', in_channels=[16, 32, 64], out_channels=32, num_outs=3)
SWITCHES = list(itertools.product([None, 'DSConv', 'LSConv'], [False, True], [False, True]))


def losses_of(model, counts=(3, 1), size=(96, 128)):
    torch.manual_seed(0)
    return model.loss(small.images(len(counts), size), small.samples(counts, size))


def no_backward(*args, **kwargs):
    raise AssertionError('a backward pass')


# Without its parts ----------------------------------------------------------------------------------------------------


def baselines():
    """RT-DETR, and HMPE with everything switched off, of the same weights."""
    ours, theirs = small.detector(seed=1, conv=None, mohfe=False, hidq=False), small.stirred(rtdetr.detector())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_without_its_parts_it_is_rt_detr():
    ours, theirs = baselines()
    image = small.images()
    for a, b in zip(*(model.eval()(image, mode='tensor') for model in (ours, theirs)), strict=True):
        assert a.equal(b)
    for a, b in zip(*(model.extract_feat(image) for model in (ours, theirs)), strict=True):
        assert a.equal(b)
    found = [model.predict(image, small.samples([1, 1]))[0].pred_instances for model in (ours, theirs)]
    assert found[0].bboxes.equal(found[1].bboxes) and found[0].scores.equal(found[1].scores)
    ours, theirs = (losses_of(model.train()) for model in (ours, theirs))
    assert set(ours) == set(theirs) and all(ours[name].equal(value) for name, value in theirs.items())


@pytest.mark.parametrize('conv', ['DSConv', 'LSConv'])
def test_a_snake_is_the_encoders_alone(conv):
    """The snakes are all that is added, and stand behind the projections."""
    model, theirs = small.trained(conv=conv, mohfe=False, hidq=False).eval(), rtdetr.detector().eval()
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith('neck.snakes.') for name in unexpected)
    image = small.images()
    maps = theirs.neck.project(theirs.backbone(image))
    bent = [snake(x) for snake, x in zip(model.neck.snakes, maps, strict=True)]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(bent, maps, strict=True))
    for a, b in zip(model.extract_feat(image), theirs.neck.encode(bent), strict=True):
        torch.testing.assert_close(a, b)
    assert model.heat(image)[1] is None


# Switches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('conv', 'mohfe', 'hidq'), SWITCHES)
def test_any_choice_of_parts_trains_and_predicts(conv, mohfe, hidq):
    """No parameter is unused, which DistributedDataParallel would not forgive."""
    model = small.trained(conv=conv, mohfe=mohfe, hidq=hidq).train()
    losses = losses_of(model)
    assert all(value.isfinite() for value in losses.values())
    assert HEAT_LOSSES & set(losses) == (HEAT_LOSSES if mohfe or hidq else set())
    sum(losses.values()).backward()
    assert rtdetr.without_gradient(model) == rtdetr.not_finite(model) == []
    with torch.no_grad():
        found = model.eval().predict(small.images(), small.samples([0, 0]))
    assert [len(sample.pred_instances) for sample in found] == [30, 30]
    expected = dict(DSConv=conv == 'DSConv', LSConv=conv == 'LSConv', MOHFE=mohfe, AIFI=not mohfe, HIDQ=hidq)
    expected |= dict(SharedValueDecoder=hidq, HeatmapHead=mohfe or hidq)
    kinds = {type(m).__name__ for m in model.modules()}
    assert {name: name in kinds for name in expected} == expected
    assert sum(name == 'heatmap_head.gate.weight' for name, _ in model.named_parameters()) == hidq


@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)], ids=str)
def test_every_parameter_learns_from_any_batch(counts, mode):
    model = small.trained(heatmap_head__heatmap=mode).train()
    losses = losses_of(model, counts)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert rtdetr.without_gradient(model) == rtdetr.not_finite(model) == []
    if not any(counts):
        assert losses['loss_heat_bbox'] == 0 and losses['loss_heat_cls'] > 0 and losses['loss_heatmap'] > 0


@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
def test_every_gradient_has_a_value_in_the_first_step(mode):
    """But for what stands before the last layers of the box branches, which start at zero and are moved here."""
    model = small.detector(heatmap_head__heatmap=mode).train()
    for branch in model.bbox_head.reg_branches:
        nn.init.normal_(branch[-1].weight, std=0.1)
    sum(losses_of(model).values()).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_the_switches_are_those_of_the_paper_one_by_one():
    """What a part adds to the names of the weights, and that the rest keeps its names."""
    names = {
        switch: {name for name, _ in small.detector(conv=switch[0], mohfe=switch[1], hidq=switch[2]).named_parameters()}
        for switch in SWITCHES
    }
    plain = names[None, False, False]
    assert {name.split('.')[1] for name in names['LSConv', False, False] ^ plain} == {'snakes'}
    changed = {name.split('.')[1] for name in names[None, True, False] ^ plain if not name.startswith('heatmap_head')}
    assert changed == {'mohfe', 'aifi'}
    changed = {'.'.join(name.split('.')[:1]) for name in names[None, False, True] ^ plain}
    assert changed == {'heatmap_head', 'memory_proj', 'decoder'}
    added = sorted(name for name in names[None, False, True] - plain if name.startswith('decoder'))
    assert added == ['decoder.value_proj.bias', 'decoder.value_proj.weight']


# Heat and queries -----------------------------------------------------------------------------------------------------


def test_the_heat_is_that_of_the_bent_maps_and_leads_encoder_and_queries(monkeypatch):
    model, image = small.trained().eval(), small.images()
    maps, heat = model.heat(image)
    stages = zip(model.neck.snakes, model.neck.input_proj, model.backbone(image), strict=True)
    bent = [snake(conv(x)) for snake, conv, x in stages]
    for a, b in zip(maps, bent, strict=True):
        assert a.equal(b)
    expected = model.heatmap_head(bent)
    for a, b in zip([*heat.classes, *heat.mixed], [*expected.classes, *expected.mixed], strict=True):
        assert a.equal(b)
    calls = []
    forward = model.neck.mohfe.forward
    monkeypatch.setattr(model.neck.mohfe, 'forward', lambda *args: calls.append(args) or forward(*args))
    feats = model.extract_feat(image)
    assert all(a.equal(b) for a, b in zip(calls[0][0], maps, strict=True))
    assert all(a.equal(b) for a, b in zip(calls[0][1].mixed, heat.mixed, strict=True))
    attended = HybridEncoder.encode(model.neck, forward(maps, heat))
    assert all(a.equal(b) for a, b in zip(feats, attended, strict=True))
    select = model.memory_proj.forward
    monkeypatch.setattr(model.memory_proj, 'forward', lambda *args: calls.append(args) or select(*args))
    model(image, mode='tensor')
    memory, mixed, count = calls[-1]
    assert memory.equal(model.pre_transformer(feats)['memory']) and count == 30
    assert mixed.equal(torch.cat([x.flatten(1) for x in heat.mixed], 1))


def test_the_hottest_positions_become_queries():
    """Of all levels, with an anchor at each, also where RT-DETR has none: at the border."""
    model = small.trained(num_queries=200, dn_cfg=None).train()
    shapes, strides = [(3, 60), (6, 8), (3, 4)], [8, 16, 32]
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(2, 240, 32, generator=generator)
    mixed = torch.rand(2, 240, generator=generator)
    queries, head = model.pre_decoder(memory, shapes, strides, None, mixed=mixed)
    anchors, _ = proposal_anchors(shapes, strides, at_border=True)
    places = mixed.argsort(1, descending=True)[:, :200]
    assert anchors.isfinite().all() and (places % 60 == 0).any(), 'the first column is centred at 0.5 / 60 < 0.01'
    for i in range(2):
        embedding = model.memory_proj.norm(memory[i, places[i]]) * mixed[i, places[i], None]
        query = model.memory_proj.query_proj(embedding)
        boxes = (model.bbox_head.reg_branches[3](query) + anchors[0, places[i]]).sigmoid()
        torch.testing.assert_close(queries['query'][i], query)
        torch.testing.assert_close(queries['references'][i], boxes)
        torch.testing.assert_close(head['enc_boxes'][i], boxes)
        torch.testing.assert_close(head['enc_logits'][i], model.bbox_head.cls_branches[3](query))
    assert not queries['query'].requires_grad and not queries['references'].requires_grad
    assert head['enc_boxes'].requires_grad and head['enc_logits'].requires_grad


def test_without_hidq_queries_are_rt_detrs():
    model = small.trained(hidq=False, dn_cfg=None).train()
    memory = torch.randn(2, 252, 32, generator=torch.Generator().manual_seed(0))
    arguments = memory, [(12, 16), (6, 8), (3, 4)], [8, 16, 32]
    expected = RTDETR.select_queries(model, *arguments)
    assert all(a.equal(b) for a, b in zip(model.select_queries(*arguments), expected, strict=True))


@pytest.mark.parametrize('size', [(32, 32), (96, 480)], ids=str)
def test_few_positions_and_positions_at_the_border(size):
    """Every position may be a query: all boxes are finite, and so are the losses."""
    model = small.trained(num_queries=2000)
    with torch.no_grad():
        logits, boxes = model.eval()(small.images(1, size), mode='tensor')
    assert logits.shape[2] == sum(size[0] * size[1] // s**2 for s in (8, 16, 32)) and boxes.isfinite().all()
    sum(losses_of(model.train(), (2, 1), size).values()).backward()
    assert rtdetr.not_finite(model) == []


@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
def test_gradient_mode_leads_with_the_targets_in_training_alone(mode):
    model = small.trained(heatmap_head__heatmap=mode)
    image, batch = small.images(), small.samples([3, 0])
    heat = model.train()._head_inputs(image, batch)['heat']
    same = [a.equal(b[:, :1]) for a, b in zip(heat.classes, heat.supervision.targets, strict=True)]
    assert same == [mode == 'gradient'] * 3
    model.eval()
    assert 'heat' not in model._head_inputs(image, batch)
    with torch.no_grad():
        told, alone = model._head_inputs(image, batch), model._head_inputs(image, None)
    assert told['boxes'][-1].equal(alone['boxes'][-1]), 'a ground truth is not read'


def test_losses_teach_the_heat():
    """The encoder's use of H_class and H_bbox has a gradient, and so has the gate, by the queries."""
    model = small.trained(dn_cfg=None).train()
    inputs = model._head_inputs(small.images(), small.samples([3, 1]))
    head = model.heatmap_head
    by_gate, *by_predictor = torch.autograd.grad(
        inputs['enc_logits'].square().sum(), [head.gate.weight, *head.predictor.parameters()]
    )
    assert by_gate.any() and all(g.any() for g in by_predictor)


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize('mode', ['predicted', 'gradient'])
def test_inference_makes_no_backward_pass(mode, context, monkeypatch):
    model, image, batch = small.trained(heatmap_head__heatmap=mode).eval(), small.images(), small.samples([2, 1])
    monkeypatch.setattr(torch.autograd, 'grad', no_backward)
    monkeypatch.setattr(torch.Tensor, 'backward', no_backward)
    with context():
        model(image, mode='tensor')
        model.extract_feat(image)
        assert len(model.predict(image, batch)[0].pred_instances) == 30
    with pytest.raises(AssertionError, match='a backward pass'):
        losses_of(model.train())


def test_images_of_a_batch_do_not_meet():
    image = small.images()
    model = rtdetr.calibrated(small.trained(), image)
    with torch.no_grad():
        whole = model(image, mode='tensor')
        single = [model(image[i : i + 1], mode='tensor') for i in range(2)]
    for i, both in enumerate(whole):
        torch.testing.assert_close(both, torch.cat([one[i] for one in single], dim=1), atol=1e-4, rtol=1e-4)


def test_training_after_inference_mode():
    """Codes and anchors are kept from image to image, also those that were first made for a prediction."""
    model, size = small.detector(), (64, 224)
    with torch.inference_mode():
        model.eval()(small.images(2, size), mode='tensor')
    sum(losses_of(model.train(), (1, 2), size).values()).backward()
    assert rtdetr.without_gradient(model) == rtdetr.not_finite(model) == []


# Depths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('hidq', [True, False])
@pytest.mark.parametrize('counts', [(2, 1), (0, 0)], ids=str)
def test_a_decoder_without_layers_trains_and_predicts(counts, hidq):
    """Table 4's first column: the proposals are the detections."""
    model = small.trained(hidq=hidq, decoder__num_layers=0, dn_cfg=None).train()
    losses = losses_of(model, counts)
    assert set(losses) == HEAT_LOSSES | {'enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'}
    sum(losses.values()).backward()
    assert rtdetr.without_gradient(model) == rtdetr.not_finite(model) == []
    with torch.no_grad():
        found = model.eval().predict(small.images(), small.samples([0, 0]))
    assert [len(sample.pred_instances) for sample in found] == [30, 30]


@pytest.mark.parametrize('layers', [0, 1, 2, 3])
def test_any_number_of_layers_serves_at_inference(layers):
    image, whole = small.images(1), small.trained().eval()
    part = small.detector(decoder__num_eval_layers=layers)
    part.load_state_dict(whole.state_dict())
    with torch.no_grad():
        logits, boxes = part.eval()(image, mode='tensor')
        inputs = whole._head_inputs(image, None)
        maps, heat = whole.heat(image)
        memory = whole.pre_transformer(whole.neck.encode(maps, heat))
        mixed = torch.cat([x.flatten(1) for x in heat.mixed], 1)
        query, first, start = whole.select_queries(**memory, strides=[8, 16, 32], mixed=mixed)
    if layers:
        first = whole.bbox_head.cls_branches[layers - 1](inputs['hidden_states'][layers - 1])
        start = inputs['boxes'][layers - 1]
    assert logits.shape[0] == boxes.shape[0] == 1
    torch.testing.assert_close(logits[0], first)
    torch.testing.assert_close(boxes[0], start)


# The head -------------------------------------------------------------------------------------------------------------


def supervision(seed=0, inside=True):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2, 3), (1, 2)]

    def drawn(draw, *width):
        return [draw(2, *width, *size, generator=generator) for size in sizes]

    labels = [torch.randint(0 if inside else -1, 2, (2, *size), generator=generator) for size in sizes]
    labels = [x - 1 for x in labels] if inside else [x.clamp(max=-1) for x in labels]
    return Supervision(
        drawn(torch.randn, 2), drawn(torch.rand, 2), drawn(torch.randn, 3), drawn(torch.randn, 4), labels,
        [2 * x for x in drawn(torch.randn, 4)],
    )  # fmt: skip


def by_hand(parts):
    """One position at a time; the sums of the three losses, positions and those of objects."""
    heat = cls = box = 0.0
    positions = inside = 0
    for level in range(2):
        for i in range(2):
            height, width = parts.labels[level].shape[1:]
            for place in itertools.product(range(height), range(width)):
                place = (slice(None), *place)
                logits, targets, scores, boxes, box_targets = (
                    getattr(parts, name)[level][i][place]
                    for name in ('logits', 'targets', 'scores', 'boxes', 'box_targets')
                )
                label = parts.labels[level][i][place[1:]].item()
                p = logits.sigmoid()
                heat -= (targets * p.log() + (1 - targets) * (1 - p).log()).sum()
                for c, score in enumerate(scores):
                    right = score.sigmoid() if c == label else 1 - score.sigmoid()
                    cls -= (0.25 if c == label else 0.75) * (1 - right) ** 2 * right.log()
                positions += 1
                if label >= 0:
                    inside += 1
                    error = (boxes - box_targets).abs()
                    box += torch.where(error < 1, error**2 / 2, error - 0.5).sum()
    return heat, cls, box, positions, inside


@pytest.mark.parametrize('inside', [True, False])
def test_the_losses_of_the_heat_by_hand(inside):
    """A mean over both maps' positions; focal and Huber loss per position of an object, over all levels."""
    parts = supervision(inside=inside)
    heat, cls, box, positions, count = by_hand(parts)
    assert bool(count) == inside and positions == 16 and count < 16
    losses = HMPEHead(num_classes=3, num_pred_layer=1, as_two_stage=True, embed_dims=8).heat_losses(parts)
    assert set(losses) == HEAT_LOSSES
    torch.testing.assert_close(losses['loss_heatmap'], heat / (2 * positions))
    torch.testing.assert_close(losses['loss_heat_cls'], cls / max(count, 1))
    torch.testing.assert_close(losses['loss_heat_bbox'], torch.as_tensor(box / max(count, 1)))


def test_weights_of_the_losses_are_factors():
    parts, options = supervision(), dict(num_classes=3, num_pred_layer=1, as_two_stage=True, embed_dims=8)
    other = HMPEHead(
        loss_heatmap=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=2.0),
        loss_heat_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, loss_weight=3.0),
        loss_heat_bbox=dict(type='mmdet.L1Loss', loss_weight=4.0),
        **options,
    )
    plain, found = HMPEHead(**options).heat_losses(parts), other.heat_losses(parts)
    for name, factor in (('loss_heatmap', 2), ('loss_heat_cls', 3)):
        torch.testing.assert_close(found[name], factor * plain[name])
    l1 = sum(
        F.l1_loss(a, b, reduction='none').sum(1)[labels >= 0].sum()
        for a, b, labels in zip(parts.boxes, parts.box_targets, parts.labels, strict=True)
    )
    torch.testing.assert_close(found['loss_heat_bbox'], 4 * l1 / sum((x >= 0).sum() for x in parts.labels))


def test_losses_are_in_single_precision_under_mixed_precision():
    model = small.trained().train()
    exact = losses_of(model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = losses_of(model)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    for name in HEAT_LOSSES:
        assert losses[name].item() == pytest.approx(exact[name].item(), rel=0.25)


# Sentences ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        (dict(heatmap_head=None), r'neck.mohfe needs heatmaps: set heatmap_head=dict\(\)$'),
        (dict(mohfe=False, heatmap_head=None), r'hidq needs heatmaps: set heatmap_head=dict\(\)$'),
        (
            dict(mohfe=False, hidq=False, heatmap_head=dict(tau=0.2)),
            r"heatmap_head=\{'tau': 0.2\} serves nobody: set neck.mohfe or hidq, or leave it out$",
        ),
        (
            dict(heatmap_head=dict(threshold=0.2)),
            'heatmap_head has no option threshold=0.2: its options are channels, heatmap, tau, norm_cfg, init_cfg$',
        ),
        (dict(heatmap_head=dict(num_classes=3)), 'heatmap_head.num_classes=3 cannot be set: the detector knows it$'),
        (dict(heatmap_head=dict(gate=False)), 'heatmap_head.gate=False cannot be set: the detector knows it$'),
        (
            dict(neck=FPN, conv=None, mohfe=False),
            'heatmaps are of the levels of mmscale.HybridEncoder, but neck is FPN$',
        ),
        (
            dict(bbox_head__type='mmscale.RTDETRHead'),
            'heatmap_head needs the losses of mmscale.HMPEHead, but bbox_head is RTDETRHead$',
        ),
        (dict(heatmap_head=dict(heatmap='both')), "heatmap='both' must be 'predicted' or 'gradient'$"),
        (
            dict(neck__aifi=dict(num_heads=4)),
            r"aifi=\{'num_heads': 4\} has no place beside mohfe=\{.*\}: set aifi=None$",
        ),
        (dict(neck__mohfe=dict(heads=4)), 'mohfe has no option heads=4: its options are num_heads, feedforward_chan'),
        (dict(neck__mohfe=dict(channels=32)), 'mohfe.channels=32 cannot be set: it is out_channels of the encoder$'),
        (dict(neck__mohfe=dict(num_heads=5)), 'channels=32 of MOHFE must be a multiple of 4 and of num_heads=5$'),
        (dict(neck__conv=dict(type='mmscale.LSConv', taps=5)), 'conv has no option taps=5: its options are kernel_si'),
        (dict(neck__conv=dict(kernel_size=5)), r"conv=\{'kernel_size': 5\} must say its type, 'mmscale.DSConv' or"),
        (dict(conv=None, neck__conv_width=8), 'conv_width=8 has no conv: set conv, or leave it out$'),
        (dict(neck__fine=dict()), r'HMPEEncoder has no option fine=\{\}: its options are in_channels, out_channels'),
        (dict(hdiq=True), 'HMPE has no option hdiq=True: its options are backbone, neck'),
        (
            dict(bbox_head__loss_heatmap=dict(type='mmdet.MSELoss')),
            r"loss_heatmap=\{'type': 'mmdet.MSELoss'\} does not fit HMPEHead: it has to be mmdet.CrossEntropyLoss",
        ),
        (dict(bbox_head__loss_heatmap=dict(type='mmdet.CrossEntropyLoss')), 'loss_heatmap=.* does not fit HMPEHead'),
        (dict(bbox_head__loss_heat_cls=dict(type='mmdet.VarifocalLoss')), 'loss_heat_cls=.* does not fit HMPEHead'),
        (
            dict(bbox_head__loss_heat_bbox=dict(type='mmdet.GIoULoss')),
            r"loss_heat_bbox=\{'type': 'mmdet.GIoULoss'\} .*: it has to be mmdet.SmoothL1Loss or mmdet.L1Loss$",
        ),
        (dict(decoder__num_layers=0), 'decoder.num_layers=0 leaves no layer for denoising queries: set dn_cfg=None$'),
    ],
    ids=str,
)
def test_a_wrong_config_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=f'^{sentence}'):
        small.detector(**changes)


def test_mohfe_without_heat_is_one_sentence():
    neck = small.detector().neck
    maps = [torch.randn(1, c, *s) for c, s in zip((16, 32, 64), [(12, 16), (6, 8), (3, 4)], strict=True)]
    with pytest.raises(ValueError, match=r'^MOHFE needs heatmaps: give mmscale.HMPE, the detector, its heatmap_head$'):
        neck(maps)


def test_hidq_serves_rt_detrs_own_encoder():
    """And gives what HMPEEncoder without snakes and MOHFE gives."""
    neck = {**rtdetr.SMALL['neck'], 'type': 'mmscale.HybridEncoder'}
    plain, ours = (small.trained(conv=None, mohfe=False, **changes) for changes in (dict(neck=neck), {}))
    ours.load_state_dict(plain.state_dict())
    image = small.images(1)
    for a, b in zip(plain.eval()(image, mode='tensor'), ours.eval()(image, mode='tensor'), strict=True):
        assert a.equal(b)
    for a, b in zip(plain.extract_feat(image), ours.extract_feat(image), strict=True):
        assert a.equal(b)
    assert set(losses_of(plain.train())) > HEAT_LOSSES


def test_mohfe_takes_the_place_of_aifi():
    """Also where the config says nothing of it, and AIFI is the default."""
    neck = HMPEEncoder([16, 32], out_channels=16, mohfe=dict(num_heads=2))
    assert neck.aifi is None and isinstance(neck.mohfe, MOHFE)
    neck = HMPEEncoder([16, 32], out_channels=16)
    assert neck.mohfe is neck.snakes is None and neck.aifi is not None


def test_the_encoder_of_another_detector_is_rt_detrs_with_snakes():
    """HMPEEncoder without MOHFE serves RT-DETR itself."""
    model = rtdetr.stirred(rtdetr.detector(neck__type='mmscale.HMPEEncoder', neck__conv=dict(type='mmscale.LSConv')))
    sum(losses_of(model.train()).values()).backward()
    assert rtdetr.without_gradient(model) == []


def test_options_of_the_snakes_and_of_mohfe_reach_them():
    model = small.detector(
        neck__conv=dict(type='mmscale.DSConv', kernel_size=5),
        neck__conv_width=6,
        neck__norm_cfg=dict(type='GN', num_groups=2),
    )
    for block in model.neck.snakes:
        assert block.body[1].kernel_size == 5 and block.body[1].channels == 6
        assert isinstance(block.body[2], nn.GroupNorm)
    assert model.neck.mohfe.max_tokens == 20 and model.neck.mohfe.channels == 32
    assert model.heatmap_head.num_classes == small.CLASSES and len(model.heatmap_head.trunks) == 3
