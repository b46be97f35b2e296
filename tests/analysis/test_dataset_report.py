"""The data set report: sizes, faults and leaks counted by hand on tiny data sets, wrappers, detectors, BCCD."""

import json
import random

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmscale.analysis.dataset_report import dataset_report, to_markdown
from mmscale.analysis.dataset_report.blank import BlankPipeline
from mmscale.analysis.dataset_report.command import main
from mmscale.analysis.dataset_report.detector import find_levels, find_limits, find_strides
from mmscale.analysis.dataset_report.faults import AnnotatedImage, find_faults
from mmscale.analysis.dataset_report.files import difference_hash
from tests.datasets.tiny import voc_xml, write_coco, write_voc

CLASSES = ('disk', 'square')
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
TWICE = dict(type='Resize', scale=(128, 96), keep_ratio=True)  # doubles an image of 64x48
STEPS = [*LOAD, TWICE, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
MODEL = dict(type='FCOS', bbox_head=dict(type='FCOSHead', strides=[8, 16, 32, 64, 128]), test_cfg=dict(max_per_img=3))


def write_noise(path, seed, size=(48, 64)):
    """An image of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def dataset(root, split, pipeline=STEPS, **kwargs) -> dict:
    return dict(
        dict(
            type='mmscale.CocoDataset',
            ann_file=str(root / f'{split}.json'),
            data_prefix=dict(img=str(root / 'images')),
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline,
        ),
        **kwargs,
    )


def config(model=MODEL, **datasets) -> Config:
    loaders = {f'{split}_dataloader': dict(dataset=data) for split, data in datasets.items()}
    return Config(dict(default_scope='mmdet', model=model, **loaders))


@pytest.fixture
def coco(tmp_path):
    """Training images 1 to 4 (4 without an object, 3 a copy of 2), test images 5 and 6 (6 a copy of 1)."""
    annotations = [
        dict(image_id=1, category_id=1, bbox=[0, 0, 3, 20]),  # 6 x 40 when doubled
        dict(image_id=1, category_id=1, bbox=[10, 10, 3, 4]),  # 6 x 8, root of the area 6.9
        dict(image_id=1, category_id=1, bbox=[20, 20, 16, 16]),
        dict(image_id=1, category_id=1, bbox=[20, 20, 4, 4]),  # 8 x 8, a whole cell
        dict(image_id=2, category_id=2, bbox=[0, 0, 40, 40]),
        dict(image_id=2, category_id=1, bbox=[5, 5, 9, 0]),
        dict(image_id=3, category_id=1, bbox=[0, 0, 9, 9], iscrowd=1),
        dict(image_id=3, category_id=2, bbox=[1, 1, 0.5, 9]),
    ]
    write_coco(tmp_path / 'train.json', [dict(id=key) for key in (1, 2, 3, 4)], annotations)
    write_coco(tmp_path / 'test.json', [dict(id=5), dict(id=6, width=48, height=64)], [
        dict(image_id=5, category_id=1, bbox=[0, 0, 10, 10])])  # fmt: skip
    for key, seed in ((1, 1), (2, 2), (3, 2), (4, 4), (5, 5), (6, 1)):
        write_noise(tmp_path / 'images' / f'{key}.jpg', seed)
    return tmp_path


def test_sizes_against_strides(coco):
    content = dataset_report(config(train=dataset(coco, 'train', filter_cfg=dict(filter_empty_gt=True)))).content
    train = content['splits']['train']
    assert content['detector']['strides'] == [8, 16, 32, 64, 128]
    assert train['images'] == dict(listed=4, kept=3, looked_at=3, without_objects=1, kept_without_objects=0)
    assert train['original']['objects'] == train['resized']['objects'] == 5 and train['ignored'] == 1
    assert [train['original'][key] for key in ('small', 'medium', 'large')] == [4, 1, 0]
    assert [train['resized'][key] for key in ('small', 'medium', 'large')] == [3, 2, 0]
    rows = {row['stride']: (row['min_side'], row['sqrt_area']) for row in train['strides']}
    assert rows == {1: (0, 0), 4: (0, 0), 8: (2, 1), 16: (3, 3), 32: (3, 3), 64: (4, 4), 128: (5, 5)}
    assert train['resize']['images'] == [dict(height=96, width=128, number=3)] and not train['resize']['random']
    sentence = (
        'train: 2 of 5 objects (40.0 %) are thinner than one stride-8 cell after resizing, 1 (20.0 %) are smaller than '
        'one in area; the finest level of this detector has stride 8'
    )
    assert sentence in content['look_at']
    assert 'train: 1 of 4 images without an object; filter_cfg leaves them out' in content['look_at']


def test_classes_and_limits(coco):
    content = dataset_report(config(train=dataset(coco, 'train'), test=dataset(coco, 'train', test_mode=True))).content
    train, test = content['splits']['train'], content['splits']['test']
    assert [(row['objects'], row['images']) for row in train['classes']] == [(4, 1), (1, 1)] and train['imbalance'] == 4
    assert train['crowding']['limits'] == [], 'max_per_img does not matter in training'
    assert test['crowding']['limits'] == [
        dict(name='model.test_cfg.max_per_img', value=3, per='image', images=1, most=4)]  # fmt: skip
    assert test['crowding']['objects_per_image']['max'] == 4 and test['crowding']['without_objects'] == 2
    assert 'test: 1 image with more objects than model.test_cfg.max_per_img = 3 per image; the most is 4' in (
        content['look_at'])  # fmt: skip


def test_faults_leaks_and_sizes_of_files(coco):
    content = dataset_report(config(train=dataset(coco, 'train'), test=dataset(coco, 'test', test_mode=True))).content
    faults = {kind: items for kind, items in content['splits']['train']['faults'].items() if items}
    assert faults == {
        'zero area': [dict(image='2.jpg', box=[5.0, 5.0, 14.0, 5.0], label='disk')],
        'thin': [dict(image='3.jpg', box=[1.0, 1.0, 1.5, 10.0], label='square')],
    }
    assert content['copies']['same file'] == [
        dict(splits=['train', 'test'], images=dict(train=['1.jpg'], test=['6.jpg'])),
        dict(splits=['train'], images=dict(train=['2.jpg', '3.jpg'])),
    ]
    assert content['copies']['same look'] == []
    assert content['splits']['test']['files']['sizes'] == [
        dict(image='6.jpg', file=[64, 48], annotated=[48, 64], swapped=True)]  # fmt: skip
    assert content['look_at'][:3] == [
        '1 image in both train and test, the same file: train/1.jpg = test/6.jpg',
        'train: 1 image more than once, the same file: train/2.jpg = train/3.jpg',
        'test: 1 image with width and height swapped in the annotations: 6.jpg is 64x48, annotated as 48x64',
    ]


def test_unreadable_files(coco):
    images = coco / 'images'
    (images / '1.jpg').unlink()
    (images / '2.jpg').write_bytes(b'')
    (images / '3.jpg').write_bytes((images / '4.jpg').read_bytes()[:-40])
    (images / '4.jpg').write_bytes(b'GIF89a')
    content = dataset_report(config(train=dataset(coco, 'train'))).content
    faults = {item['image']: item['fault'] for item in content['splits']['train']['files']['unreadable']}
    assert faults == {'1.jpg': 'does not exist', '2.jpg': 'is empty', '3.jpg': 'is cut off',
                      '4.jpg': 'cannot be decoded'}  # fmt: skip
    assert any('4 of 4 image files cannot be used: 1.jpg does not exist' in line for line in content['look_at'])


def test_an_image_that_was_stored_anew_looks_the_same(coco):
    rows, columns = np.mgrid[:8, :9]
    cells = (columns * 97 + rows * 31) % 251  # neighbours differ by 97 or -154
    pixels = np.kron(cells, np.ones((6, 7)))[..., None].repeat(3, axis=2).astype(np.uint8)
    cv2.imwrite(str(coco / 'images' / '5.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    cv2.imwrite(str(coco / 'images' / '4.jpg'), pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    content = dataset_report(config(train=dataset(coco, 'train'), test=dataset(coco, 'test'))).content
    assert content['copies']['same look'] == [
        dict(splits=['train', 'test'], images=dict(train=['4.jpg'], test=['5.jpg']))]  # fmt: skip
    assert difference_hash(pixels) != difference_hash(pixels[:, ::-1])


@pytest.mark.parametrize(('box', 'kind'), [
    ((5, 5, 5, 9), 'zero area'), ((9, 5, 5, 9), 'zero area'), ((5, 5, 5.9, 9), 'thin'), ((5, 5, 6, 6), None),
    ((70, 5, 80, 9), 'outside'), ((63.5, 5, 80, 9), 'outside'), ((-9, 5, 5, 9), 'cut'), ((-1, 5, 5, 9), None),
    ((5, 5, 65, 49), None), ((5, 5, float('nan'), 9), 'not finite')])  # fmt: skip
def test_kinds_of_faults(box, kind):
    found = find_faults([AnnotatedImage('a', 'a', 64, 48, [(*box, 'disk')])])
    assert [name for name, items in found.items() if items] == ([kind] if kind else [])


def test_faults_are_json_without_nan():
    found = find_faults([AnnotatedImage('a', 'a', 64, 48, [(5, 5, float('nan'), 9, 'disk')])])
    assert json.loads(json.dumps(found, allow_nan=False))['not finite'][0]['box'] == [5, 5, None, 9]


def test_an_empty_data_set_of_mmdetection(tmp_path):
    """One sentence, where MMEngine breaks on an array without parts."""
    path = write_coco(tmp_path / 'train.json', [], [])
    empty = dict(type='RepeatDataset', times=2, dataset=dataset(tmp_path, 'train', type='CocoDataset'))
    with pytest.raises(ValueError, match=f"CocoDataset with ann_file='{path}' has no image"):
        dataset_report(config(train=empty))


def test_boxes_that_come_twice():
    box = (5, 5, 9, 9)
    image = AnnotatedImage('a', 'a', 64, 48, [(*box, 'disk')] * 3 + [(*box, 'square'), (6, 5, 9, 9, 'disk')])
    found = find_faults([image, AnnotatedImage('b', 'b', 64, 48, [(*box, 'disk')])])
    assert {kind: len(items) for kind, items in found.items() if items} == {'twice': 2, 'two classes': 1}


def test_wrapped_data_sets(coco):
    """Repeats are looked at once, parts of a whole together; Mosaic really runs, on blank images."""
    part = dataset(coco, 'train')
    both = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=5, dataset=part), part])
    content = dataset_report(config(train=both), read_images=False).content
    train = content['splits']['train']
    assert train['images']['listed'] == 8 and train['resized']['objects'] == 10
    assert train['resize']['wrappers'] == ['RepeatDataset'] and len(train['faults']['zero area']) == 2
    mosaic = dict(type='Mosaic', img_scale=(100, 100), pad_val=114.0)
    unknown = dict(type='Albu', transforms=[])
    mixed = dict(
        type='MultiImageMixDataset', dataset=dataset(coco, 'train', LOAD), pipeline=[mosaic, unknown, *STEPS[3:]]
    )
    entry = dataset_report(config(train=mixed), read_images=False, draws=2).content['splits']['train']
    assert entry['resize'] == dict(steps=['Mosaic'], unknown=['Albu'], wrappers=[], random=True, draws=2,
                                   images=[dict(height=200, width=200, number=4)])  # fmt: skip
    assert entry['resized']['objects'] > entry['original']['objects'] == 5, 'a mosaic has the objects of four images'


def test_random_resizing_is_repeatable(coco):
    steps = [*LOAD, dict(type='RandomChoiceResize', scales=[(64, 48), (128, 96)], keep_ratio=True)]
    cfg = config(train=dataset(coco, 'train', steps))
    np.random.seed(3)
    random.seed(3)
    before = np.random.rand(), random.random()
    np.random.seed(3)
    random.seed(3)
    first = dataset_report(cfg, read_images=False, draws=20, seed=1).content
    assert (np.random.rand(), random.random()) == before, 'the generators are left as they were'
    assert dataset_report(cfg, read_images=False, draws=20, seed=1).content == first
    train = first['splits']['train']
    below = next(row for row in train['strides'] if row['stride'] == 4)
    assert 0 < below['min_side'] < 2, 'two objects are 3 pixels thin in one of the two sizes'
    assert train['resized']['objects'] == 5 and len(train['resize']['images']) == 2
    assert 'means of 20 draws' in to_markdown(first)


def test_a_sample_of_the_images(coco):
    content = dataset_report(config(train=dataset(coco, 'train')), max_images=2, seed=5).content
    assert content == dataset_report(config(train=dataset(coco, 'train')), max_images=2, seed=5).content
    train = content['splits']['train']
    assert train['images']['looked_at'] == train['files']['read'] == 2 and train['images']['listed'] == 4
    assert len(train['faults']['zero area']) == 1, 'annotation files are read whole'
    empty = [line for line in content['look_at'] if 'have no object' in line]
    assert empty and empty[0].startswith('train, 2 of 4 images: '), 'a class may be on the other two'


def test_equal_splits_are_looked_at_once(coco):
    test = dataset(coco, 'test', test_mode=True)
    content = dataset_report(config(train=dataset(coco, 'train'), val=test, test=test), read_images=False).content
    assert list(content['splits']) == ['train', 'val+test']


def test_test_pipelines_that_load_annotations_after_resizing(coco):
    steps = [LOAD[0], TWICE, LOAD[1], dict(type='PackDetInputs')]
    content = dataset_report(config(test=dataset(coco, 'test', steps, test_mode=True)), read_images=False).content
    assert content['splits']['test']['resized']['sqrt_area']['max'] == 20
    steps = BlankPipeline().convert(steps)
    assert [str(step['type']).split('.')[-1].strip("'>") for step in steps] == [
        'BlankImage',
        'LoadAnnotations',
        'Resize',
    ]


@pytest.mark.parametrize('kind', ['mmscale.VOCDataset', 'XMLDataset'])
def test_voc_files(tmp_path, kind):
    """Coordinates count from 0; MMDetection's own data set too, which keeps the box of zero area."""
    write_voc(tmp_path, {'a': voc_xml([('disk', 1, 1, 21, 21), ('disk', 5, 5, 5, 9), ('cat', 1, 1, 9, 9)]),
                         'b': voc_xml([('square', 9, 9, 29, 29, 1)])}, 'train')  # fmt: skip
    extra = dict(ignore_unknown_classes=True) if kind.startswith('mmscale') else {}
    data = dict(type=kind, data_root=str(tmp_path), ann_file='ImageSets/Main/train.txt', pipeline=STEPS,
                data_prefix=dict(sub_data_root=''), metainfo=dict(classes=CLASSES), **extra)  # fmt: skip
    train = dataset_report(config(train=data)).content['splits']['train']
    assert train['faults']['zero area'] == [dict(image='a.jpg', box=[4.0, 4.0, 4.0, 8.0], label='disk')]
    assert train['resized']['sqrt_area']['max'] == 40 and train['ignored'] == 1
    assert train['resized']['objects'] == (1 if extra else 2) and not any(
        train['files'][key] for key in ('sizes', 'unreadable')
    )


def test_mmdetections_coco_data_set(coco):
    data = dataset(coco, 'train', type='CocoDataset')
    train = dataset_report(config(train=data), read_images=False).content['splits']['train']
    assert len(train['faults']['thin']) == len(train['faults']['zero area']) == 1
    assert train['resized']['objects'] == 5 and train['ignored'] == 1


def anchors(strides, scale) -> dict:
    return dict(type='AnchorGenerator', scales=[scale], ratios=[1.0], strides=strides)


def test_strides_limits_and_levels_of_detectors():
    two_stage = config(dict(
        type='FasterRCNN',
        rpn_head=dict(type='RPNHead', anchor_generator=anchors([4, 8, 16], 8)),
        roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[4, 8, 16])),
        test_cfg=dict(rpn=dict(max_per_img=1000), rcnn=dict(max_per_img=50))))  # fmt: skip
    assert find_strides(two_stage) == ([4, 8, 16], 'model.rpn_head.anchor_generator.strides')
    assert find_strides(two_stage, [32, 2]) == ([2, 32], 'given')
    two_stage.test_evaluator = [dict(type='CocoMetric'), dict(type='mmscale.DetectionMetric',
                                                              protocols=('visdrone', 'voc07'))]  # fmt: skip
    assert [(limit.value, limit.per_class) for limit in find_limits(two_stage)] == [
        (50, False),
        (100, True),
        (500, False),
    ]
    sizes = np.array([[32, 32], [64, 64], [20, 20], [111, 111], [112, 112], [500, 500], [50, 50]], dtype=float)
    rpn, roi = find_levels(two_stage, sizes)
    assert rpn.level.tolist() == [0, 1, 0, 2, 2, 2, 1], 'the best of 32, 64 and 128 pixels by IoU of shapes'
    assert roi.level.tolist() == [0, 0, 0, 0, 1, 2, 0], 'up to 112, 224, above'
    (fcos,) = find_levels(config(), np.array([[128, 10], [129, 10], [10, 300], [2000, 9]], dtype=float))
    assert fcos.level.tolist() == [0, 1, 2, 4], "half the longer side against FCOSHead's default ranges"
    detr = config(dict(type='DETR', num_queries=7, bbox_head=dict(type='DETRHead')))
    (limit,) = find_limits(detr)
    assert (limit.value, limit.trains) == (7, True) and find_levels(detr, sizes) == []
    with pytest.raises(ValueError, match='could not be measured .* give them with --strides'):
        find_strides(detr)
    with pytest.raises(ValueError, match='should be positive'):
        find_strides(detr, [0, 8])


def test_strides_that_no_config_has(one_stage):
    cfg = Config.fromfile(one_stage)
    del cfg.model.bbox_head.type
    cfg.model.bbox_head.update(type='FCOSHead')
    strides, source = find_strides(cfg)
    assert strides == [8, 16, 32, 64, 128] and source.startswith('measured on a blank image of 256')


def test_the_command(coco, capsys):
    path = coco / 'config.py'
    config(train=dataset(coco, 'train'), test=dataset(coco, 'test')).dump(path)
    main([str(path), '--json', str(coco / 'out' / 'a.json'), '--plots', str(coco / 'plots')])
    text = capsys.readouterr().out
    assert text.startswith(f'# Data of {path}') and '- 1 image in both train and test' in text
    assert '|       | a stride-8 cell                     |            2 |  40.0 % |          1 |  20.0 % |' in text
    content = json.loads((coco / 'out' / 'a.json').read_text())
    assert content['look_at'] and to_markdown(content) == text[:-1], 'nothing is lost in the JSON'
    assert sorted(file.name for file in (coco / 'plots').iterdir()) == [
        'classes.png', 'objects_per_image.png', 'sizes.png']  # fmt: skip
    main(
        [
            str(path),
            '--out',
            str(coco / 'report.md'),
            '--splits',
            'test',
            '--no-files',
            '--strides',
            '4',
            '--max-images',
            '1',
        ]
    )
    assert not capsys.readouterr().out and '## Look at' in (coco / 'report.md').read_text()


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--draws', '0'], 'draws=0 should be a whole number from 1'),
    (['--max-images', '0'], 'max_images=0 should be a whole number from 1'),
    (['--splits', 'val'], "has no data set: none of val_dataloader"),
    (['--cfg-options', 'train_dataloader.dataset.ann_file=gone.json'], "annotation file 'gone.json' does not exist"),
])  # fmt: skip
def test_mistakes(coco, capsys, arguments, message):
    path = coco / 'config.py'
    config(train=dataset(coco, 'train')).dump(path)
    with pytest.raises(SystemExit) as caught:
        main([str(path), *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and error.startswith('error: ') and message in error


def test_bccd(bccd_root, repo, monkeypatch):
    """Its two boxes of zero area, and nothing else that is broken."""
    monkeypatch.chdir(repo)
    content = dataset_report(repo / 'configs' / 'fine' / 'fcos_r18_fpn_2e_bccd.py').content
    found = [(name, kind, item['image']) for name, split in content['splits'].items()
             for kind, items in split['faults'].items() for item in items]  # fmt: skip
    assert found == [('train', 'zero area', 'BloodImage_00343.jpg'), ('val', 'zero area', 'BloodImage_00338.jpg')]
    assert {name: split['images']['kept'] for name, split in content['splits'].items()} == dict(
        train=205, val=87, test=72
    )
    assert not any(content['copies'].values())
    assert not any(split['files'][key] for split in content['splits'].values() for key in ('sizes', 'unreadable'))
    assert content['splits']['train']['resize']['images'] == [dict(height=240, width=320, number=205)]
