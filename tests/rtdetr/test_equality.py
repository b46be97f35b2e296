"""The same weights, image and targets: the same classes, boxes, losses and gradients as transformers' RT-DETR."""

import copy
import re

import pytest
import torch
from mmengine.registry import init_default_scope

from mmscale.analysis.complexity import complexity
from mmscale.registry import MODELS
from mmscale.rtdetr import ContrastiveDenoising

from . import oracle, small

R18 = dict(
    backbone=dict(type='mmscale.ResNetVd', depth=18, out_indices=(1, 2, 3), norm_eval=False),
    neck=dict(type='mmscale.HybridEncoder', in_channels=[128, 256, 512], expansion=0.5),
    decoder=dict(num_layers=3),
)
R50 = dict(
    backbone=dict(
        type='mmscale.ResNetVd',
        depth=50,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
    ),
    neck=dict(type='mmscale.HybridEncoder', in_channels=[512, 1024, 2048]),
    decoder=dict(num_layers=6),
)
HGNETV2_L = dict(
    backbone=dict(type='mmscale.HGNetV2', arch='L'),
    neck=dict(type='mmscale.HybridEncoder', in_channels=[512, 1024, 2048]),
    decoder=dict(num_layers=6),
)


def full(parts, **changes):
    """A detector of the paper's size, without its initialisation."""
    init_default_scope('mmscale')
    head = dict(type='mmscale.RTDETRHead', num_classes=80)
    cfg = {**small.SMALL, 'num_queries': 300, 'bbox_head': head, **copy.deepcopy(parts), **changes}
    return MODELS.build(cfg)


# name: detector, transformers' backbone, a size that is not square, millions of parameters
FULL = {
    'r18': (R18, oracle.resnet, dict(depth=18), (256, 352), 20.18),
    'r50': (R50, oracle.resnet, dict(depth=50), (192, 256), 42.89),
    'hgnetv2-l': (HGNETV2_L, oracle.hgnetv2_l, {}, (256, 192), 32.97),
}


@pytest.fixture(scope='module', params=FULL)
def pair(request):
    """A detector's name, the detector and its twin, one pair after the other."""
    parts, backbone, numbers, *_ = FULL[request.param]
    model = small.calibrated(small.stirred(full(parts), seed=3), small.images(1, (256, 256)))
    frozen = request.param == 'r50'
    return request.param, model, oracle.twin(model, backbone(**numbers), freeze_backbone_batch_norms=frozen)


@pytest.mark.parametrize('square', [True, False])
def test_classes_and_boxes_equal_transformers(pair, square):
    name, model, other = pair
    image = small.images(2, (640, 640) if square else FULL[name][3])
    with torch.no_grad():
        logits, boxes = model(image, mode='tensor')
        expected = other(image)
    assert logits.shape == (1, 2, 300, 80)
    assert boxes.shape == (1, 2, 300, 4)
    # No query is chosen by a hair, and what is compared says something: scores and boxes are spread.
    assert oracle.gap(expected.enc_outputs_class.max(-1).values, 300) > 1e-4
    assert expected.logits.std() > 0.5
    assert (expected.pred_boxes.flatten(0, 1).std(0) > 0.01).all()
    worst = oracle.same_queries(logits[-1], boxes[-1], expected.logits, expected.pred_boxes)
    assert max(worst) < 1e-4


def test_parameters_equal_transformers(pair):
    """To the last one. The frozen norms of R50's backbone are buffers there and parameters without gradient here.

    The paper says 20 M, 42 M and 32 M.
    """
    name, model, other = pair
    ours = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert ours == sum(p.numel() for p in other.parameters())
    assert round(ours / 1e6, 2) == FULL[name][4]


@pytest.mark.parametrize(
    ('parts', 'paper', 'all_boxes', 'gflops'),
    [(R18, 60.7, False, 59.59), (R18, 60.7, True, 61.73), (R50, 136.0, False, 136.22), (R50, 136.0, True, 138.36)],
    ids=['r18', 'r18-all-boxes', 'r50', 'r50-all-boxes'],
)
def test_gflops_are_the_papers(parts, paper, all_boxes, gflops):
    """At 640x640, without and with the boxes of the proposals that nobody looks at."""
    with torch.device('meta'):
        model, image = full(parts, box_all_proposals=all_boxes), torch.zeros(1, 3, 640, 640)
    counted = complexity(model, inputs=[image]).flops / 1e9
    assert round(counted, 2) == gflops
    assert counted == pytest.approx(paper, rel=0.02)


SIZE = (128, 160)
QUERIES = 50


def training_pair(**changes):
    """A small detector and its twin in training mode, without denoising."""
    model = small.stirred(small.detector(dn_cfg=None, num_queries=QUERIES, **changes)).train()
    return model, oracle.twin(model, oracle.resnet(18, 8), freeze_backbone_batch_norms=False, num_denoising=0)


def losses_of(model, other, counts=(4, 2)):
    """Both models' losses of one batch, theirs by our names."""
    image, batch = small.images(2, SIZE), small.samples(counts, SIZE)
    ours = {name: value.sum() for name, value in model.loss(image, batch).items()}
    outputs = other(image, labels=oracle.targets(batch))
    return ours, by_our_names(outputs.loss_dict, model.decoder.num_layers), outputs


def by_our_names(losses, layers):
    """Transformers' losses by ours: the encoder's are their last auxiliary ones."""
    kinds = {'loss_vfl': 'loss_cls', 'loss_bbox': 'loss_bbox', 'loss_giou': 'loss_iou'}
    result = {}
    for name, value in losses.items():
        kind, aux, number = re.fullmatch(r'(loss_[a-z]+)(?:_(aux|dn)_(\d))?', name).groups()
        start = 'dn_' if aux == 'dn' else ''
        if aux == 'aux' and int(number) == layers - 1:
            start = 'enc_'
        elif aux == 'aux' or (aux == 'dn' and int(number) < layers - 1):
            start = f'd{number}.{start}'
        result[start + kinds[kind]] = value
    return result


def test_losses_equal_transformers():
    model, other = training_pair()
    ours, expected, outputs = losses_of(model, other)
    assert oracle.gap(outputs.enc_outputs_class.max(-1).values, QUERIES) > 5e-5
    assert sorted(ours) == sorted(expected)
    assert len(ours) == 3 * (model.decoder.num_layers + 1)
    for name, value in expected.items():
        assert value > 0.01, name
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert sum(ours.values()).item() == pytest.approx(outputs.loss.item(), rel=1e-4)


def test_denoising_losses_equal_transformers(monkeypatch):
    """With transformers' own denoising queries: where the positives are and what they cost."""
    from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

    def their_queries(generator, batch):
        torch.manual_seed(3)
        query, boxes, mask, meta = get_contrastive_denoising_training_group(
            oracle.targets(batch), small.CLASSES, QUERIES, generator.label_embedding, num_denoising_queries=20
        )
        count, _ = meta['dn_num_split']
        return query, boxes, mask < 0, dict(num_denoising_queries=count, num_denoising_groups=meta['dn_num_group'])

    monkeypatch.setattr(ContrastiveDenoising, '__call__', their_queries)
    model = small.stirred(small.detector(num_queries=QUERIES)).train()
    other = oracle.twin(model, oracle.resnet(18, 8), freeze_backbone_batch_norms=False, num_denoising=20)
    image, batch = small.images(2, SIZE), small.samples((4, 2), SIZE)
    ours = model.loss(image, batch)
    torch.manual_seed(3)
    outputs = other(image, labels=oracle.targets(batch))
    assert oracle.gap(outputs.enc_outputs_class.max(-1).values, QUERIES) > 5e-5
    expected = by_our_names(outputs.loss_dict, model.decoder.num_layers)
    assert sorted(ours) == sorted(expected)
    assert len(ours) == 3 * (2 * model.decoder.num_layers + 1)
    for name, value in expected.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-4), name


def gradients(model, other, ours, expected):
    """Gradients of two scalars by transformers' names, of the parameters that take part."""
    pairs = []
    for module, value in ((model, ours), (other, expected)):
        names, parameters = zip(*module.named_parameters(), strict=True)
        values = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        pairs.append({name: value for name, value in zip(names, values, strict=True) if value is not None})
    return oracle.theirs(pairs[0], model.decoder.num_layers, dict(other.named_parameters())), pairs[1]


def assert_same_gradients(ours, expected):
    assert sorted(ours) == sorted(expected)
    for name, value in expected.items():  # a key's bias has none but for the last digits: softmax does not see it
        assert (ours[name] - value).abs().max() < 1e-3 * value.abs().max() + 1e-5, name


def test_gradients_of_one_layer_equal_transformers():
    """With one layer in the decoder, the total loss has the same gradient for every parameter of the detector."""
    model, other = training_pair(decoder__num_layers=1)
    ours, expected, outputs = losses_of(model, other)
    pair = gradients(model, other, sum(ours.values()), outputs.loss)
    assert len(pair[1]) > 150
    assert_same_gradients(*pair)


def test_only_the_boxes_of_earlier_layers_learn_more_than_in_transformers():
    """The official code looks forward twice: a layer's box loss reaches the boxes of the layer before, transformers
    stops it there. The values are the same, so are the gradients of the class loss and of the last layer's own weights.
    """
    model, other = training_pair()
    ours, expected, _ = losses_of(model, other)
    assert_same_gradients(*gradients(model, other, ours['loss_cls'], expected['loss_cls']))
    boxes, others = gradients(
        model, other, ours['loss_bbox'] + ours['loss_iou'], expected['loss_bbox'] + expected['loss_iou']
    )
    own = ('model.decoder.layers.2.', 'model.decoder.bbox_embed.2.')
    last = {name: value for name, value in boxes.items() if name.startswith(own)}
    assert len(last) > 20
    assert_same_gradients(last, {name: value for name, value in others.items() if name.startswith(own)})
    assert learning(boxes, 'model.decoder.bbox_embed.') == {'1', '2'}
    assert learning(others, 'model.decoder.bbox_embed.') == {'2'}


def learning(gradients, start):
    """What follows ``start`` in the names of the parameters whose gradient is not zero."""
    return {n[len(start) :].split('.')[0] for n, value in gradients.items() if n.startswith(start) and value.any()}
