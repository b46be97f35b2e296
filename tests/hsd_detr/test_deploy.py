"""HSD-DETR leaves the training machine: folded it says the same, and so does one ONNX file at any size and batch."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mmscale.deploy import build_file, check_batches
from mmscale.deploy.check import detect_with_torch
from mmscale.deploy.command import main as export
from mmscale.inference.command import main as infer
from mmscale.layers import reparameterize

from ..deploy.small import read_batch
from . import small

KINDS = ['hsd-detr', 'dsaifi', 'spdmixer']


def count(model, kind) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.fixture(scope='module')
def trained():
    """The whole detector some steps later: what its batch norms saw is behind them, and no two weights are alike."""
    model = small.spread_model(small.whole_config()).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(4):
        optimizer.zero_grad()
        small.total(model.loss(*small.batch([2, 1], seed=step))).backward()
        optimizer.step()
    moved = [(norm.running_mean != mean).any() for norm, mean in zip(norms, before, strict=True)]
    assert all(moved) and all((norm.running_var != 1).all() for norm in norms)
    return model.eval()


@torch.no_grad()
def test_folded_equals_trained(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    folded = reparameterize(trained)
    after = trained.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    twice = reparameterize(folded)
    for size in ((96, 128), (67, 93)):
        image = small.images(2, size, seed=5)
        logits, boxes = trained(image, mode='tensor')
        assert logits[-1].std() > 0.1 and boxes[-1].std() > 0.05, 'queries are told apart'
        for model in (folded, twice):
            found = model(image, mode='tensor')
            torch.testing.assert_close(found, (logits, boxes), atol=1e-4, rtol=1e-4)


def test_folded_is_smaller(trained):
    """Of 4 stages: MobileOne's stem of three blocks and three blocks of two before stages, each one convolution."""
    folded = reparameterize(trained)
    assert count(trained.backbone, nn.BatchNorm2d) > 4 * 6 and count(trained.neck, nn.BatchNorm2d) > 0
    for kind in (nn.Conv2d, nn.Module):
        assert count(folded, kind) < count(trained, kind)
    stem = [module for module in folded.backbone.stem.modules() if isinstance(module, nn.Conv2d)]
    assert len(stem) == 3 and count(folded.backbone.stem, nn.BatchNorm2d) == 0
    downs = [stage[0] for stage in folded.backbone.stages[1:]]
    assert [(count(down, nn.Conv2d), count(down, nn.BatchNorm2d)) for down in downs] == [(2, 0)] * 3
    scans = [stage[1].fusion.ss2d for stage in folded.backbone.stages]
    assert [count(scan, nn.BatchNorm2d) for scan in scans] == [0] * 4


def run(file, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(['boxes', 'scores', 'labels'], {'images': images})


def batches_of(bccd_root, *sizes_and_counts):
    """Blood cells, the third image of three much darker and the second reversed: their statistics differ."""
    batches = [read_batch(bccd_root, size, count) for size, count in sizes_and_counts]
    for images in batches:
        images[1:2] = 255 - images[1:2]
        images[2:3] *= 0.2
    return batches


@torch.no_grad()
def kept(model, images):
    data = dict(inputs=list(torch.from_numpy(np.ascontiguousarray(images[:, ::-1]))), data_samples=None)
    return small.shares(model, model.data_preprocessor(data)['inputs'])


@pytest.mark.parametrize('kind', KINDS)
def test_one_file_for_all_sizes_and_batches(kind, bccd_root):
    """Traced with two images of 256x320, 80 keys and whole chunks; here are odd sides, more keys, and ragged chunks."""
    detector = small.small_detector(kind)
    batches = batches_of(bccd_root, ((120, 160), 1), ((203, 301), 3), ((320, 416), 2))
    if kind != 'spdmixer':
        numbers = [kept(detector.model, images) for images in batches]
        assert max(numbers[1]) > 1.2 * min(numbers[1]), f'K differs in a batch: {numbers}'
        assert max(numbers[2]) > 80, 'more than there are in the traced graph'
    file = build_file(detector)
    result = check_batches(detector.model, file.SerializeToString(), batches)
    assert result.images == 6 and result.pairs == 120 and result.unpaired == 0
    assert result.scores < 1e-3 and result.boxes < 1e-2
    boxes, scores, labels = run(file, batches[1])
    assert len(set(labels.flat)) > 1 and scores.std() > 0.02 and boxes.std() > 10, 'classes and places are told apart'


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A config and a checkpoint of the small detector."""
    small.whole_config().dump(tmp_path / 'hsd.py')
    torch.save(dict(state_dict=small.small_detector().model.state_dict()), tmp_path / 'hsd.pth')
    return [str(tmp_path / 'hsd.py'), str(tmp_path / 'hsd.pth')]


def test_fixed_size_and_the_same_boxes_by_infer_from_both_files(files, tmp_path, bccd_root, capsys):
    """The test pipeline fixes the size; the command compares one image and three."""
    image = sorted((bccd_root / 'JPEGImages').glob('*.jpg'))[0]
    export([*files, '--out', str(tmp_path / 'hsd.onnx'), '--check', str(image)])
    said = capsys.readouterr().out
    assert '| input  | images | float32 | batch x 3 x 96 x 128 |' in said
    assert 'on 4 images: 80 detections agree, 0 have no counterpart' in said
    found = []
    for name, model in (('torch', files), ('onnx', [str(tmp_path / 'hsd.onnx')])):
        out = tmp_path / name
        infer([*model, str(image), '--out-dir', str(out), '--score-thr', '0.1', '--no-pictures'])
        content = json.loads((out / 'detections.json').read_text())
        assert [category['name'] for category in content['categories']] == list(small.CLASSES)
        found.append(content['annotations'])
    assert len(found[0]) == len(found[1]) > 10
    by_torch, by_onnx = (sorted([*row['bbox'], row['score'], row['category_id']] for row in rows) for rows in found)
    assert np.allclose(by_torch, by_onnx, atol=0.05)
    direct = detect_with_torch(small.small_detector().model, read_batch(bccd_root, (96, 128), 1))[0]
    assert max(row['score'] for row in found[0]) == pytest.approx(direct[1].max(), abs=0.01)


def test_another_models_checkpoint_gives_one_sentence(files, tmp_path, capsys):
    torch.save(dict(state_dict=small.small_detector('dsaifi').model.state_dict()), tmp_path / 'other.pth')
    with pytest.raises(SystemExit) as stop:
        export([files[0], str(tmp_path / 'other.pth'), '--out', str(tmp_path / 'other.onnx')])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and 'belongs to another model' in line and '--allow-partial' in line
    assert not (tmp_path / 'other.onnx').exists()
