"""Exported files find what PyTorch finds: on real images, for every family, batch and size."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.deploy import build_exportable, build_file, check_batches
from mmscale.deploy.check import compare, detect_with_torch
from mmscale.layers import RepVGGBlock

from .small import read_batch, small_detector, small_file, spread, whole_config

FAMILIES = ['fcos', 'fcos-fine', 'retinanet', 'retinanet-fine', 'ssd', 'rtdetr', 'rtdetr-fine']


def run(model, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(['boxes', 'scores', 'labels'], {'images': images})


@pytest.mark.parametrize('name', FAMILIES)
def test_one_file_for_all_sizes_and_batches(name, bccd_root):
    sizes_and_counts = (((240, 320), 1), ((203, 301), 3))  # traced with two images of 256x320
    batches = [read_batch(bccd_root, size, count) for size, count in sizes_and_counts]
    result = check_batches(small_detector(name).model, small_file(name).SerializeToString(), batches)
    assert result.images == 4 and result.pairs == 80 and result.unpaired == 0
    assert result.scores < 1e-3 and result.boxes < 1e-3


@pytest.mark.parametrize(('name', 'size'), [('fcos-fine', (90, 131)), ('rtdetr', (96, 128))], ids=str)
def test_fixed_size(name, size, bccd_root):
    file = small_file(name, size)
    shape = [dim.dim_value or dim.dim_param for dim in file.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ['batch', 3, *size]
    batches = [read_batch(bccd_root, size, count) for count in (1, 3)]
    result = check_batches(small_detector(name).model, file.SerializeToString(), batches)
    assert (result.images, result.pairs, result.unpaired) == (4, 80, 0)


def test_images_with_different_numbers_of_detections(bccd_root):
    """A threshold between the images' best scores: some detections in one, none in another."""
    config = whole_config('fcos')
    model = spread(build_model(config))
    model.bbox_head.conv_centerness.weight.data.zero_()
    model.bbox_head.conv_centerness.bias.data.fill_(20.0)  # centre-ness 1: the threshold is one of the final scores
    images = read_batch(bccd_root, (160, 192), 3)
    images[1] = images[1] * 0.2 + 100
    images[2] = 255 - images[2]
    best = sorted(found[1].max() for found in detect_with_torch(model, images))
    model.bbox_head.test_cfg.score_thr = float(best[0] + best[1]) / 2
    counts = [len(found[1]) for found in detect_with_torch(model, images)]
    assert min(counts) == 0 and len(set(counts)) > 1
    boxes, scores, labels = run(build_file(Detector(config, model, 'random')), images)
    assert [(row >= 0).sum() for row in labels] == counts
    assert (scores[labels < 0] == 0).all() and (boxes[labels < 0] == 0).all() and (scores[labels >= 0] > 0).all()
    assert (np.diff(scores, axis=1) <= 0).all() and boxes.shape == (3, 20, 4)


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_classes_suppress_each_other_only_if_asked_to(class_agnostic, bccd_root):
    """Every place is of two classes with nearly the same score: both stay, or the better one."""
    config = whole_config('retinanet')
    config.model.test_cfg.nms.class_agnostic = class_agnostic
    model = spread(build_model(config))
    for parameter in model.bbox_head.retina_cls.parameters():
        by_class = parameter.data.view(6, 3, -1)  # six anchors, three classes
        by_class[:, 1] = by_class[:, 0] * 0.98
    images = read_batch(bccd_root, (96, 128), 2)
    with torch.no_grad():
        outputs = build_exportable(Detector(config, model, 'random'), (96, 128))(torch.from_numpy(images))
    for index, expected in enumerate(detect_with_torch(model, images)):
        found = [output[index].numpy() for output in outputs]
        assert compare(found, expected).unpaired == 0
        repeated = len(expected[0]) - len(np.unique(expected[0].round(2), axis=0))
        assert (repeated == 0) if class_agnostic else (repeated > 3)


def test_boxes_stay_inside_the_image_not_its_padding(bccd_root):
    images = read_batch(bccd_root, (203, 301), 2)
    for name in ('retinanet', 'rtdetr'):
        boxes, _, labels = run(small_file(name), images)
        assert (boxes >= 0).all() and boxes[..., 0::2].max() <= 301 and boxes[..., 1::2].max() <= 203
        assert labels.dtype == np.int64 and labels.max() <= 2


@pytest.mark.parametrize('name', ['rtdetr', 'rtdetr-fine', 'fcos'])
def test_re_parameterised(name):
    """One convolution for each of the model's, but for the 1x1 branches that were folded into the 3x3 ones."""
    model = small_detector(name).model
    operators = [node.op_type for node in small_file(name).graph.node]
    branches = sum(isinstance(module, RepVGGBlock) for module in model.modules())
    assert branches == (4 if name != 'fcos' else 0)
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    if name == 'fcos':  # the head's run on five levels
        convs += 4 * sum(isinstance(module, nn.Conv2d) for module in model.bbox_head.modules())
    assert operators.count('Conv') == convs - branches
    assert 'BatchNormalization' not in operators
