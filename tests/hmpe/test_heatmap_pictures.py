"""HMPE's heatmaps as pictures: the numbers behind them are the detector's, they lie where the image is; the command."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmscale.analysis.detector import Detector, Sample, load_detector, read_images
from mmscale.hmpe.heatmap_pictures import (
    Canvas,
    HeatmapEmbedding,
    LevelHeat,
    heat_table,
    heatmap_embedding,
    level_statistics,
    object_statistics,
    objects_with_queries,
    read_annotated,
    require_heatmaps,
)
from mmscale.hmpe.heatmap_pictures_command import main

from ..rtdetr import small

TOKENS, QUERIES, TAU = 20, 30, 0.5
HMPE = dict(
    type='mmscale.HMPE',
    neck__type='mmscale.HMPEEncoder',
    neck__aifi=None,
    neck__mohfe=dict(num_heads=4, feedforward_channels=64, max_tokens=TOKENS),
    heatmap_head=dict(channels=16, tau=TAU),
    hidq=True,
    bbox_head__type='mmscale.HMPEHead',
)
BOXES = [[40, 40, 80, 60], [100, 20, 30, 30]]  # (x, y, w, h) in an image of 160 x 120, which is halved
PIPELINE = [
    dict(type='mmscale.LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(80, 60), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder with two images, their annotations, and configs with checkpoints of small detectors."""
    root = tmp_path_factory.mktemp('heat')
    (root / 'images').mkdir()
    for index in range(2):
        image = small.images(1, (120, 160), seed=index)[0].permute(1, 2, 0).numpy()
        cv2.imwrite(str(root / f'images/{index}.png'), (255 * image).astype(np.uint8))
    annotations = [dict(id=i, image_id=0, category_id=i, bbox=box, area=1, iscrowd=0) for i, box in enumerate(BOXES)]
    categories = [dict(id=i, name=str(i)) for i in range(small.CLASSES)]
    files = [dict(id=i, file_name=f'{i}.png', height=120, width=160) for i in range(2)]
    (root / 'test.json').write_text(json.dumps(dict(images=files, annotations=annotations, categories=categories)))
    save(root, 'hmpe', **HMPE)
    save(root, 'queries', **{**HMPE, 'neck__mohfe': None, 'neck__aifi': dict(num_heads=4, feedforward_channels=64)})
    save(root, 'encoder', **{**HMPE, 'hidq': False})
    save(root, 'plain', type='mmscale.HMPE', neck__type='mmscale.HMPEEncoder', bbox_head__type='mmscale.HMPEHead')
    save(root, 'rtdetr')
    return root


def save(root, name, **changes):
    """A config and a checkpoint, with batch norms that know an image, so that the heat differs from place to place."""
    model = small.stirred(small.detector(**changes))
    small.calibrated(model, small.images(1, (96, 128)))
    torch.save(dict(state_dict=model.state_dict()), root / f'{name}.pth')
    dataset = dict(
        type='mmdet.CocoDataset',
        ann_file=str(root / 'test.json'),
        data_prefix=dict(img=str(root / 'images')),
        metainfo=dict(classes=tuple(map(str, range(small.CLASSES)))),
        test_mode=True,
        pipeline=PIPELINE,
    )
    cfg = dict(default_scope='mmscale', model=small.config(**changes), test_dataloader=dict(dataset=dataset))
    Config(cfg).dump(root / f'{name}.py')


def load(root, name='hmpe'):
    return load_detector(root / f'{name}.py', root / f'{name}.pth')


@pytest.fixture(scope='module')
def detector(root):
    return load(root)


@pytest.fixture(scope='module')
def sample(root, detector):
    return next(read_images(detector, root / 'images'))


def test_heat_and_queries_are_the_detectors(detector, sample):
    found = heatmap_embedding(detector, sample)
    with torch.no_grad():
        _, heat = detector.model.heat(sample.inputs)
    assert [(level.index, level.stride, level.mixed.shape) for level in found.levels] == [
        (0, 8, (8, 12)),
        (1, 16, (4, 6)),
        (2, 32, (2, 3)),
    ]
    for level, *maps in zip(found.levels, heat.classes, heat.boxes, heat.mixed, heat.mask, strict=True):
        for mine, theirs in zip((level.classes, level.boxes, level.mixed, level.mask), maps, strict=True):
            np.testing.assert_array_equal(mine, theirs[0, 0])
        np.testing.assert_array_equal(level.mask, level.mixed > TAU)
    masks = np.concatenate([level.mask.ravel() for level in found.levels])
    assert 0.2 < masks.mean() < 0.8  # the test has something to tell apart
    hot = np.concatenate([level.mixed.ravel() for level in found.levels])
    chosen = np.concatenate([level.mixed[tuple(level.queries.T)] for level in found.levels])
    np.testing.assert_array_equal(np.sort(chosen), np.sort(hot)[-QUERIES:])
    assert found.num_queries == QUERIES == sum(len({*map(tuple, level.queries)}) for level in found.levels)


def test_kept_encoding_is_what_the_attention_gets(detector, sample):
    found, seen = heatmap_embedding(detector, sample), []
    attention = detector.model.neck.mohfe.self_attn
    hook = attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    with torch.no_grad():
        detector.model.extract_feat(sample.inputs)
    hook.remove()
    located, _, heated = seen[0]
    position = (located - heated)[0].numpy()
    assert len(position) == TOKENS + TOKENS + 6
    for level in found.levels:
        places = np.argsort(-level.mixed, axis=None, kind='stable')[:TOKENS]
        flat = level.encoding.reshape(-1, level.encoding.shape[2])
        np.testing.assert_allclose(flat[places], position[: len(places)], atol=1e-5)
        position = position[len(places) :]
        attends = np.zeros(level.mixed.size, bool)
        attends[places] = True
        np.testing.assert_allclose(level.strength, level.mask & attends.reshape(level.mask.shape), atol=1e-6)
        assert not flat[~attends].any()


def test_waves_by_hand(detector, sample):
    level = heatmap_embedding(detector, sample).levels[0]
    row, column = np.argwhere(level.strength > 0.5)[-1]
    at = [(place + 0.5) / 4 - 0.5 for place in (row, column)]  # in cells of the coarsest level
    assert level.waves[row, column] == pytest.approx(sum(map(math.sin, at)) / 2, abs=1e-6)
    assert not level.waves[level.strength < 0.5].any()


def test_gradients_are_the_training_targets(root, detector):
    samples = list(read_annotated(detector))
    assert [len(each.data_samples[0].gt_instances) for each in samples] == [2, 0]
    boxes = samples[0].data_samples[0].gt_instances.bboxes
    assert boxes.tolist() == [[20, 20, 60, 50], [50, 10, 65, 25]]  # of the halved image
    head, found = detector.model.heatmap_head, heatmap_embedding(detector, samples[0], gradient=True)
    with torch.no_grad():
        maps, _ = detector.model.heat(samples[0].inputs)
    head.training = True  # the head alone: its batch norms stay as at inference
    targets = head(maps, samples[0].data_samples).supervision.targets
    head.eval()
    for level, target in zip(found.levels, targets, strict=True):
        np.testing.assert_allclose(level.gradients, target[0].numpy(), atol=1e-6)
    assert found.levels[0].gradients.max() == 1
    empty = heatmap_embedding(detector, samples[1], gradient=True)
    assert not any(level.gradients.any() for level in empty.levels)
    assert all(parameter.grad is None for parameter in detector.model.parameters())


def test_parts_that_there_are(root, sample):
    level = heatmap_embedding(load(root, 'queries'), sample, levels=[1]).levels[0]
    assert level.index == 1 and level.encoding is None and level.queries is not None and level.gradients is None
    found = heatmap_embedding(load(root, 'encoder'), sample)
    assert found.levels[0].encoding is not None and found.levels[0].queries is None and found.num_queries is None


def test_table(detector, sample):
    found = heatmap_embedding(detector, sample)
    rows = level_statistics(found)
    assert sum(row['queries'] for row in rows) == pytest.approx(1)
    part = heatmap_embedding(detector, sample, levels=[0])
    assert level_statistics(part) == rows[:1]  # shares are of the queries of all levels
    assert rows[1]['H_bbox'] == pytest.approx(found.levels[1].boxes.mean())
    assert rows[0]['mask'] == found.levels[0].mask.mean()
    assert rows[0]['encoding'] * 96 == pytest.approx((found.levels[0].strength > 0).sum())
    twice = heat_table([rows, [{**row, 'H_class': row['H_class'] + 0.1} for row in rows]]).splitlines()
    heading = [cell.strip() for cell in twice[0].strip('|').split('|')]
    assert heading == ['level', 'stride', 'positions', 'H_class', 'H_bbox', 'H_mixed', 'mask', 'encoding', 'queries']
    assert float(twice[2].split('|')[4]) == pytest.approx(rows[0]['H_class'] + 0.05, abs=6e-4)


def test_statistics_of_objects_by_hand(sample):
    owners = np.array([[0, 0, -1], [1, -1, -1]])
    heat = np.array([[0.9, 0.7, 0.1], [0.2, 0.3, 0.2]])
    gradients = np.stack((np.array([[1.0, 0.0, 0.0], [0.8, 0.1, 0.2]]), np.zeros((2, 3))))
    level = LevelHeat(0, 8, heat, heat / 2, heat, heat > 0.25, None, np.array([[0, 0], [1, 1]]), gradients, owners)
    empty = replace(level, index=1, owners=np.full((2, 3), -1), queries=np.zeros((0, 2), int), gradients=0 * gradients)
    sample = replace(sample, data_samples=[DetDataSample(gt_instances=InstanceData(labels=torch.zeros(3)))])
    found = HeatmapEmbedding(sample, [level, empty], TAU, num_queries=2)
    first, second = object_statistics(found)
    assert first['H_class inside'] == pytest.approx(0.6) and first['H_class outside'] == pytest.approx(0.2)
    assert first['H_bbox inside'] == pytest.approx(0.3) and first['H_class gradient inside'] == pytest.approx(0.6)
    assert first['mask inside'] == pytest.approx(2 / 3) and first['mask outside'] == pytest.approx(1 / 3)
    assert math.isnan(second['H_class inside'])
    assert '66.7%' in heat_table([[first], [second]])  # the image without an object does not count
    assert objects_with_queries(found) == (3, 1, 2)  # the third object has no position


def test_panels_lie_in_pixels_of_the_original():
    meta = dict(ori_shape=(60, 80), scale_factor=(0.5, 2.0), pad_param=(10.0, 6.0, 4.0, 20.0))
    sample = Sample('a', torch.zeros(1, 3, 160, 64), [DetDataSample(metainfo=meta)], np.zeros((136, 64, 3), np.uint8))
    canvas = Canvas(sample, 0.5)
    assert (canvas.width, canvas.height) == (80, 60)
    assert canvas.move(4, 10) == (0, 0)  # where the image begins behind its padding
    assert canvas.move(44, 130) == (80, 60)
    sample.data_samples = [DetDataSample(metainfo=dict(ori_shape=(60, 80)))]  # without the scale: what is made of it
    canvas = Canvas(sample, 0.5)
    assert (canvas.width, canvas.height) == (64, 136) and canvas.move(64, 136) == (64, 136)


def test_require_heatmaps(root, detector):
    assert require_heatmaps(detector) == [0, 1, 2] and require_heatmaps(detector, [2, 0, 2]) == [0, 2]
    for levels in ([3], [0, -1]):
        with pytest.raises(ValueError, match=rf'names level {levels[-1]}, but the detector has levels 0 to 2'):
            require_heatmaps(detector, levels)
    other = Detector(detector.cfg, torch.nn.Identity(), '')
    with pytest.raises(ValueError, match='builds Identity, which has no heatmaps'):
        require_heatmaps(other)


def test_command(root, tmp_path, capsys):
    common = [str(root / 'hmpe.py'), str(root / 'hmpe.pth')]
    main([*common, str(root / 'images'), '--out', str(tmp_path / 'a'), '--levels', '1', '--stretch'])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [str(tmp_path / f'a/{index}.png') for index in range(2)]
    assert "hmpe, weights of 'hmpe.pth'; 2 images, tau 0.5" in printed
    assert printed[-1].split()[1:4:2] == ['1', '16']
    plain = cv2.imread(str(tmp_path / 'a/0.png')).shape
    assert plain[1] > 1500 and plain[0] > 200
    main([*common, '--gradient', '--max-images', '1', '--out', str(tmp_path / 'b'), '--levels', '0'])
    printed = capsys.readouterr().out
    assert 'H_class gradient' in printed and 'Within objects and outside' in printed and 'objects have' not in printed
    main([*common, '--gradient', '--max-images', '1', '--out', str(tmp_path / 'c')])
    assert 'objects have a query at a position of theirs; by gradients' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'b').iterdir()] == ['0.png']
    assert cv2.imread(str(tmp_path / 'b/0.png')).shape[1] > plain[1] * 1.2  # two columns more


def test_mistakes(root, tmp_path, capsys):
    def says(*argv, name='hmpe', weights=None):
        out = ['--out', str(tmp_path / 'out')]
        with pytest.raises(SystemExit) as stop:
            main([str(root / f'{name}.py'), str(root / f'{weights or name}.pth'), *map(str, argv), *out])
        assert stop.value.code == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        return told[0]

    images = root / 'images'
    assert 'builds RTDETR, which has no heatmaps: mmscale.HMPE has them' in says(images, name='rtdetr')
    assert 'an HMPE without heatmaps: its model.heatmap_head is None' in says(images, name='plain')
    assert 'belongs to another model' in says(images, weights='rtdetr')
    assert 'levels=[3] names level 3' in says(images, '--levels', 3)
    assert 'IMAGES is missing' in says()
    assert 'leave' in says(images, '--gradient')
    assert '--max-images 0' in says(images, '--max-images', 0)
    assert '--strength 2' in says(images, '--strength', 2)
    assert 'should end in one of' in says(images, '--format', 'doc')
    (tmp_path / 'empty').mkdir()
    assert "empty' has no image" in says(tmp_path / 'empty')
    assert 'does not exist' in says(tmp_path / 'absent')
    assert not (tmp_path / 'out').exists()
    content = (images / '0.png').read_bytes()
    (tmp_path / 'empty/broken.png').write_bytes(content[:200])
    assert "broken.png' is cut off" in says(tmp_path / 'empty')
    (tmp_path / 'out').write_text('')
    assert 'is a file; it should be a folder' in says(images)


def test_annotations_must_be_in_the_pipeline(detector):
    cfg = detector.cfg.copy()
    cfg.test_dataloader.dataset.pipeline = [step for step in PIPELINE if 'Annotations' not in step['type']]
    with pytest.raises(ValueError, match='loads no annotations'):
        next(read_annotated(Detector(cfg, detector.model, '')))
    assert [step.type for step in detector.cfg.test_dataloader.dataset.pipeline][1] == 'mmdet.Resize'  # as it was
