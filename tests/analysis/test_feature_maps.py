"""Heat maps of modules: by hand, against numpy's SVD, and as one figure."""

import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmscale.analysis.detector import Sample, load_detector, read_images
from mmscale.analysis.feature_maps import METHODS, FeatureMaps, eigen_cam, feature_maps, take_detections, to_picture
from mmscale.analysis.feature_maps_command import main
from mmscale.analysis.pictures import colour, grid, overlay, save_figure, to_unit

PIPELINE = """
test_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b', 'c')), pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(80, 60), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""


@pytest.fixture
def config(one_stage):
    """A one-stage detector with FINE and a test pipeline for images."""
    text = one_stage.read_text().replace("type='FPN'", "type='mmscale.FINEFPN'")
    one_stage.write_text(text + PIPELINE)
    return one_stage


@pytest.fixture
def folder(tmp_path):
    """Two images of 160 x 120, to be halved."""
    root = tmp_path / 'images'
    root.mkdir()
    for index in range(2):
        image = np.random.default_rng(index).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f'{index}.png'), image)
    return root


def test_eigen_cam_is_the_first_principal_projection():
    activations = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(0))
    tokens = activations.flatten(1).T.numpy().astype(np.float64)
    _, _, directions = np.linalg.svd(tokens, full_matrices=False)
    projection = tokens @ directions[0]
    projection *= np.sign(projection[np.abs(projection).argmax()])
    np.testing.assert_allclose(eigen_cam(activations).numpy().ravel(), np.clip(projection, 0, None), atol=1e-5)


def test_eigen_cam_of_one_pattern_is_the_pattern():
    pattern = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    weights = torch.tensor([3.0, -4.0])[:, None, None]  # length 5
    torch.testing.assert_close(eigen_cam(weights * pattern), 5 * pattern)
    torch.testing.assert_close(eigen_cam(-weights * pattern), 5 * pattern)  # the sign is fixed
    assert eigen_cam(torch.zeros(3, 2, 2)).eq(0).all()


def test_means_by_hand():
    activations = torch.tensor([[[1.0, -2.0]], [[-3.0, 2.0]]])
    assert METHODS['abs'](activations).tolist() == [[2, 2]]
    assert METHODS['mean'](activations).tolist() == [[-1, 0]]


def test_pictures_by_hand():
    assert to_unit(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    dark, bright = colour(np.array([[0.0, 1.0]]))[0].astype(int)
    assert dark.sum() < 20 and bright.sum() > 600
    blue, red = colour(np.array([[-1.0, 2.0]]), 'turbo')[0].astype(int)
    assert blue.argmax() == 2 and red.argmax() == 0  # RGB, and clipped
    picture = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    heat = np.zeros((3, 4))
    np.testing.assert_array_equal(overlay(picture, heat, 0.0), picture)
    np.testing.assert_array_equal(overlay(picture, heat, 1.0), colour(heat, 'turbo'))


def test_padding_is_cut_off():
    sample = Sample('a', torch.zeros(1, 3, 64, 96), [], np.zeros((60, 80, 3), np.uint8))
    heat = np.zeros((2, 3), np.float32)
    heat[0, 2] = 9  # columns 64 to 95, of which 64 to 79 are image
    picture = to_picture(heat, sample, 'nearest')
    assert picture.shape == (60, 80)
    wanted = np.zeros((60, 80))
    wanted[:32, 64:] = 1
    np.testing.assert_array_equal(picture, wanted)


def test_fine_as_in_figure_8(config, folder):
    detector = load_detector(config)
    names = ['neck.fine.2:in1', 'neck.fine.2:in0', 'neck.fine.2.attention', 'neck.fine.2']
    results = feature_maps(detector, read_images(detector, folder), names)
    assert [result.sample.name for result in results] == ['0.png', '1.png']
    assert [heat.shape for heat in results[0].heats] == [(2, 3), (4, 6), (2, 3), (4, 6)]
    # the picture is what the pipeline made of the image, in RGB
    wanted = cv2.resize(cv2.imread(str(folder / '0.png')), (80, 60))[..., ::-1]
    np.testing.assert_array_equal(results[0].sample.picture, wanted)
    # F_low_aligned = F_low * M + F_low, with M the attention's output spread over its cells
    from mmscale.analysis.taps import capture, parse_taps

    sample = results[0].sample
    with torch.no_grad():
        (_, low, coarse, aligned), _ = capture(
            detector.model, parse_taps(detector.model, names), lambda: detector.model.extract_feat(sample.inputs)
        )
    modulation = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(aligned, low * modulation + low)
    np.testing.assert_allclose(results[0].heats[1], low[0].abs().mean(0), rtol=1e-6)


def test_detections_move_to_the_picture():
    class Output(dict):
        metainfo = dict(ori_shape=(120, 160), scale_factor=(0.5, 0.25), pad_param=(10.0, 10.0, 4.0, 4.0))

    instances = InstanceData(
        bboxes=torch.tensor([[20.0, 40, 60, 80], [0, 0, 1, 1]]), scores=torch.tensor([0.9, 0.1]), labels=torch.ones(2)
    )
    found = FeatureMaps(Sample('a', torch.zeros(1), [], np.zeros((50, 88, 3), np.uint8)), [])
    take_detections(found, Output(pred_instances=instances), 0.5)
    assert found.boxes.tolist() == [[14, 20, 34, 30]]  # 20 / 2 + 4, 40 / 4 + 10, ...
    with pytest.raises(ValueError, match='but the model gives none'):
        take_detections(found, Output(pred_sem_seg=1), 0.5)


def test_command(config, folder, tmp_path, capsys):
    out = tmp_path / 'maps.png'
    options = ['--modules', 'backbone.layer2', 'neck:out1', '--method', 'eigencam', '--detections', '0']
    main([str(config), str(folder), '--out', str(out), *options])
    assert f'one_stage, random weights (seed 0); eigencam of 2 images: {out}' in capsys.readouterr().out
    height, width = cv2.imread(str(out)).shape[:2]
    assert width > height > 200  # two rows, three columns
    assert not {'pytorch_grad_cam', 'torchvision'} & set(sys.modules)


def test_mistakes(config, folder, tmp_path, capsys):
    def says(*argv):
        with pytest.raises(SystemExit) as stop:
            main([str(config), *map(str, argv)])
        assert stop.value.code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    out = tmp_path / 'maps.png'
    assert 'did you mean neck.fine.2' in says(folder, '--modules', 'neck.fine.3', '--out', out)
    assert 'neck has 5 output tensors' in says(folder, '--modules', 'neck', '--out', out).replace("'", '')
    assert '--strength 2 must be from 0 to 1' in says(folder, '--modules', 'neck:out0', '--strength', 2)
    (tmp_path / 'empty').mkdir()
    assert "empty' has no image" in says(tmp_path / 'empty', '--modules', 'neck:out0', '--out', out)
    image = folder / '0.png'
    image.write_bytes(image.read_bytes()[:200])
    line = says(image, '--modules', 'neck:out0', '--out', out)
    assert line.startswith("error: image '") and 'is cut off' in line
    assert not out.exists()


def test_titles_of_two_lines_are_whole(tmp_path):
    """In a figure of one row the room for a title is smallest: its first line must not touch the picture's border."""
    figure, axes = grid(1, 3)
    for axis in axes[0]:
        axis.imshow(np.zeros((80, 80, 3), np.uint8))
        axis.set_title('backbone:out0\nsigma 3.0 px', fontsize=8)
    figure.supxlabel('x 120 to 200', fontsize=8)
    save_figure(tmp_path / 'row.png', figure)
    picture = cv2.imread(str(tmp_path / 'row.png'))
    assert (picture[:3] == 255).all() and (picture[-3:] == 255).all()
