"""ONNX files with the export tool's interface: how images become their input, and boxes come back."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mmscale.inference import OnnxModel, onnx_model
from mmscale.inference.command import main

pytest.importorskip('onnxruntime')


def picture(height, width, colour=(0, 0, 0)) -> np.ndarray:
    """One colour, BGR."""
    return np.full((height, width, 3), colour, np.uint8)


def test_from_the_command_line(write_onnx, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / 'red.png'), picture(100, 200, (0, 0, 255)))
    cv2.imwrite(str(tmp_path / 'in' / 'blue.png'), picture(32, 64, (204, 0, 0)))
    (tmp_path / 'in' / 'text.png').write_text('no image')
    main([write_onnx(), str(tmp_path / 'in'), '--out-dir', str(tmp_path / 'out'), '--batch-size', '2'])
    assert '2 images, 2 detections, 1 unreadable (text.png)' in capsys.readouterr().out
    coco = json.loads((tmp_path / 'out' / 'detections.json').read_text())
    assert [category['name'] for category in coco['categories']] == ['red', 'green', 'blue']
    blue, red = coco['annotations']  # by file name; both become 32x64, one batch
    assert (blue['category_id'], blue['score'], blue['bbox']) == (3, 0.8, [8, 16, 24, 16])  # clipped from 48 to 32
    # 200x100 is resized by 0.32, so a box (8, 16, 32, 48) is (25, 50, 100, 150), and (.., 100) inside the image
    assert (red['category_id'], red['score'], red['bbox']) == (1, 1.0, [25, 50, 75, 50])
    assert sorted(path.name for path in (tmp_path / 'out' / 'pictures').iterdir()) == ['blue.png', 'red.png']


def test_channel_order_is_the_files(write_onnx):
    for order, label in (('RGB', 2), ('BGR', 0)):
        model = OnnxModel(write_onnx(channel_order=order))
        (found,) = model.detect([model.prepare(picture(64, 64, (255, 0, 0)), 'blue')], 0.5)
        assert found.labels.tolist() == [label]


@pytest.mark.parametrize(
    ('shape', 'resize', 'image', 'inputs', 'scale'),
    [
        # 40x100 into 64x64: 26x64 (0.64 * 40 = 25.6), padded to multiples of 32
        (('B', 3, 'H', 'W'), dict(keep_ratio=True, scale=[64, 64]), (40, 100), (32, 64), (0.64, 0.65)),
        # MMDetection's scale (128, 64) stands for a standing image: 100x40 becomes 128x51
        (('B', 3, 'H', 'W'), dict(keep_ratio=True, scale=[128, 64]), (100, 40), (128, 64), (51 / 40, 1.28)),
        # the same into a lying input of 64x128 has to shrink further: 64x26 (0.64 * 40 = 25.6)
        (('B', 3, 64, 128), dict(keep_ratio=True, scale=[128, 64]), (100, 40), (64, 128), (0.65, 0.64)),
        # stretched
        (('B', 3, 64, 96), dict(keep_ratio=False, scale=[96, 64]), (32, 32), (64, 96), (3.0, 2.0)),
        # exported for another size than the config's
        (('B', 3, 32, 32), dict(keep_ratio=False, scale=[640, 640]), (64, 128), (32, 32), (0.25, 0.5)),
        # no scale: only the divisor counts
        (('B', 3, 'H', 'W'), dict(keep_ratio=True, scale=None), (33, 64), (64, 64), (1.0, 1.0)),
    ],
)
def test_sizes(write_onnx, shape, resize, image, inputs, scale):
    model = OnnxModel(write_onnx(shape, resize=dict(pad_divisor=32, pad_value=0.0, **resize)))
    prepared = model.prepare(picture(*image, (0, 255, 0)), 'green')
    assert prepared.inputs.shape == (3, *inputs) and prepared.inputs.dtype == np.float32
    assert prepared.scale == pytest.approx(scale) and prepared.size == image
    (found,) = model.detect([prepared], 0.5)
    height, width = image
    expected = np.array([8 / scale[0], 16 / scale[1], 32 / scale[0], 48 / scale[1]])
    np.testing.assert_allclose(found.boxes, [np.minimum(expected, [width, height, width, height])])


def test_a_letterbox(write_onnx):
    """60x128 becomes 30x64, not enlarged, in a frame of 64x96; boxes come back without the borders."""
    frame = dict(scale=[96, 64], scale_up=False, interpolation='bilinear', pad_value=[51.0, 102.0, 0.0])
    rule = dict(keep_ratio=True, scale=[64, 64], round='down', shrink='area', letterbox=frame)
    for shape in (('B', 3, 'H', 'W'), ('B', 3, 64, 96)):
        model = OnnxModel(write_onnx(shape, resize=rule))
        prepared = model.prepare(picture(60, 128, (0, 0, 255)), 'red')
        assert (prepared.scale, prepared.offset, prepared.inputs.shape) == ((0.5, 0.5), (16, 17), (3, 64, 96))
        inside = np.zeros((64, 96), bool)
        inside[17:47, 16:80] = True
        assert np.unique(prepared.inputs[:, inside], axis=1).T.tolist() == [[255, 0, 0]]
        assert np.unique(prepared.inputs[:, ~inside], axis=1).T.tolist() == [[51, 102, 0]]
        (found,) = model.detect([prepared], 0.5)
        np.testing.assert_allclose(found.boxes, [[0, 0, 32, 60]])  # (8, 16, 32, 48) less (16, 17), times 2, clipped


def test_a_file_of_an_earlier_version(write_onnx):
    """Without a key of the letterbox, which was not written then: stretched if fixed, else as it is."""
    rule = dict(keep_ratio=False, scale=None, pad_divisor=1, pad_value=114.0)
    for shape, inputs in ((('B', 3, 'H', 'W'), (50, 128)), (('B', 3, 64, 64), (64, 64))):
        prepared = OnnxModel(write_onnx(shape, resize=rule)).prepare(picture(50, 128), 'black')
        assert prepared.inputs.shape == (3, *inputs) and prepared.offset == (0, 0) and not prepared.inputs.any()


@pytest.mark.parametrize(('pad', 'expected'), [(51.0, [51, 51, 51]), ([51.0, 102.0, 0.0], [51, 102, 0])])
def test_padding_has_the_files_value(write_onnx, pad, expected):
    """Padded before it is normalised, so zero after it is the mean, which differs between channels."""
    model = OnnxModel(write_onnx(resize=dict(keep_ratio=True, scale=[64, 64], pad_divisor=32, pad_value=pad)))
    prepared = model.prepare(picture(48, 64, (0, 0, 255)), 'red')
    assert prepared.inputs.shape == (3, 64, 64)
    assert np.unique(prepared.inputs[:, 48:].reshape(3, -1), axis=1).T.tolist() == [expected]
    assert np.unique(prepared.inputs[:, :48].reshape(3, -1), axis=1).T.tolist() == [[255, 0, 0]]


def test_rows_that_fill_up_are_left_out(write_onnx):
    model = OnnxModel(write_onnx(labels=(0, -1, 2)))
    (found,) = model.detect([model.prepare(picture(64, 64, (255, 255, 255)), 'white')], 0.0)
    assert found.labels.tolist() == [0, 2]


def test_fixed_batch_is_filled_up(write_onnx, tmp_path, refused):
    path = write_onnx((2, 3, 64, 64))
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), picture(64, 64, (0, 0, 85 * (index + 1))))
    main([path, f'{tmp_path}/*.png', '--out-dir', str(tmp_path / 'out')])
    scores = [row['score'] for row in json.loads((tmp_path / 'out' / 'detections.json').read_text())['annotations']]
    assert scores == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-5)
    assert 'takes 2 at once' in refused(main, path, f'{tmp_path}/*.png', '--batch-size', 1)


def test_images_of_different_sizes_never_share_a_batch(write_onnx, tmp_path):
    for index, size in enumerate([(64, 64), (64, 64), (32, 64), (64, 32), (64, 32)]):
        cv2.imwrite(str(tmp_path / f'{index}.png'), picture(*size, (0, 0, 255)))
    main([write_onnx(), f'{tmp_path}/*.png', '--out-dir', str(tmp_path / 'out'), '--batch-size', '4'])
    coco = json.loads((tmp_path / 'out' / 'detections.json').read_text())
    assert [row['image_id'] for row in coco['annotations']] == [1, 2, 3, 4, 5]
    assert coco['annotations'][3]['bbox'] == [8, 16, 24, 32] and coco['annotations'][2]['bbox'] == [8, 16, 24, 16]


def test_video(write_onnx, video, tmp_path, capsys):
    main([write_onnx(), str(video), '--out-dir', str(tmp_path / 'out'), '--batch-size', '3'])
    assert '1 video of 5 frames' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'pictures' / 'clip.avi.mp4').is_file()


def test_files_that_are_refused(write_onnx, tmp_path, refused):
    cv2.imwrite(str(tmp_path / 'a.png'), picture(64, 64))
    image = tmp_path / 'a.png'
    assert "no.onnx' does not exist" in refused(main, tmp_path / 'no.onnx', image)
    (tmp_path / 'text.onnx').write_text('no model')
    assert "text.onnx' cannot be loaded" in refused(main, tmp_path / 'text.onnx', image)
    assert 'has no metadata classes, resize' in refused(main, write_onnx(drop=['classes', 'resize']), image)
    assert "has channel_order 'GRB'" in refused(main, write_onnx(channel_order='GRB'), image)
    assert 'should be like {"keep_ratio"' in refused(main, write_onnx(resize=dict(scale=[64])), image)
    assert 'should be like {"keep_ratio"' in refused(main, write_onnx(resize=[640, 640]), image)
    fit = dict(keep_ratio=True, scale=[64, 64])
    assert "round 'up' should be one of" in refused(main, write_onnx(resize=dict(fit, round='up')), image)
    assert "('scale')" in refused(main, write_onnx(resize=dict(fit, letterbox=dict(scale_up=True))), image)
    for rule in (dict(fit, rotate=90), dict(fit, letterbox=dict(rotate=90))):
        assert 'resize with rotate, which this version does not know' in refused(main, write_onnx(resize=rule), image)
    for option in (['--allow-partial'], ['--cfg-options', 'model.a=1']):
        assert f'{option[0]} is for a config' in refused(main, write_onnx(), image, *option)
    assert "device 'tpu' cannot be used" in refused(main, write_onnx(), image, '--device', 'tpu')


def test_another_interface_is_refused(tmp_path, refused):
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper

    pair = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ('x', 'y')]
    graph = helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'other', pair[:1], pair[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), tmp_path / 'x.onnx')
    cv2.imwrite(str(tmp_path / 'a.png'), picture(64, 64))
    assert 'takes x and gives y; it should take images (B, 3, H, W)' in refused(
        main, tmp_path / 'x.onnx', tmp_path / 'a.png'
    )


def test_without_onnxruntime(write_onnx, tmp_path, refused, monkeypatch):
    cv2.imwrite(str(tmp_path / 'a.png'), picture(64, 64))
    monkeypatch.setattr(onnx_model, 'onnxruntime', None)
    line = refused(main, write_onnx(), tmp_path / 'a.png')
    assert line.endswith('is not installed: pip install onnxruntime')


def test_the_tool_itself(repo, write_onnx, tmp_path):
    """``tools/infer.py`` from another folder, options between the inputs."""
    cv2.imwrite(str(tmp_path / 'a.png'), picture(64, 64, (255, 0, 0)))
    done = subprocess.run(
        [sys.executable, str(repo / 'tools' / 'infer.py'), write_onnx(), '--score-thr', '0.5', 'a.png'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        '1 image, 1 detection, 0 unreadable: outputs/detections.json, outputs/pictures'
    )
