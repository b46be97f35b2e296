"""HMPE leaves the training machine: one ONNX file at any size and batch, without the gradients' part."""

from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from onnx import numpy_helper

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.deploy import build_file, check_batches
from mmscale.deploy.check import detect_with_torch
from mmscale.hmpe import DSConv, HeatmapHead, heatmap_head, snake_conv

from ..deploy.small import read_batch
from ..rtdetr.small import calibrated
from . import small

CLASSES = ('RBC', 'WBC', 'Platelets')
KINDS = {
    'hmpe': {},
    'hmpe, by gradients': dict(heatmap_head=dict(channels=16, heatmap='gradient')),
    'mohfe': dict(conv=None, hidq=False),
    'hidq': dict(conv=None, mohfe=False),
    'dsconv': dict(conv='DSConv', mohfe=False, hidq=False),
    'no layer': dict(decoder__num_layers=0, dn_cfg=None),
}
EXPORTED = [kind for kind in KINDS if kind != 'hmpe, by gradients']  # which is the first at inference, see below


@torch.no_grad()
def spread(model):
    """Weights that tell places and classes apart; snakes that bend by up to four cells."""
    model = calibrated(small.stirred(model), small.images(4))
    for module in model.modules():
        if isinstance(module, DSConv):
            module.steps.bias.add_(torch.linspace(-1, 1, len(module.steps.bias)))
    if model.heatmap_head is not None:
        model.heatmap_head.predictor[-1].weight.mul_(0.2)  # where maps are nearly 0 the last digit chooses
    return model


@cache
def small_detector(kind='hmpe') -> Detector:
    """One of :data:`KINDS`; shared, so leave it as it is."""
    options = dict(num_queries=20, bbox_head__num_classes=len(CLASSES), test_cfg=dict(max_per_img=20), **KINDS[kind])
    model = small.config(**options)
    pipeline = [
        dict(type='mmscale.LoadImageFromFile'),
        dict(type='mmdet.Resize', scale=(128, 96), keep_ratio=False),
        dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(type='mmscale.VOCDataset', metainfo=dict(classes=CLASSES), pipeline=pipeline)
    config = Config(
        dict(default_scope='mmdet', model=model, test_dataloader=dict(dataset=dataset)),
        cfg_text='written by a test',
        filename='hmpe.py',
    )
    return Detector(config, spread(build_model(config)), 'random weights', CLASSES)


@cache
def small_file(kind='hmpe'):
    return build_file(small_detector(kind))


def run(file, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(['boxes', 'scores', 'labels'], {'images': images})


@torch.no_grad()
def look(model, images):
    """The largest shift of a snake's taps, and the heat's spread and share above the threshold."""
    shifts = []
    for module in model.modules():
        if isinstance(module, DSConv):
            module.register_forward_pre_hook(
                lambda module, args: shifts.append(max(x.abs().max().item() for x in module.offsets(args[0])))
            )
    data = dict(inputs=list(torch.from_numpy(np.ascontiguousarray(images[:, ::-1]))), data_samples=None)
    heat = model.heat(model.data_preprocessor(data)['inputs'])[1]
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return shifts, heat


def test_snakes_bend_and_places_differ_in_heat(bccd_root):
    """What the comparison below is worth: with straight strips and even heat it would prove little."""
    shifts, heat = look(small_detector().model, read_batch(bccd_root, (203, 301), 3))
    assert len(shifts) == 3 and min(shifts) > 1.5
    mixed, mask = (torch.cat([x.flatten() for x in levels]) for levels in (heat.mixed, heat.mask))
    assert mixed.std() > 0.05 and 0.1 < mask.float().mean() < 0.95


@pytest.mark.parametrize('kind', EXPORTED)
def test_one_file_for_all_sizes_and_batches(kind, bccd_root):
    """Traced with two images of 256x320; here are odd sides, other counts, and cells that differ in brightness."""
    detector = small_detector(kind)
    batches = [read_batch(bccd_root, *shape) for shape in (((128, 160), 1), ((203, 301), 3), ((320, 416), 2))]
    for images in batches:
        images[1:2] = 255 - images[1:2]
        images[2:3] *= 0.2
    result = check_batches(detector.model, small_file(kind).SerializeToString(), batches)
    assert result.images == 6 and result.pairs == 120 and result.unpaired == 0
    assert result.scores < 1e-3 and result.boxes < 2e-2
    boxes, scores, labels = run(small_file(kind), batches[1])
    assert len(set(labels.flat)) > 1 and scores.std() > 0.02 and boxes.std() > 10, 'classes and places are told apart'


@pytest.mark.parametrize('kind', EXPORTED)
def test_every_operator_is_onnxs_own_and_the_training_branches_stay_behind(kind):
    graph = small_file(kind).graph
    assert {node.domain for node in graph.node} == {''}
    operators = {node.op_type for node in graph.node}
    snakes = kind in ('hmpe', 'dsconv', 'no layer')
    assert ('Tanh' in operators) == snakes and not operators & {'If', 'Loop', 'Scan'}
    stored = [numpy_helper.to_array(value) for value in graph.initializer]

    def holds(weight):
        weight = weight.detach().numpy()
        return any(value.shape == weight.shape and np.array_equal(value, weight) for value in stored)

    head = small_detector(kind).model.heatmap_head
    if head is not None:
        assert holds(head.predictor[-1].weight)
        for branch in (head.class_branch, head.box_branch):
            assert not holds(branch[0].weight) and not holds(branch[-1].weight)
    names = {value.name for value in graph.initializer}
    assert not any('class_branch' in name or 'box_branch' in name for name in names)
    if snakes:
        found = [x for x in small_detector(kind).model.modules() if isinstance(x, DSConv)]
        assert len(found) == 3 and all(holds(module.steps.weight) for module in found)


def test_a_graph_is_traced_in_the_form_that_onnx_has(monkeypatch):
    """Also where the kernel would be taken, on a GPU."""
    monkeypatch.setattr(snake_conv, 'snake_by_kernel', lambda *args: pytest.fail('the kernel in a graph'))
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    with torch.no_grad():
        torch.jit.trace(snake_conv.LSConv(4), torch.rand(1, 4, 5, 6), check_trace=False)


def test_prediction_needs_no_backward_pass(bccd_root, monkeypatch):
    """Neither gradients nor a ground truth: under inference mode it would fail, and nothing asks for it."""
    monkeypatch.setattr(HeatmapHead, 'supervise', lambda *args: pytest.fail('gradients at inference'))
    monkeypatch.setattr(heatmap_head, 'class_heatmap', lambda *args: pytest.fail('gradients at inference'))
    for kind in KINDS:
        model = small_detector(kind).model
        images = read_batch(bccd_root, (96, 128), 2)
        expected = detect_with_torch(model, images)
        inputs = model.data_preprocessor(
            dict(inputs=list(torch.from_numpy(np.ascontiguousarray(images[:, ::-1]))), data_samples=None)
        )['inputs']
        samples = small.samples([2, 1])  # with objects, as in validation
        with DefaultScope.overwrite_default_scope('mmdet'), torch.inference_mode():
            results = model.predict(inputs, samples, rescale=False)
        graph = model(inputs, mode='tensor')  # with gradients allowed, as for an effective receptive field
        assert all(out.requires_grad for out in graph)
        for result, (boxes, scores, labels) in zip(results, expected, strict=True):
            found = result.pred_instances
            np.testing.assert_allclose(found.bboxes.numpy(), boxes, atol=1e-3)
            np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-5)
            assert found.labels.tolist() == labels.tolist()


def test_maps_by_gradients_are_the_predicted_ones_at_inference():
    """Two detectors with the same weights, which were taught with one or the other, find the same."""
    first, second = (small_detector(kind).model for kind in ('hmpe', 'hmpe, by gradients'))
    assert first.heatmap_head.heatmap != second.heatmap_head.heatmap
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        outputs = [model(small.images(), mode='tensor') for model in (first, second)]
    assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))
