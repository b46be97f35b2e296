"""A file's rules do to an image what MMDetection's steps of the test pipeline do, or the export is refused."""

import json

import numpy as np
import pytest
import torch

from mmscale.analysis.detector import Detector
from mmscale.deploy import build_file
from mmscale.deploy.command import main
from mmscale.deploy.metadata import describe
from mmscale.deploy.pipeline import own_size, resize_rule

from .pipelines import boxes_back, boxes_by_meta, by_pipeline, config_of, model_of, noise
from .small import small_detector, small_file, whole_config

OLD_KEYS = {'keep_ratio', 'scale', 'pad_divisor', 'pad_value'}


def detector_of(*steps: dict) -> Detector:
    return Detector(config_of(*steps), small_detector('fcos').model, 'random weights')


def resize(scale=(96, 64), keep_ratio=True, **options) -> dict:
    return dict(type=options.pop('type', 'mmdet.Resize'), scale=scale, keep_ratio=keep_ratio, **options)


@pytest.mark.parametrize(
    ('steps', 'size'),
    [
        ([resize()], None),
        ([resize(keep_ratio=False)], (64, 96)),
        ([resize(64, keep_ratio=False)], (64, 64)),
        ([resize(interpolation='bicubic')], None),
        ([resize(type='FixScaleResize')], None),
        ([resize(type='FixScaleResize', keep_ratio=False)], (64, 96)),
        ([dict(type='mmdet.Resize', scale_factor=1.0, keep_ratio=True)], None),
        ([resize(), dict(type='mmdet.Pad', size_divisor=32, pad_val=dict(img=(114, 7, 0)))], None),
        ([resize((96, 96)), dict(type='mmdet.Pad', size=(96, 96), pad_val=dict(img=114))], (96, 96)),
        ([resize(), dict(type='mmdet.Pad', size=(80, 80))], None),  # a lying image is wider
        ([resize((60, 60), keep_ratio=False), dict(type='mmdet.Pad', size_divisor=32)], None),
        ([], None),
    ],
    ids=str,
)
def test_the_rules_are_the_pipeline(steps, size, tmp_path, monkeypatch):
    detector = detector_of(*steps)
    assert own_size(detector) == size
    for number, input_size in enumerate({None, size}):
        model = model_of(tmp_path / f'{number}.onnx', small_file('fcos'), detector, input_size)
        for shape in ((50, 128), (127, 51), (30, 40), (96, 96), (64, 96), (77, 131)):
            image = noise(*shape)
            expected, meta = by_pipeline(detector.cfg, image)
            prepared = model.prepare(image, 'noise')
            np.testing.assert_array_equal(prepared.inputs, expected)
            height, width = expected.shape[1:]
            boxes = np.array([[0.0, 0, width, height], [11, 7, 23, 29]])
            found = boxes_back(prepared, model, boxes, monkeypatch)
            np.testing.assert_allclose(found, boxes_by_meta(meta, boxes), atol=1e-4)


def test_what_earlier_versions_wrote_stays():
    """Steps that the metadata could always tell have no new keys, so that earlier versions read them as before."""
    for steps in ([resize()], [resize(keep_ratio=False)], []):
        assert json.loads(describe(detector_of(*steps), None)['resize']).keys() == OLD_KEYS
    assert resize_rule(detector_of(resize(type='FixScaleResize'))).keys() - OLD_KEYS == {'round'}


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([resize(), dict(type='mmdet.RandomFlip', prob=1.0)], 'has RandomFlip, which a file.s metadata cannot'),
        ([dict(type='mmdet.ResizeShortestEdge', scale=64)], 'has ResizeShortestEdge'),
        ([resize(), resize()], 'has Resize after another step that resizes or pads'),
        ([dict(type='mmdet.Pad', size_divisor=32), resize()], 'has Resize after another'),
        ([dict(type='mmdet.Resize', scale_factor=0.5)], r'has Resize with scale_factor=0\.5'),
        ([resize(backend='pillow')], "has Resize with backend='pillow'"),
        ([resize(own=1)], 'has Resize with own=1'),
        ([dict(type='mmdet.Pad', pad_to_square=True)], 'has Pad with pad_to_square=True'),
        ([dict(type='mmyolo.LetterResize', scale=(64, 64), use_mini_pad=True)], 'LetterResize with use_mini_pad=True'),
        ([dict(type='mmyolo.LetterResize', scale=(64, 64), stretch_only=True)], 'LetterResize with stretch_only=True'),
        ([dict(type='mmyolo.LetterResize', scale=(64, 64), half_pad_param=True)], 'with half_pad_param=True'),
        ([dict(type='mmyolo.LetterResize', scale=(64, 64), pad_val=dict(img=(1, 2)))], r'img.: \(1, 2\)'),
        ([dict(type='mmyolo.LetterResize', scale=(64, 64)), resize()], 'has Resize after another'),
        ([dict(type='mmyolo.YOLOv5KeepRatioResize', scale_factor=1.0)], 'has YOLOv5KeepRatioResize without scale'),
    ],
    ids=str,
)
def test_other_pipelines_are_refused(steps, words):
    with pytest.raises(ValueError, match=f'tiny cannot be exported: its test pipeline .*{words}'):
        build_file(detector_of(*steps), (64, 64))


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    config = whole_config('fcos')
    config.test_dataloader.dataset.pipeline.insert(2, dict(type='mmdet.RandomFlip', prob=1.0))
    config.dump(tmp_path / 'tiny.py')
    torch.save(dict(state_dict=small_detector('fcos').model.state_dict()), tmp_path / 'tiny.pth')
    for options in ([], ['--dynamic-size'], ['--size', '64']):
        with pytest.raises(SystemExit):
            main([str(tmp_path / 'tiny.py'), str(tmp_path / 'tiny.pth'), '--out', str(tmp_path / 'a.onnx'), *options])
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith('error: tiny cannot be exported: its test pipeline has RandomFlip')
    assert not (tmp_path / 'a.onnx').exists()
