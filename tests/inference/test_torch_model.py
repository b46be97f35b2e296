"""Inference with a config and a checkpoint, from the command line to the files."""

import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmscale.analysis.model import build_model
from mmscale.engine.test import build_parser, prepare
from mmscale.engine.test import test as run_test
from mmscale.inference import Detections, TorchModel, find_sources, run
from mmscale.inference.command import main

from ..engine.conftest import CLASSES


def infer(*argv) -> None:
    main([str(argument) for argument in argv])


def read(out_dir) -> dict:
    return json.loads((out_dir / 'detections.json').read_text())


def found_in(coco: dict) -> dict[str, list]:
    """Category, box and score of every detection, by file name."""
    names = {image['id']: image['file_name'] for image in coco['images']}
    found = {name: [] for name in names.values()}
    for row in coco['annotations']:
        found[names[row['image_id']]].append([row['category_id'], *row['bbox'], row['score']])
    return found


def test_folder_with_broken_files(detector, folder, tmp_path, capfd):
    infer(*detector, folder, '--recursive', '--out-dir', tmp_path / 'out')
    said = capfd.readouterr()
    out = tmp_path / 'out'
    assert "skipped: image '" in said.err and "empty.png' is empty (0 bytes)" in said.err
    assert "cut.png' is cut off" in said.err and "text.jpg' cannot be decoded" in said.err and 'notes' not in said.err
    coco = read(out)
    number = len(coco['annotations'])
    assert f'3 images, {number} detections, 3 unreadable (cut.png, empty.png, text.jpg)' in said.out
    assert [image['file_name'] for image in coco['images']] == ['a.png', 'b.png', 'sub/a.png']
    assert [entry['file_name'] for entry in coco['info']['unreadable']] == ['cut.png', 'empty.png', 'text.jpg']
    assert [category['name'] for category in coco['categories']] == list(CLASSES)
    assert number > 0 and all(row['score'] >= 0.3 for row in coco['annotations'])
    pictures = sorted(str(path.relative_to(out)) for path in out.rglob('*') if path.is_file())
    assert pictures == ['detections.json', 'pictures/a.png', 'pictures/b.png', 'pictures/sub/a.png']
    assert cv2.imread(str(out / 'pictures' / 'a.png')).shape == (448, 448, 3)  # 64 pixels, seven times


def test_pycocotools_reads_the_file(detector, folder, tmp_path, capsys):
    infer(*detector, folder / 'a.png', '--out-dir', tmp_path, '--no-pictures')
    assert not (tmp_path / 'pictures').exists()
    coco = COCO(tmp_path / 'detections.json')
    annotations = read(tmp_path)['annotations']
    results = coco.loadRes(
        [{key: row[key] for key in ('image_id', 'category_id', 'bbox', 'score')} for row in annotations]
    )
    assert len(results.getAnnIds()) == len(coco.getAnnIds()) == len(annotations) > 0
    assert len(coco.loadRes(annotations).getAnnIds()) == len(annotations)
    for row in annotations:
        x, y, width, height = row['bbox']
        assert 0 <= x <= x + width <= 64.001 and 0 <= y <= y + height <= 64.001
        assert row['area'] == pytest.approx(width * height, abs=0.1)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_boxes_are_those_of_test_py(detector, data, tmp_path, batch_size):
    """The same images as the config's test set, through mmengine's test loop and through this tool."""
    args = build_parser().parse_args([*detector, '--work-dir', str(tmp_path / 'run')])
    run_test(prepare(args), str(tmp_path / 'out.pkl'))
    expected = {}
    for sample in pickle.loads((tmp_path / 'out.pkl').read_bytes()):
        found, name = sample['pred_instances'], f'{sample["img_id"]}.png'
        expected[name] = [
            [int(label) + 1, *box[:2].tolist(), *(box[2:] - box[:2]).tolist(), float(score)]
            for box, score, label in zip(found['bboxes'], found['scores'], found['labels'], strict=True)
        ]
    options = ['--score-thr', '0', '--batch-size', batch_size, '--no-pictures', '--out-dir', tmp_path]
    infer(*detector, data / 'images', *options)
    found = found_in(read(tmp_path))
    assert sorted(found) == sorted(expected) and len(found) == 8
    for name, rows in expected.items():
        assert len(rows) > 1
        np.testing.assert_allclose(found[name], rows, atol=2e-3)


def test_video_becomes_video(detector, video, tmp_path, capsys):
    infer(*detector, video, '--score-thr', '0.1', '--batch-size', 2, '--out-dir', tmp_path / 'out')
    coco = read(tmp_path / 'out')
    assert '1 video of 5 frames' in capsys.readouterr().out
    assert [image['frame_index'] for image in coco['images']] == [0, 1, 2, 3, 4]
    assert {(image['file_name'], image['width'], image['height']) for image in coco['images']} == {('clip.avi', 96, 64)}
    made = cv2.VideoCapture(str(tmp_path / 'out' / 'pictures' / 'clip.avi.mp4'))
    assert [made.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)] == [12, 5]
    assert made.read()[1].shape == (64, 96, 3)
    assert not list((tmp_path / 'out').rglob('.*'))
    # a frame is treated as the same pixels in an image file are
    source = cv2.VideoCapture(str(video))
    source.read()
    cv2.imwrite(str(tmp_path / 'frame.png'), source.read()[1])
    infer(*detector, tmp_path / 'frame.png', '--score-thr', '0.1', '--out-dir', tmp_path / 'frame')
    rows = [row for row in coco['annotations'] if row['image_id'] == 2]
    single = read(tmp_path / 'frame')['annotations']
    assert [row['bbox'] for row in rows] == [row['bbox'] for row in single] and rows


def test_images_around_a_video_in_one_glob(detector, folder, video, tmp_path, capsys):
    video.rename(folder / 'ab.avi')
    (folder / 'c.mp4').write_bytes(b'no video')
    infer(*detector, f'{folder}/*', '--batch-size', 4, '--out-dir', tmp_path / 'out')
    out = capsys.readouterr().out
    assert '2 images, 1 video of 5 frames' in out and '4 unreadable (c.mp4, cut.png, empty.png, text.jpg)' in out
    files = [image['file_name'] for image in read(tmp_path / 'out')['images']]
    assert files == ['a.png', *['ab.avi'] * 5, 'b.png']


def test_images_of_different_sizes_in_one_batch(detector, tmp_path):
    (tmp_path / 'in').mkdir()
    for index, size in enumerate([(40, 200, 3), (200, 40, 3), (64, 64, 3), (1, 200, 3)]):
        noise = np.random.default_rng(index).integers(0, 255, size, dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'in' / f'{index}.png'), noise)
    infer(*detector, tmp_path / 'in', '--score-thr', '0.05', '--batch-size', 3, '--out-dir', tmp_path)
    coco = read(tmp_path)
    assert [(image['width'], image['height']) for image in coco['images']] == [(200, 40), (40, 200), (64, 64)]
    assert [entry['file_name'] for entry in coco['info']['unreadable']] == ['3.png']  # nothing is left of one row
    sizes = {image['id']: (image['width'], image['height']) for image in coco['images']}
    for row in coco['annotations']:
        x, y, width, height = row['bbox']
        assert x >= 0 and y >= 0
        assert x + width <= sizes[row['image_id']][0] + 0.01 and y + height <= sizes[row['image_id']][1] + 0.01


def test_a_killed_run_leaves_no_half_file(detector, video, folder, tmp_path, monkeypatch):
    model = TorchModel(*detector, device='cpu')
    calls, detect = [], model.detect

    def detect_twice(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(*args)

    monkeypatch.setattr(model, 'detect', detect_twice)
    with pytest.raises(KeyboardInterrupt):
        run(model, find_sources([str(video)]), tmp_path / 'out')
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]


def test_mistakes(detector, folder, tmp_path, refused):
    config, checkpoint = detector
    out = ['--out-dir', tmp_path / 'out']
    assert "none of the 2 files can be read; the first: image '" in refused(
        main, *detector, folder / 'text.jpg', folder / 'empty.png', *out
    )
    assert not (tmp_path / 'out').exists()
    assert f"input '{tmp_path}/none' does not exist" in refused(main, *detector, tmp_path / 'none')
    assert 'come its checkpoint and then the inputs' in refused(main, config, folder)
    assert 'come its checkpoint and then the inputs' in refused(main, config, checkpoint)
    assert 'should be a config' in refused(main, checkpoint, config, folder)
    assert "--out-dir '" in refused(main, *detector, folder, '--out-dir', checkpoint)
    assert '--score-thr 3 should be' in refused(main, *detector, folder, '--score-thr', 3)
    assert '--batch-size 0 should be' in refused(main, *detector, folder, '--batch-size', 0)
    assert "device 'tpu' cannot be used" in refused(main, *detector, folder, '--device', 'tpu')
    assert "has no 'modle', did you mean 'model'?" in refused(main, *detector, folder, '--cfg-options', 'modle.a=1')
    other = ['--cfg-options', 'model.bbox_head.stacked_convs=2']
    assert 'belongs to another model' in refused(main, *detector, folder, *other)


def test_classes_of_checkpoint_then_config_then_numbers(detector, data, tmp_path, capsys):
    config, checkpoint = detector
    state = torch.load(checkpoint)['state_dict']
    torch.save(dict(state_dict=state), tmp_path / 'nameless.pth')
    torch.save(dict(state_dict=state, meta=dict(CLASSES=('old', 'names'))), tmp_path / 'old.pth')
    assert TorchModel(config, checkpoint).classes == CLASSES
    assert TorchModel(config, tmp_path / 'old.pth').classes == ('old', 'names')
    assert TorchModel(config, tmp_path / 'nameless.pth').classes == CLASSES
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pop('metainfo')  # leaves CocoDataset's own 80, and the head has two
    cfg.dump(tmp_path / 'nameless.py')
    assert TorchModel(tmp_path / 'nameless.py', tmp_path / 'nameless.pth').classes == ()
    assert 'classes are called by their numbers' in capsys.readouterr().out
    infer(tmp_path / 'nameless.py', tmp_path / 'nameless.pth', data / 'images' / '0.png', '--out-dir', tmp_path)
    assert [category['name'] for category in read(tmp_path)['categories']] in (['0'], ['0', '1'])


def test_image_loader_of_the_config(detector, folder, video, tmp_path):
    """Grey and float images, which some configs ask for, from files and from frames."""
    cfg = Config.fromfile(detector[0])
    loader = cfg.test_dataloader.dataset.pipeline[0]
    loader.color_type, loader.to_float32 = 'grayscale', True
    cfg.model.data_preprocessor.update(mean=[128.0], std=[64.0])
    cfg.model.backbone.in_channels = 1
    cfg.dump(tmp_path / 'grey.py')
    torch.save(build_model(cfg).state_dict(), tmp_path / 'grey.pth')
    options = ['--out-dir', tmp_path / 'out', '--score-thr', '0']
    infer(tmp_path / 'grey.py', tmp_path / 'grey.pth', folder / 'a.png', video, *options)
    assert len(read(tmp_path / 'out')['images']) == 6
    assert cv2.imread(str(tmp_path / 'out' / 'pictures' / 'photos' / 'a.png')).shape == (448, 448, 3)


MASK_RCNN = """
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
default_scope = 'mmdet'
model = dict(
    data_preprocessor=dict(_delete_=True, type='DetDataPreprocessor', mean=[128.] * 3, std=[64.] * 3,
                           pad_mask=True, pad_size_divisor=32),
    backbone=dict(depth=18, base_channels=8, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16), mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2)),
    test_cfg=dict(rpn=dict(nms_pre=20, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)))
test_dataloader = dict(dataset=dict(type='CocoDataset', metainfo=dict(classes=('cat', 'dog')), pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadPanopticAnnotations'), dict(type='PackDetInputs')]))
"""


def test_masks_are_run_length_codes(tmp_path, data):
    (tmp_path / 'mask.py').write_text(MASK_RCNN)
    torch.save(build_model(Config.fromfile(tmp_path / 'mask.py')).state_dict(), tmp_path / 'mask.pth')
    arguments = [tmp_path / 'mask.py', tmp_path / 'mask.pth', data / 'images' / '0.png']
    infer(*arguments, '--score-thr', '0.01', '--out-dir', tmp_path / 'out')
    annotations = read(tmp_path / 'out')['annotations']
    assert 0 < len(annotations) <= 5
    coco = COCO(tmp_path / 'out' / 'detections.json')
    for row in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(row).shape == (64, 64)
        assert row['area'] == coco.annToMask(row).sum() == coco_mask.area(row['segmentation'])
    assert len(coco.loadRes(annotations).getAnnIds()) == len(annotations)


def test_models_that_detect_nothing_are_refused(detector, monkeypatch, tmp_path, folder, refused):
    from mmdet.models import FCOS
    from mmdet.structures import DetDataSample
    from mmengine.structures import PixelData

    def segment(self, data):
        return [DetDataSample(pred_sem_seg=PixelData(sem_seg=torch.zeros(1, 4, 4)))]

    monkeypatch.setattr(FCOS, 'test_step', segment)
    line = refused(main, *detector, folder / 'a.png', '--out-dir', tmp_path / 'out')
    assert 'FCOS gives pred_sem_seg and no boxes: a detector is wanted' in line
    assert not (tmp_path / 'out' / 'detections.json').exists()


def test_no_detection_is_a_result(detector, folder, tmp_path):
    infer(*detector, folder / 'a.png', '--score-thr', 1, '--out-dir', tmp_path / 'out')
    coco = read(tmp_path / 'out')
    assert coco['annotations'] == [] and len(coco['images']) == 1
    assert (tmp_path / 'out' / 'pictures' / 'a.png').is_file()
    assert len(Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))) == 0
