"""The generated small-object set: same bytes for a seed, true boxes, and nothing half made or overwritten."""
import hashlib
import json
import os
import runpy

import cv2
import numpy as np
import pytest

from mmscale.datasets.draw import CLASSES, MAX_EXTENT, Shape, _place_objects, draw_scene
from mmscale.datasets.generate import SmallObjects, generate

SMALL = dict(images_train=6, images_val=3, size=160, objects=(2, 4))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'small_objects'
    assert generate(root, **SMALL)
    return root


def load(root, split='train'):
    return json.loads((root / 'annotations' / f'{split}.json').read_text())


def digest(root):
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_and_annotations(root):
    assert sorted(path.name for path in root.iterdir()) == ['annotations', 'generator.json', 'train', 'val']
    for split, count in (('train', 6), ('val', 3)):
        coco = load(root, split)
        assert [category['name'] for category in coco['categories']] == list(CLASSES)
        assert [category['id'] for category in coco['categories']] == [1, 2, 3, 4]
        assert len(coco['images']) == len(list((root / split).iterdir())) == count
        assert len({item['id'] for item in coco['annotations']}) == len(coco['annotations'])
        for image in coco['images']:
            assert cv2.imread(str(root / split / image['file_name'])).shape == (160, 160, 3)
            boxes = [item['bbox'] for item in coco['annotations'] if item['image_id'] == image['id']]
            assert 2 <= len(boxes) <= 4
            for x, y, w, h in boxes:
                assert min(x, y) >= 0 and max(x + w, y + h) <= 160
                assert min(w, h) > 5 and max(w, h) <= MAX_EXTENT


def test_box_and_area_agree_with_the_polygon(root):
    for item in load(root)['annotations']:
        polygon = np.array(item['segmentation'][0]).reshape(-1, 2)
        x, y, w, h = item['bbox']
        assert np.concatenate([polygon.min(0), polygon.max(0)]) == pytest.approx([x, y, x + w, y + h], abs=0.011)
        assert item['area'] == pytest.approx(cv2.contourArea(polygon.astype(np.float32)), rel=1e-3)
        assert item['iscrowd'] == 0


def test_pycocotools_agrees_with_the_areas(root):
    from pycocotools.coco import COCO
    coco = COCO(str(root / 'annotations' / 'train.json'))
    for item in coco.loadAnns(coco.getAnnIds()):
        pixels = int(coco.annToMask(item).sum())
        assert pixels == pytest.approx(item['area'], rel=0.2, abs=8)


def test_the_painted_pixels_are_the_boxes(monkeypatch):
    """On flat ground without clutter, blur and noise, what differs from the ground is exactly the annotated box."""
    ground = np.full((160, 160, 3), 90, np.float32)
    monkeypatch.setattr('mmscale.datasets.draw._draw_ground', lambda rng, size: ground.copy())
    monkeypatch.setattr('mmscale.datasets.draw._draw_clutter', lambda rng, canvas: None)
    monkeypatch.setattr('mmscale.datasets.draw._NOISE', 0.0)
    monkeypatch.setattr('cv2.GaussianBlur', lambda image, *args: image)
    seen = set()
    for seed in range(12):
        image, shapes = draw_scene(np.random.default_rng(seed), 160, 3)
        drawn = np.abs(image.astype(int) - 90).max(-1) > 12
        for shape in shapes:
            seen.add(shape.label)
            x1, y1, x2, y2 = shape.box
            window = np.zeros_like(drawn)
            window[max(0, int(y1) - 1):int(y2) + 2, max(0, int(x1) - 1):int(x2) + 2] = True
            rows, columns = np.nonzero(drawn & window)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert found == pytest.approx(shape.box, abs=1.2)
            assert (drawn & window).sum() == pytest.approx(shape.area, rel=0.35)
        assert drawn.sum() > 0
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize('polygon, area', [
    ([[0, 0], [4, 0], [4, 3], [0, 3]], 12),
    ([[0, 0], [4, 0], [0, 3]], 6),
])
def test_area_and_box_by_hand(polygon, area):
    shape = Shape(0, np.array(polygon, float))
    assert shape.area == area and shape.box == (0, 0, 4, 3)


def test_objects_do_not_overlap():
    for seed in range(20):
        shapes = _place_objects(np.random.default_rng(seed), 160, 6)
        assert len(shapes) > 2
        for i, first in enumerate(shapes):
            for second in shapes[:i]:
                a, b = first.box, second.box
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_most_objects_are_small_some_are_medium():
    scenes = [_place_objects(np.random.default_rng(seed), 320, 8) for seed in range(100)]
    areas = np.array([shape.area for shapes in scenes for shape in shapes])
    assert 0.85 < (areas < 32**2).mean() < 0.99 and (areas < 96**2).all()


def test_same_seed_same_bytes_other_seed_other_pictures(root, tmp_path):
    assert generate(tmp_path / 'again', **SMALL)
    assert digest(tmp_path / 'again') == digest(root)
    assert generate(tmp_path / 'other', **SMALL, seed=1)
    assert not set(digest(tmp_path / 'other').values()) & set(digest(root).values())


def test_a_larger_set_begins_with_the_smaller_one(root, tmp_path):
    generate(tmp_path / 'more', **dict(SMALL, images_train=8))
    first, more = load(root), load(tmp_path / 'more')
    assert more['annotations'][:len(first['annotations'])] == first['annotations']
    assert (tmp_path / 'more' / 'train' / '000003.jpg').read_bytes() == (root / 'train' / '000003.jpg').read_bytes()


def test_two_percent_of_the_images_are_empty(tmp_path):
    generate(tmp_path / 'set', images_train=76, images_val=1, size=96, objects=(1, 1))
    coco = load(tmp_path / 'set')
    empty = {image['id'] for image in coco['images']} - {item['image_id'] for item in coco['annotations']}
    assert empty == {26, 76}


def test_a_complete_set_is_reused(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert not generate(root, **SMALL)
    assert not generate(root, **SMALL, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


def test_other_parameters_need_overwrite(tmp_path):
    root = tmp_path / 'set'
    generate(root, **SMALL)
    before = digest(root)
    with pytest.raises(FileExistsError, match=r'other parameters, seed 0 \(wanted: 5\): give --overwrite'):
        generate(root, **SMALL, seed=5)
    assert digest(root) == before
    assert generate(root, **SMALL, seed=5, overwrite=True)
    assert digest(root) != before and [path.name for path in tmp_path.iterdir()] == ['set']


def test_a_damaged_set_is_named_and_mended(tmp_path):
    root = tmp_path / 'set'
    generate(root, **SMALL)
    before = digest(root)
    (root / 'train' / '000001.jpg').unlink()
    with pytest.raises(FileExistsError, match='is damaged .files are missing.: give --overwrite'):
        generate(root, **SMALL)
    assert generate(root, **SMALL, overwrite=True) and digest(root) == before


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path, overwrite):
    (tmp_path / 'thesis.txt').write_text('three years of work')
    with pytest.raises(FileExistsError, match='was not made by this generator'):
        generate(tmp_path, **SMALL, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'set').mkdir()
    assert generate(tmp_path / 'set', **SMALL)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def explode(*args):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr('mmscale.datasets.generate.draw_scene', explode)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / 'set', **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_brings_the_old_set_back(tmp_path, monkeypatch):
    root = tmp_path / 'set'
    generate(root, **SMALL)
    before, rename = digest(root), os.rename

    def refuse(source, target):
        if str(source).endswith('.tmp'):
            raise PermissionError('no')
        rename(source, target)

    monkeypatch.setattr('os.rename', refuse)
    with pytest.raises(PermissionError):
        generate(root, **SMALL, seed=1, overwrite=True)
    assert digest(root) == before and [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('change, error, message', [
    (dict(images_train=0), ValueError, 'images_train and images_val must be at least 1, but are 0 and 60'),
    (dict(images_val=2.5), TypeError, 'images_val must be an integer, but is 2.5'),
    (dict(size=95), ValueError, 'size must lie between 96 and 4096 pixels, but is 95'),
    (dict(seed=-1), ValueError, 'seed must not be negative, but is -1'),
    (dict(objects=(3, )), ValueError, r'objects must be two numbers, fewest and most per image, but is \(3,\)'),
    (dict(objects=(5, 3)), ValueError, r'fewest <= most, from 1 to 18 .which a 320 pixel image has room for., but is'),
    (dict(objects=(3, 19)), ValueError, r'but is \(3, 19\)'),
    (dict(objects=(0, 3)), ValueError, r'but is \(0, 3\)'),
    (dict(objects=(1, 'x')), TypeError, "objects must be an integer, but is 'x'"),
])
def test_wrong_parameters(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        generate(tmp_path / 'set', **change)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(repo, tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'data' / 'generate.py'))['main']
    arguments = ['generate.py', '--root', str(tmp_path / 'set'), '--images-train', '2', '--images-val', '1',
                 '--size', '128', '--objects', '1', '2']
    monkeypatch.setattr('sys.argv', arguments)
    assert main() == 0 and '2 + 1 images made' in capsys.readouterr().out
    assert main() == 0 and 'there already' in capsys.readouterr().out
    monkeypatch.setattr('sys.argv', [*arguments, '--seed', '3'])
    assert main() == 1 and 'error: ' in capsys.readouterr().err


def test_the_defaults_of_function_and_parameters_agree():
    import inspect
    signature = inspect.signature(generate).parameters
    for name, value in vars(SmallObjects()).items():
        assert signature[name].default == value
