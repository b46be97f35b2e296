"""An exported YOLO sees the images that MMYOLO's test pipeline makes, and tells boxes in the image's own pixels."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmscale.analysis.detector import Detector
from mmscale.deploy.check import compare
from mmscale.deploy.command import main
from mmscale.deploy.metadata import describe
from mmscale.deploy.pipeline import own_size
from mmscale.inference import OnnxModel, TorchModel
from mmscale.paths import config_root
from mmscale.registry import HAS_MMYOLO

from .pipelines import boxes_back, boxes_by_meta, by_pipeline, config_of, model_of, noise

if not HAS_MMYOLO:
    pytest.skip('mmyolo, whose steps the pipelines have, is not installed', allow_module_level=True)

from .test_yolo import pictures, yolo, yolo_config, yolo_file

CONFIGS = ['fine/yolov8_s_fine_8xb16-500e_coco.py', 'fine/yolov5u_s_100e_visdrone-800x800.py']
# wide, tall, small, odd, of a side that loses a pixel to rounding, exact, exact and padded, thin
SHAPES = [(500, 1280), (1281, 427), (100, 61), (721, 1283), (641, 931), (640, 640), (427, 640), (3, 700)]


def letterbox(scale=(160, 160), **options) -> list[dict]:
    options = {**dict(allow_scale_up=False, pad_val=dict(img=114)), **options}
    return [
        dict(type='mmyolo.YOLOv5KeepRatioResize', scale=scale),
        dict(type='mmyolo.LetterResize', scale=scale, **options),
    ]


def detector_of(cfg: Config) -> Detector:
    return Detector(cfg, yolo('yolov8_n').model, 'random weights')


@pytest.fixture(params=CONFIGS, ids=str)
def shipped(request) -> Detector:
    """The pipeline of a config, with a small model."""
    return detector_of(Config.fromfile(config_root() / request.param))


def require_same(model: OnnxModel, cfg: Config, shape: tuple[int, int], monkeypatch) -> np.ndarray:
    """Compare inputs to the bit, and boxes; return the input."""
    image = noise(*shape)
    expected, meta = by_pipeline(cfg, image)
    prepared = model.prepare(image, 'noise')
    np.testing.assert_array_equal(prepared.inputs, expected)
    boxes = np.random.default_rng(0).uniform(0, max(expected.shape), (50, 4))
    np.testing.assert_allclose(
        boxes_back(prepared, model, boxes, monkeypatch), boxes_by_meta(meta, boxes), atol=1e-3, rtol=0
    )
    return expected


def test_shipped_configs(shipped, tmp_path, monkeypatch):
    side = 800 if '800x800' in shipped.cfg.filename else 640
    assert own_size(shipped) == (side, side)
    assert json.loads(describe(shipped, (side, side))['resize']) == dict(
        keep_ratio=True,
        scale=[side, side],
        pad_divisor=1,
        pad_value=114.0,
        round='down',
        shrink='area',
        letterbox=dict(scale=[side, side], scale_up=False, interpolation='bilinear', pad_value=114.0),
    )
    for size in (None, (side, side)):
        model = model_of(tmp_path / 'a.onnx', yolo_file('yolov8_n'), shipped, size)
        for shape in SHAPES:
            assert require_same(model, shipped.cfg, shape, monkeypatch).shape == (3, side, side)


def test_a_wide_image_by_hand(tmp_path):
    """500x1280 becomes 250x640, 195 rows of gray above and below."""
    detector = detector_of(Config.fromfile(config_root() / CONFIGS[0]))
    model = model_of(tmp_path / 'a.onnx', yolo_file('yolov8_n'), detector)
    prepared = model.prepare(np.full((500, 1280, 3), 9, np.uint8), 'nine')
    assert (prepared.scale, prepared.offset, prepared.size) == ((0.5, 0.5), (0, 195), (500, 1280))
    assert [sorted(set(rows.flat)) for rows in np.split(prepared.inputs, (195, 445), axis=1)] == [[114], [9], [114]]


def test_another_size_is_the_pipelines_scale(shipped, tmp_path, monkeypatch):
    height, width = 320, 480
    model = model_of(tmp_path / 'a.onnx', yolo_file('yolov8_n'), shipped, (height, width))
    for shape in SHAPES:
        expected = require_same(model, config_of(*letterbox((width, height))), shape, monkeypatch)
        assert expected.shape == (3, height, width)


@pytest.mark.parametrize(
    'steps',
    [
        letterbox(allow_scale_up=True),
        letterbox(pad_val=dict(img=(1, 2, 3))),
        letterbox(pad_val=dict(img=114.0)),  # OpenCV pads the first channel
        letterbox(pad_val=dict()),
        letterbox(interpolation='nearest', allow_scale_up=True),
        letterbox((160, 96)),
        letterbox()[:1],
        letterbox()[1:],
        [dict(type='mmyolo.LetterResize', scale=(160, 96))],
        [dict(type='mmdet.Resize', scale=(200, 120), keep_ratio=True), letterbox()[1]],
        [dict(type='mmdet.Resize', scale=(200, 120), keep_ratio=False), letterbox()[1]],
        [letterbox((200, 200))[0], letterbox()[1]],
        [letterbox((200, 200))[0], letterbox(101)[1]],
    ],
    ids=str,
)
def test_other_letterboxes(steps, tmp_path, monkeypatch):
    cfg = config_of(*steps)
    detector = detector_of(cfg)
    size = own_size(detector)
    assert (size is None) == (len(steps) == 1 and 'Letter' not in steps[0]['type'])
    for number, input_size in enumerate({None, size}):
        model = model_of(tmp_path / f'{number}.onnx', yolo_file('yolov8_n'), detector, input_size)
        for shape in ((125, 320), (317, 101), (41, 33), (163, 241), (160, 160), (96, 160)):
            require_same(model, cfg, shape, monkeypatch)


def test_every_width(tmp_path):
    """The sides lose their fractions as the pipeline's floating point has it: 1281 * (640 / 1281) may be 639."""
    cfg = config_of(*letterbox())
    model = model_of(tmp_path / 'a.onnx', yolo_file('yolov8_n'), detector_of(cfg))
    contents = set()
    for width in range(150, 700):
        image = np.zeros((30, width, 3), np.uint8)
        expected, _ = by_pipeline(cfg, image)
        np.testing.assert_array_equal(model.prepare(image, '').inputs, expected)
        contents.add(int((expected[0, 80] == 0).sum()))
    assert 159 in contents and 160 in contents


def test_from_config_to_boxes(tmp_path, capsys):
    """Exported by the command, a file finds in every image what the config and its checkpoint find."""
    cfg = yolo_config('yolov8_n')
    cfg.test_dataloader = config_of(*letterbox()).test_dataloader
    cfg.dump(tmp_path / 'tiny.py')
    torch.save(dict(state_dict=yolo('yolov8_n').model.state_dict()), tmp_path / 'tiny.pth')
    files = [str(tmp_path / name) for name in ('tiny.py', 'tiny.pth', 'tiny.onnx')]
    main([*files[:2], '--out', files[2]])
    assert '| input  | images | float32 | batch x 3 x 160 x 160 |' in capsys.readouterr().out
    exported, original = OnnxModel(files[2], 'cpu'), TorchModel(*files[:2], device='cpu')
    whole = np.ascontiguousarray(pictures(1)[0].transpose(1, 2, 0)[..., ::-1]).astype(np.uint8)
    pairs = 0
    for height, width in ((256, 320), (100, 320), (256, 81), (60, 70), (160, 160), (201, 203)):
        image = whole[:height, :width]
        with_torch, with_onnx = (m.detect([m.prepare(image, 'picture')], 0.02)[0] for m in (original, exported))
        result = compare(
            *((found.boxes, found.scores, found.labels) for found in (with_torch, with_onnx)), max(height, width)
        )
        assert result.unpaired == 0 and result.boxes < 1e-3
        pairs += result.pairs
    assert pairs > 100


def test_a_size_that_was_fixed_after_the_export(tmp_path):
    """Tools fix an open size; the letterbox follows the graph."""
    detector = detector_of(config_of(*letterbox()))
    model = model_of(tmp_path / 'a.onnx', yolo_file('yolov8_n', (96, 128)), detector)  # metadata of an open size
    image = noise(200, 300)
    expected, _ = by_pipeline(config_of(*letterbox((128, 96))), image)
    np.testing.assert_array_equal(model.prepare(image, '').inputs, expected)
