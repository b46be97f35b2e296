"""What is in a file beside the graph, what cannot be exported, and the command."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config

from mmscale.analysis.detector import Detector
from mmscale.analysis.model import build_model
from mmscale.deploy import ExportableDense, build_exportable, build_file, find_adapter, register_adapter, write_file
from mmscale.deploy import check as check_module
from mmscale.deploy.check import compare
from mmscale.deploy.command import main
from mmscale.deploy.detector import ADAPTERS
from mmscale.deploy.image_input import ImageInput
from mmscale.deploy.metadata import class_names
from mmscale.fine import FINE
from mmscale.paths import config_root
from mmscale.version import __version__

from .small import dense_config, small_detector, small_file, whole_config

DENSE = sorted(path for kind in ('fcos', 'retinanet') for path in (config_root() / 'fine').glob(f'{kind}_*.py'))
FASTER_RCNN = config_root() / 'fine' / 'faster-rcnn_r50_fpn_1x_bccd.py'


def metadata(file) -> dict:
    return {entry.key: json.loads(entry.value) for entry in file.metadata_props}


def test_metadata_of_an_open_size():
    values = metadata(small_file('fcos'))
    assert values['classes'] == ['RBC', 'WBC', 'Platelets']
    assert values['channel_order'] == 'RGB' and values['input_size'] is None
    assert values['resize'] == dict(
        keep_ratio=True, scale=[320, 240], pad_divisor=1, pad_value=[123.675, 116.28, 103.53]
    )
    assert values['detector'] == 'fcos' and values['mmscale'] == __version__


def test_metadata_of_a_fixed_size():
    values = metadata(small_file('rtdetr', (96, 128)))
    assert values['input_size'] == [96, 128]
    assert values['resize'] == dict(keep_ratio=False, scale=[320, 240], pad_divisor=1, pad_value=0.0)


def test_class_names_that_do_not_fit_become_numbers():
    detector = small_detector('fcos')
    assert class_names(Detector(Config(), detector.model, '', ('one',))) == ['0', '1', '2']
    coco = Config(dict(test_dataloader=dict(dataset=dict(type='mmscale.VOCDataset'))))
    assert class_names(Detector(coco, detector.model, '')) == ['0', '1', '2']  # VOC's twenty do not fit three


def test_input_is_normalised_and_padded_as_by_the_model():
    model = small_detector('fcos').model
    images = torch.rand(2, 3, 50, 70) * 255
    expected = model.data_preprocessor(dict(inputs=list(images.flip(1)), data_samples=None))['inputs']
    assert torch.equal(ImageInput(model.data_preprocessor)(images), expected)


def test_the_detector_stays_as_it_is():
    detector = small_detector('rtdetr')
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    build_exportable(detector)
    after = detector.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_unexportable_detector():
    config = Config.fromfile(FASTER_RCNN)
    config.model.backbone.depth = 18
    config.model.neck.in_channels = [64, 128, 256, 512]
    with pytest.raises(ValueError, match='FasterRCNN.* cannot be exported to ONNX; what can is .*FCOS.* and RT-DETR'):
        find_adapter(build_model(config))


@pytest.mark.parametrize('path', DENSE, ids=lambda path: path.stem)
def test_every_dense_detector_of_the_configs_fits(path):
    config = Config.fromfile(path)
    config.model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    config.model.neck.in_channels = [8, 16, 32, 64]
    model = build_model(config)
    exportable = find_adapter(model)(model, (64, 64))
    assert isinstance(exportable, ExportableDense)
    boxes, scores, labels = exportable(torch.rand(1, 3, 64, 64))
    assert boxes.shape == (1, 100, 4) and scores.shape == labels.shape == (1, 100)


def changed(**test_cfg) -> Detector:
    config = Config(dict(model=dense_config('fcos')))
    config.model.test_cfg.update(test_cfg)
    return Detector(config, build_model(config), 'random')


@pytest.mark.parametrize(
    ('test_cfg', 'words'),
    [
        (dict(nms_pre=-1), 'test_cfg.nms_pre=-1 sets no limit'),
        (dict(max_per_img=-1), 'test_cfg.max_per_img=-1 sets no limit'),
        (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), 'soft_nms.* cannot be exported'),
        (dict(nms=dict(type='nms', iou_threshold=0.5, max_num=3)), 'max_num.* cannot be exported'),
    ],
)
def test_unexportable_settings(test_cfg, words):
    with pytest.raises(ValueError, match=words):
        build_exportable(changed(**test_cfg))


def test_fewer_candidates_than_detections():
    for size in (None, (32, 32)):
        boxes, scores, labels = build_exportable(changed(nms_pre=2), size)(torch.rand(1, 3, 32, 32))
        assert boxes.shape == (1, 20, 4) and (labels[:, 10:] == -1).all() and (scores[:, 10:] == 0).all()


def test_unusable_size_and_opset():
    config = whole_config('fcos-fine')
    config.model.data_preprocessor.pad_size_divisor = 1
    detector = Detector(config, build_model(config), 'random')
    with pytest.raises(ValueError, match="kernel 2 of FINE's low level is larger than the map of 1x1"):
        build_file(detector, (8, 8))
    with pytest.raises(ValueError, match='opset=11 is not supported: choose one from 16 to 20'):
        build_file(detector, None, 11)


def test_operator_that_onnx_lacks():
    config = whole_config('fcos')
    config.model.bbox_head.dcn_on_last_conv = True
    detector = Detector(config, build_model(config), 'random')
    with pytest.raises(ValueError, match='fcos cannot be exported: ONNX has no operator for mmcv::.*Deform'):
        build_file(detector, (64, 64))


def test_adapter_of_ones_own():
    class Own(ExportableDense):
        @classmethod
        def fits(cls, model):
            return super().fits(model) and type(model).__name__ == 'FCOS'

    try:
        register_adapter(Own)
        assert find_adapter(small_detector('fcos').model) is Own
        assert find_adapter(small_detector('ssd').model) is ExportableDense
    finally:
        ADAPTERS.remove(Own)


@pytest.mark.parametrize(
    'options',
    [
        dict(down='dwconv'),
        dict(down='max'),
        dict(attention=dict(type='mmscale.WindowCrossLevelAttention', window_size=3)),
        dict(attention=dict(type='mmscale.AreaCrossLevelAttention')),
        dict(attention=dict(type='mmscale.LinearCrossLevelAttention')),
    ],
    ids=['dwconv', 'max', 'window', 'area', 'linear'],
)
def test_fine_keeps_sizes_open(options, tmp_path):
    """Traced at sizes that the kernel divides, right at those that it does not."""
    torch.manual_seed(0)
    fine = FINE(16, kernel=2, **options).eval()
    axes = {name: {0: 'batch', 2: name + '_h', 3: name + '_w'} for name in ('low', 'high')}
    path = tmp_path / 'fine.onnx'
    inputs = torch.rand(2, 16, 16, 24), torch.rand(2, 16, 8, 12)
    torch.onnx.export(
        fine, inputs, path, dynamo=False, opset_version=17, input_names=['low', 'high'], dynamic_axes=axes
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for sizes in (((16, 24), (8, 12)), ((13, 21), (7, 11)), ((27, 42), (14, 21))):
        low, high = (torch.rand(1, 16, *size) for size in sizes)
        with torch.no_grad():
            expected = fine(low, high)
        found = session.run(None, {'low': low.numpy(), 'high': high.numpy()})[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_compare_by_hand():
    box = np.array([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    first = box, np.array([0.9, 0.5]), np.array([0, 1])
    swapped = box[::-1] + 5e-4, np.array([0.5, 0.9 - 2e-4]), np.array([1, 0])
    result = compare(first, swapped)
    assert (result.pairs, result.unpaired, bool(result)) == (2, 0, True)
    assert result.scores == pytest.approx(2e-4) and result.boxes == pytest.approx(5e-4)
    other_label = compare(first, (box, first[1], np.array([0, 2])))
    assert (other_label.pairs, other_label.unpaired, bool(other_label)) == (1, 2, False)
    padded = np.pad(box, ((0, 3), (0, 0))), np.pad(first[1], (0, 3)), np.pad(first[2], (0, 3), constant_values=-1)
    assert compare(first, padded).pairs == 2 and compare(first, padded).unpaired == 0
    assert not compare(first, (box + 0.01, first[1], first[2]))


def test_nothing_half_written(tmp_path):
    class Broken:
        def SerializeToString(self):
            raise MemoryError

    (tmp_path / 'model.onnx').write_bytes(b'old')
    with pytest.raises(MemoryError):
        write_file(Broken(), tmp_path / 'model.onnx')
    assert [path.name for path in tmp_path.iterdir()] == ['model.onnx']
    assert (tmp_path / 'model.onnx').read_bytes() == b'old'


@pytest.fixture
def command_line(tmp_path) -> list[str]:
    """A config and a checkpoint of its model."""
    config = whole_config('fcos')
    config.dump(tmp_path / 'tiny.py')
    torch.save(dict(state_dict=small_detector('fcos').model.state_dict()), tmp_path / 'tiny.pth')
    return [str(tmp_path / 'tiny.py'), str(tmp_path / 'tiny.pth'), '--out', str(tmp_path / 'out' / 'tiny.onnx')]


def test_command(command_line, tmp_path, bccd_root, capsys):
    image = sorted((bccd_root / 'JPEGImages').glob('*.jpg'))[0]
    main([*command_line, '--check', str(image), '--dynamic-size'])
    said = capsys.readouterr().out
    assert '| input  | images | float32 | batch x 3 x height x width |' in said
    assert '| output | labels | int64   | batch x 20                 |' in said
    assert 'on 4 images: 80 detections agree, 0 have no counterpart' in said
    file = onnx.load(tmp_path / 'out' / 'tiny.onnx')
    assert metadata(file)['detector'] == 'tiny' and file.opset_import[0].version == 17
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['tiny.onnx']


def refused(argv, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_mistakes_on_the_command_line(command_line, tmp_path, capsys):
    out = command_line[:2] + ['--out', str(tmp_path / 'tiny.pt')]
    assert "--out '" in (line := refused(out, capsys)) and 'should end in .onnx' in line
    assert '--size 0 64 should be height and width' in refused([*command_line, '--size', '0', '64'], capsys)
    assert "--check 'nowhere' does not exist" in refused([*command_line, '--check', 'nowhere'], capsys)
    wider = [*command_line, '--cfg-options', 'model.bbox_head.num_classes=5']
    assert 'belongs to another model' in refused(wider, capsys)
    assert not (tmp_path / 'out').exists()


def test_a_file_that_disagrees_is_not_written(command_line, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_module, 'check_batches', lambda *_: check_module.Agreement(1, 10, 5))
    line = refused(command_line, capsys)
    assert 'disagree on 5 of 25 detections, so nothing was written' in line and not (tmp_path / 'out').exists()


def test_without_onnxruntime(command_line, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check_module, 'onnxruntime', None)
    main([*command_line, '--size', '64', '96'])
    assert 'onnxruntime is not installed' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'tiny.onnx').is_file()
