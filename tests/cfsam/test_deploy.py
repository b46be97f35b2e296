"""SSD with CFSAM leaves the training machine: one ONNX file that finds what PyTorch finds, and ``infer.py``."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmscale.deploy import build_file, check_batches
from mmscale.deploy.check import detect_with_torch
from mmscale.deploy.command import main as export
from mmscale.inference.command import main as infer
from mmscale.paths import config_root

from ..deploy.small import read_batch
from .small import CLASSES, small_detector, spread_detector, whole_config


def run(file, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(['boxes', 'scores', 'labels'], {'images': images})


@pytest.mark.parametrize('num_parts', [2, 3])
def test_one_file_for_all_sizes_and_batches(num_parts, bccd_root):
    """Traced with 1,728 tokens, which 2 and 3 divide; neither divides 893, and 2 alone divides 406."""
    detector = small_detector(num_parts=num_parts)
    batches = [read_batch(bccd_root, size, count) for size, count in (((120, 160), 1), ((200, 203), 3))]
    tokens = [sum(x.shape[2] * x.shape[3] for x in features(detector, images)) for images in batches]
    assert tokens == [406, 893]
    file = build_file(detector)
    result = check_batches(detector.model, file.SerializeToString(), batches)
    assert result.images == 4 and result.pairs > 200 and result.unpaired == 0
    assert result.scores < 1e-3 and result.boxes < 1e-3
    found = run(file, batches[1])
    assert len(set(found[2].flat) - {-1}) > 1, 'classes are told apart'


@torch.no_grad()
def features(detector, images):
    return detector.model.extract_feat(torch.from_numpy(images))


def test_fixed_size_and_any_batch(bccd_root):
    file = build_file(small_detector(), (96, 96))
    shape = [dim.dim_value or dim.dim_param for dim in file.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ['batch', 3, 96, 96]
    images = read_batch(bccd_root, (96, 96), 3)
    result = check_batches(small_detector().model, file.SerializeToString(), [images[:1], images])
    assert result.images == 4 and result.pairs > 200 and result.unpaired == 0
    # what a level sees of the others is in the file: without CFSAM's middle, other detections
    blind = small_detector(stages=('lfe',))
    assert not check_batches(blind.model, file.SerializeToString(), [images])


class TwoMaps(nn.Module):
    """In VGG's place, whose export is MMDetection's affair and takes two thirds of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 512, 3, stride=8, padding=1), nn.Conv2d(3, 1024, 3, stride=16, padding=1)

    def forward(self, images):
        return self.fine(images / 100), self.coarse(images / 100)


def test_the_papers_neck_and_head(bccd_root):
    """1,940 tokens at 300x300, in the config's own 2 parts."""
    config = Config.fromfile(config_root() / 'cfsam' / 'ssd300_cfsam_voc0712.py')
    config.model.test_cfg.update(nms_pre=50, max_per_img=50)  # a file with 200 of 6,000 candidates takes longer to run
    detector = spread_detector(config)
    torch.manual_seed(0)
    detector.model.backbone = TwoMaps().eval()
    for parameter in detector.model.bbox_head.parameters():
        parameter.data *= 0.3  # the maps are wide
    file = build_file(detector, (300, 300))
    result = check_batches(detector.model, file.SerializeToString(), [read_batch(bccd_root, (300, 300), 1)])
    assert result.pairs == 50 and result.unpaired == 0
    softmaxes = sum(node.op_type == 'Softmax' for node in file.graph.node)
    assert softmaxes == 3 + 6, "three layers' attention over all parts at once, and six maps' scores"


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A config and a checkpoint of the small detector."""
    whole_config().dump(tmp_path / 'ssd.py')
    torch.save(dict(state_dict=small_detector().model.state_dict()), tmp_path / 'ssd.pth')
    return [str(tmp_path / 'ssd.py'), str(tmp_path / 'ssd.pth')]


def test_the_same_boxes_by_infer_from_the_checkpoint_and_from_the_file(files, tmp_path, bccd_root, capsys):
    image = sorted((bccd_root / 'JPEGImages').glob('*.jpg'))[0]
    export([*files, '--out', str(tmp_path / 'ssd.onnx'), '--check', str(image)])
    said = capsys.readouterr().out
    assert '| input  | images | float32 | batch x 3 x 96 x 96 |' in said and ' 0 have no counterpart' in said
    found = []
    for name, model in (('torch', files), ('onnx', [str(tmp_path / 'ssd.onnx')])):
        out = tmp_path / name
        infer([*model, str(image), '--out-dir', str(out), '--score-thr', '0.1', '--no-pictures'])
        content = json.loads((out / 'detections.json').read_text())
        assert [category['name'] for category in content['categories']] == list(CLASSES)
        found.append(content['annotations'])
    assert len(found[0]) == len(found[1]) > 20
    by_torch, by_onnx = (sorted([*row['bbox'], row['score'], row['category_id']] for row in rows) for rows in found)
    assert np.allclose(by_torch, by_onnx, atol=0.05)
    direct = detect_with_torch(small_detector().model, read_batch(bccd_root, (96, 96), 1))[0]
    assert max(row['score'] for row in found[0]) == pytest.approx(direct[1].max(), abs=0.01)
