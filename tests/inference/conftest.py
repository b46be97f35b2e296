"""Images, a detector with random weights for them, and an ONNX file with the export tool's interface."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmscale.analysis.model import build_model

from ..engine.conftest import CLASSES, draw_images, fill_config, own_process_state  # noqa: F401 (a fixture)


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    """A COCO-format data set of eight images, 64x64."""
    root = tmp_path_factory.mktemp('inference')
    draw_images(root / 'data')
    return root / 'data'


@pytest.fixture(scope='session')
def detector(tmp_path_factory, data) -> tuple[str, str]:
    """Files of a config and a checkpoint whose random weights find something in every image."""
    root = tmp_path_factory.mktemp('detector')
    (root / 'tiny.py').write_text(fill_config(data))
    model = build_model(Config.fromfile(root / 'tiny.py'))
    torch.nn.init.normal_(model.bbox_head.conv_cls.weight, std=0.3)
    torch.nn.init.zeros_(model.bbox_head.conv_cls.bias)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=CLASSES))), root / 'tiny.pth')
    return str(root / 'tiny.py'), str(root / 'tiny.pth')


@pytest.fixture
def folder(tmp_path, data) -> Path:
    """Three images, one of them in a folder of its own under a name that exists twice, and three broken files."""
    root = tmp_path / 'photos'
    (root / 'sub').mkdir(parents=True)
    whole = (data / 'images' / '0.png').read_bytes()
    (root / 'b.png').write_bytes(whole)
    (root / 'a.png').write_bytes((data / 'images' / '1.png').read_bytes())
    (root / 'sub' / 'a.png').write_bytes((data / 'images' / '2.png').read_bytes())
    (root / 'text.jpg').write_text('no image')
    (root / 'empty.png').touch()
    (root / 'cut.png').write_bytes(whole[:-100])
    (root / 'notes.txt').write_text('not looked at')
    return root


@pytest.fixture
def video(tmp_path, data) -> Path:
    """Five frames of 96x64, at 12 per second."""
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (96, 64))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no MJPG video')
    for index in range(5):
        image = cv2.imread(str(data / 'images' / f'{index}.png'))
        writer.write(np.ascontiguousarray(np.concatenate([image, image[:, :32]], axis=1)))
    writer.release()
    return path


METADATA = dict(
    classes=['red', 'green', 'blue'],
    channel_order='RGB',
    input_size=None,
    resize=dict(keep_ratio=True, scale=[64, 64], pad_divisor=32, pad_value=0.0),
    detector='colours',
    mmscale='0',
)


@pytest.fixture
def write_onnx(tmp_path):
    """A function that writes a 'detector' whose score of class c is the largest value of channel c, by 255.

    Its boxes are constant: (8, 16, 32, 48) for each class.
    """
    onnx = pytest.importorskip('onnx')

    def write(shape=('B', 3, 'H', 'W'), labels=(0, 1, 2), name='colours.onnx', drop=(), **metadata) -> str:
        from onnx import TensorProto, helper, numpy_helper

        constants = dict(
            boxes_of_one=np.tile(np.float32([8, 16, 32, 48]), (1, 3, 1)),
            labels_of_one=np.int64([labels]),
            most=np.float32(255),
            zero=np.int64([0]),
            one=np.int64([1]),
            sides=np.int64([2, 3]),
            rows=np.int64([3]),
            corners=np.int64([3, 4]),
        )
        nodes = [
            helper.make_node('ReduceMax', ['images', 'sides'], ['brightest'], keepdims=0),
            helper.make_node('Div', ['brightest', 'most'], ['scores']),
            helper.make_node('Shape', ['images'], ['shape']),
            helper.make_node('Slice', ['shape', 'zero', 'one'], ['batch']),
            helper.make_node('Concat', ['batch', 'rows'], ['shape_of_labels'], axis=0),
            helper.make_node('Concat', ['batch', 'corners'], ['shape_of_boxes'], axis=0),
            helper.make_node('Expand', ['labels_of_one', 'shape_of_labels'], ['labels']),
            helper.make_node('Expand', ['boxes_of_one', 'shape_of_boxes'], ['boxes']),
        ]
        graph = helper.make_graph(
            nodes,
            'colours',
            [helper.make_tensor_value_info('images', TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info('boxes', TensorProto.FLOAT, (shape[0], 3, 4)),
                helper.make_tensor_value_info('scores', TensorProto.FLOAT, (shape[0], 3)),
                helper.make_tensor_value_info('labels', TensorProto.INT64, (shape[0], 3)),
            ],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
        values = {key: value for key, value in {**METADATA, **metadata}.items() if key not in drop}
        helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def refused(capfd):
    """A function that runs a command, expects it to refuse, and returns the one line that it says."""

    def run(main, *argv) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in argv])
        assert stop.value.code == 2
        line = capfd.readouterr().err.strip().splitlines()[-1]
        assert line.startswith('error: ')
        return line

    return run
