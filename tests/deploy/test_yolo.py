"""Exported YOLOs find what MMYOLO's and MMScale's heads find, for every family, size and batch."""

import copy
import subprocess
import sys
from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import nn

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.deploy import build_exportable, build_file, check_batches, find_adapter
from mmscale.deploy.check import compare, detect_with_torch
from mmscale.deploy.image_input import ImageInput
from mmscale.paths import config_root
from mmscale.registry import HAS_MMYOLO
from mmscale.yolo.blocks import LargeKernelConv

if not HAS_MMYOLO:
    pytest.skip('mmyolo, which the YOLOs stand on, is not installed', allow_module_level=True)

WIDTHS = dict(yolov10_s=0.25, yolov12_s=0.25)  # of the others, 0.125
FAMILIES = [
    'yolov5_s',
    'yolov6_s',
    'yolov7_l',
    'yolov8_n',
    'yolov8_n-fine',
    'yolov10_s',
    'yolov12_s',
    'csf-net_n',
]
CLASSES = 3


def yolo_config(name: str, classes: int = CLASSES) -> Config:
    """A config of ``configs/_base_/models``, narrow; ``-fine`` for FINE in the neck."""
    base = name.removesuffix('-fine')
    config = Config.fromfile(config_root() / '_base_' / 'models' / f'{base}.py')
    config.default_scope = 'mmyolo'
    model = config.model
    for part in (model.backbone, model.neck, model.bbox_head.head_module):
        part.widen_factor = WIDTHS.get(base, 0.125)
    if name != base:
        model.neck.type = 'mmscale.FINEYOLOv8PAFPN'
    model.bbox_head.head_module.num_classes = classes
    model.pop('train_cfg', None)
    model.test_cfg.max_per_img = 40
    if base != 'yolov8_n':  # whose limit is 30,000, more than its images have
        model.test_cfg.nms_pre = 1000
    return config


@cache
def pictures(count: int = 3, height: int = 256, width: int = 320) -> np.ndarray:
    """The top left corner of random patterns, whose statistics the detectors know: ``(count, 3, height, width)``."""
    generator = torch.Generator().manual_seed(0)
    patterns = [torch.rand(3, 3, 256 // side, 320 // side, generator=generator) for side in (1, 4, 16, 32)]
    whole = sum(nn.functional.interpolate(pattern, (256, 320)) for pattern in patterns) * 255 / len(patterns)
    return whole[:count, :, :height, :width].contiguous().numpy()


@torch.no_grad()
def spread(model: nn.Module) -> nn.Module:
    """Norms that know the pictures, and last layers whose outputs differ from place to place."""
    generator = torch.Generator().manual_seed(1)
    images = torch.from_numpy(pictures()) / 255
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches, here one
            nn.init.constant_(module.weight, 0.5)  # most of SiLU's inputs positive: rounding is not magnified
            nn.init.constant_(module.bias, 0.5)
    model.train()(images, mode='tensor')
    model.eval()

    def scale(layer: nn.Conv2d, inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        ratio = 1 / out.std((0, 2, 3))
        layer.weight *= ratio[:, None, None, None]
        layer.bias.copy_((layer.bias - out.mean((0, 2, 3))) * ratio)
        return (out - out.mean((0, 2, 3), keepdim=True)) * ratio[:, None, None]

    hooks = []
    for layer in model.bbox_head.head_module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.weight.normal_(generator=generator)
            hooks.append(layer.register_forward_hook(scale))
    model(images, mode='tensor')
    for hook in hooks:
        hook.remove()
    return model


@cache
def yolo(name: str, classes: int = CLASSES) -> Detector:
    """A detector; shared, so leave it as it is."""
    config = yolo_config(name, classes)
    return Detector(config, spread(build_model(config)), 'random weights')


@cache
def yolo_file(name: str, size: tuple[int, int] | None = None):
    """Its file."""
    return build_file(yolo(name), size)


def changed(name: str, classes: int = CLASSES, **test_cfg) -> Detector:
    """A detector with other settings."""
    detector = copy.deepcopy(yolo(name, classes))
    detector.model.bbox_head.test_cfg.update(test_cfg)
    return detector


def with_torch(detector: Detector, images: np.ndarray, size: tuple[int, int] | None = None) -> list[list[np.ndarray]]:
    """Boxes, scores and labels of every image, by the adapter without ONNX."""
    with torch.no_grad():
        outputs = [output.numpy() for output in build_exportable(detector, size)(torch.from_numpy(images))]
    return [list(image) for image in zip(*outputs, strict=True)]


def unpaired(detector: Detector, images: np.ndarray, size: tuple[int, int] | None = None) -> int:
    """Detections of the head's own ``predict`` and of the adapter that have no counterpart."""
    pairs = zip(detect_with_torch(detector.model, images), with_torch(detector, images, size), strict=True)
    return sum(compare(*pair, max(images.shape[2:])).unpaired for pair in pairs)


@pytest.mark.parametrize('name', FAMILIES)
def test_one_file_for_all_sizes_and_batches(name):
    batches = [pictures(1, 96, 128), pictures(3, 139, 203)]  # traced with two images of 256x320
    result = check_batches(yolo(name).model, yolo_file(name).SerializeToString(), batches)
    assert (result.images, result.pairs, result.unpaired) == (4, 160, 0)
    assert result.scores < 1e-4 and result.boxes < 5e-3
    operators = [node.op_type for node in yolo_file(name).graph.node]
    assert operators.count('NonMaxSuppression') == (name != 'yolov10_s') and 'BatchNormalization' not in operators


@pytest.mark.parametrize('name', ['yolov5_s', 'yolov10_s'])
def test_fixed_size(name):
    batches = [pictures(count, 90, 131) for count in (1, 3)]
    result = check_batches(yolo(name).model, yolo_file(name, (90, 131)).SerializeToString(), batches)
    assert (result.images, result.pairs, result.unpaired) == (4, 160, 0)


@pytest.mark.parametrize('name', ['yolov8_n', 'yolov10_s'])
def test_one_by_one(name):
    """The rows are the detections of ``model.predict``, in its order."""
    images = pictures(3, 139, 203)
    model = yolo(name).model
    meta = dict(img_shape=(139, 203), ori_shape=(139, 203), scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=meta) for _ in images]
    data = model.data_preprocessor(dict(inputs=list(torch.from_numpy(images[:, ::-1].copy())), data_samples=samples))
    with torch.no_grad():
        found = [sample.pred_instances for sample in model.predict(data['inputs'], data['data_samples'], rescale=False)]
    session = onnxruntime.InferenceSession(yolo_file(name).SerializeToString(), providers=['CPUExecutionProvider'])
    for expected, boxes, scores, labels in zip(found, *session.run(None, {'images': images}), strict=True):
        assert len(expected) == len(boxes) == 40
        np.testing.assert_array_equal(labels, expected.labels.numpy())
        np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-4)
        np.testing.assert_allclose(boxes, expected.bboxes.numpy(), atol=5e-3)
        assert boxes[:, 0::2].max() == 203 and boxes[:, 1::2].max() == 139  # the image's edge, not its padding's


@pytest.mark.parametrize('name', ['yolov5_s', 'yolov8_n', 'yolov10_s'])
@pytest.mark.parametrize('size', [None, (96, 128)], ids=str)
def test_one_class(name, size):
    images = pictures(2, 96, 128)
    assert unpaired(yolo(name, 1), images, size) == 0


@pytest.mark.parametrize('size', [None, (160, 192)], ids=str)
@pytest.mark.parametrize(
    'test_cfg',
    [
        dict(nms_pre=50),
        dict(multi_label=False),
        dict(multi_label=False, nms_pre=50),
        dict(score_thr=0.92),
        dict(min_bbox_size=120),
        dict(nms=dict(type='nms', iou_threshold=0.3)),
        dict(nms=dict(type='nms', iou_threshold=0.7, class_agnostic=True)),
        dict(nms=None),
    ],
    ids=str,
)
def test_settings(test_cfg, size):
    """Each setting changes what is found, and the adapter follows."""
    images = pictures(2, 160, 192)
    detector = changed('yolov8_n', **test_cfg)
    assert unpaired(detector, images, size) == 0
    before, after = (detect_with_torch(model, images) for model in (yolo('yolov8_n').model, detector.model))
    assert any(compare(*pair).unpaired for pair in zip(before, after, strict=True))


@pytest.mark.parametrize('name', ['yolov8_n', 'yolov10_s'])
def test_images_without_a_detection(name):
    images = pictures(3, 160, 192)
    best = sorted(scores.max() for _, scores, _ in detect_with_torch(yolo(name).model, images))
    detector = changed(name, score_thr=float(best[0] + best[1]) / 2)
    expected = [len(scores) for _, scores, _ in detect_with_torch(detector.model, images)]
    assert min(expected) == 0 < max(expected) and unpaired(detector, images) == 0
    for (boxes, scores, labels), count in zip(with_torch(detector, images), expected, strict=True):
        assert (labels >= 0).sum() == count and boxes.shape == (40, 4)
        assert (boxes[count:] == 0).all() and (scores[count:] == 0).all() and (labels[count:] == -1).all()


def test_fewer_positions_than_detections():
    images = pictures(2, 32, 32)  # 21 positions
    for size in (None, (32, 32)):
        for detector in (yolo('yolov8_n'), yolo('yolov8_n', 1), yolo('yolov10_s')):
            assert unpaired(detector, images, size) == 0
        assert [(labels >= 0).sum() for _, _, labels in with_torch(yolo('yolov10_s'), images, size)] == [21, 21]


@pytest.mark.parametrize(
    ('test_cfg', 'words'),
    [
        (dict(nms_pre=-1), 'test_cfg.nms_pre=-1 sets no limit'),
        (dict(max_per_img=-1), 'test_cfg.max_per_img=-1 sets no limit'),
        (dict(yolox_style=True), 'test_cfg.yolox_style=True sets no limit on detections'),
        (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), 'soft_nms.* cannot be exported'),
        (dict(nms=dict(type='nms', iou_threshold=0.5, max_num=3)), 'max_num.* cannot be exported'),
    ],
)
def test_unexportable_settings(test_cfg, words):
    with pytest.raises(ValueError, match=words):
        build_exportable(changed('yolov8_n', **test_cfg))


def test_unexportable_head():
    """A head that ends in its own way is not taken for one that does not."""
    model = copy.copy(yolo('yolov8_n').model)
    head = copy.copy(model.bbox_head)
    head.__class__ = type('OwnHead', (type(head),), dict(predict_by_feat=lambda *args, **kwargs: []))
    model._modules = {**model._modules, 'bbox_head': head}
    with pytest.raises(ValueError, match='YOLODetector with OwnHead cannot be exported to ONNX; what can .*YOLOv10'):
        find_adapter(model)


def test_unneeded_layers_are_left_out():
    """YOLOv10's one-to-many branch, and the branches of large kernels and of YOLOv6's blocks."""
    weights = {initializer.name for initializer in yolo_file('yolov10_s').graph.initializer}
    assert any('one_to_one' in name for name in weights) and not any('one_to_many' in name for name in weights)
    kernels = [tuple(initializer.dims)[1:] for initializer in yolo_file('yolov10_s').graph.initializer]
    large = sum(isinstance(module, LargeKernelConv) for module in yolo('yolov10_s').model.modules())
    assert kernels.count((1, 7, 7)) == large == 2
    convs = sum(node.op_type == 'Conv' for node in yolo_file('yolov6_s').graph.node)
    model = yolo('yolov6_s').model
    blocks = [module for module in model.modules() if hasattr(module, 'rbr_dense')]
    assert len(blocks) > 10
    assert convs == sum(isinstance(module, nn.Conv2d) for module in model.modules()) - len(blocks)


def test_padding_is_gray():
    preprocessor = yolo('yolov8_n').model.data_preprocessor
    images = torch.from_numpy(pictures(2, 50, 70))
    expected = preprocessor(dict(inputs=list(images.flip(1)), data_samples=None))['inputs']
    found = ImageInput(preprocessor)(images)
    assert torch.equal(found, expected) and (found[..., 50:, :] == 114 / 255).all()


def test_without_mmyolo():
    """The rest can be exported all the same."""
    script = (
        "import sys; sys.modules['mmyolo'] = None\n"
        'from mmscale.deploy.detector import ADAPTERS\n'
        'import mmscale.deploy\n'
        "print([adapter.__name__ for adapter in ADAPTERS], hasattr(mmscale.deploy, 'ExportableYOLO'))"
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['ExportableDense', 'ExportableRTDETR'] False"
