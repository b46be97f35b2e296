"""Data sets whose images are mixed: what MMYOLO's transforms find, and that nobody else is disturbed by it."""

import pickle
from copy import deepcopy

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from mmscale.datasets import CityscapesDataset, CocoDataset, VOCDataset
from mmscale.registry import HAS_MMYOLO

from .tiny import voc_xml, write_coco, write_voc

needs_mmyolo = pytest.mark.skipif(not HAS_MMYOLO, reason='mmyolo, whose transforms mix images, is not installed')
CLASSES = ('red', 'green', 'blue')
SIZE = (64, 48)  # width, height; of the images and of what becomes of them
LOAD = [dict(type='mmscale.LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True)]
MOSAIC = [
    dict(type='mmyolo.Mosaic', img_scale=SIZE, pad_val=114.0, pre_transform=LOAD),
    dict(
        type='mmyolo.YOLOv5RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        scaling_ratio_range=(0.5, 1.5),
        border=(-SIZE[0] // 2, -SIZE[1] // 2),
        border_val=(114, 114, 114),
    ),
]
MIXUP = [dict(type='mmyolo.YOLOv5MixUp', prob=1.0, pre_transform=[*LOAD, *MOSAIC])]
PACK = [dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'))]
IMAGES = 6


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Six gray images, each with a square of its class's colour, as COCO and as VOC; a seventh without one."""
    root, boxes, annotations, texts = tmp_path_factory.mktemp('mixing'), [], [], {}
    for number in range(IMAGES + 1):
        x, y, label = 4 + 5 * number, 3 + 2 * number, number % 3
        image = np.full((SIZE[1], SIZE[0], 3), 114, np.uint8)
        if number < IMAGES:
            image[y : y + 20, x : x + 20] = 0
            image[y : y + 20, x : x + 20, 2 - label] = 255  # BGR
            boxes.append([x, y, 20, 20])
            annotations.append(dict(image_id=number, category_id=label + 1, bbox=boxes[-1]))
            texts[str(number)] = voc_xml([(CLASSES[label], x + 1, y + 1, x + 20, y + 20)])
        else:
            texts[str(number)] = voc_xml()
        for folder in ('coco', 'JPEGImages'):
            (root / folder).mkdir(exist_ok=True)
            assert cv2.imwrite(str(root / folder / f'{number}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    write_coco(root / 'train.json', [dict(id=number) for number in range(IMAGES + 1)], annotations, CLASSES)
    write_voc(root, texts, with_images=False)
    return root


def options(kind, root) -> dict:
    """Of a data set of either kind, its pipeline excepted."""
    common = dict(data_root=str(root), metainfo=dict(classes=CLASSES), filter_cfg=dict(filter_empty_gt=False))
    if kind is VOCDataset:
        return dict(ann_file='ImageSets/Main/train.txt', **common)
    return dict(ann_file='train.json', data_prefix=dict(img='coco/'), **common)


def build(kind, root, pipeline=(), **more):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return kind(pipeline=deepcopy(list(pipeline)), **{**options(kind, root), **more})


@pytest.mark.parametrize('kind', [CocoDataset, VOCDataset])
def test_a_data_info_carries_the_data_set_in_training_only(kind, root):
    dataset = build(kind, root)
    assert len(dataset) == IMAGES + 1
    info = dataset[2]
    assert info['img_path'].endswith('2.jpg') and len(info['dataset']) == len(dataset)
    assert info['dataset'].get_data_info(3) == dataset.get_data_info(3)
    assert 'dataset' not in dataset.get_data_info(2), 'of that call only'
    test = build(kind, root, test_mode=True)
    assert 'dataset' not in test[2] and test[2]['img_path'] == info['img_path']


def test_a_part_of_a_joined_data_set_carries_itself(root):
    """Of two concatenated sets, each mixes its own images."""
    coco, voc = (dict(type=f'mmscale.{kind.__name__}', pipeline=[], **options(kind, root))
                 for kind in (CocoDataset, VOCDataset))  # fmt: skip
    with DefaultScope.overwrite_default_scope('mmdet'):
        joined = DATASETS.build(
            dict(
                type='RepeatDataset',
                times=2,
                dataset=dict(type='mmdet.ConcatDataset', datasets=[coco, voc], ignore_keys='dataset_type'),
            )
        )
    assert len(joined) == 4 * (IMAGES + 1)
    files = [joined[place]['dataset'].ann_file.rpartition('.')[2] for place in (0, IMAGES + 1, 2 * IMAGES + 2)]
    assert files == ['json', 'txt', 'json']
    assert issubclass(CityscapesDataset, CocoDataset)


def check_colours(data, faint):
    """Every box lies in the image and has its label's colour in the middle; gives the number of boxes."""
    image, truth = data['inputs'].numpy(), data['data_samples'].gt_instances
    boxes, labels = truth.bboxes.tensor.numpy(), truth.labels.numpy()
    assert image.shape == (3, SIZE[1], SIZE[0]) and len(boxes) == len(labels)
    assert boxes.min(initial=0) >= 0 and (boxes[:, 2:] <= SIZE).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        pixel = image[::-1, int((y1 + y2) / 2), int((x1 + x2) / 2)].astype(int)  # RGB
        others = np.delete(pixel, label)
        if faint:  # the half of another image lies on it: gray, or a square of another colour
            assert pixel[label] >= others.min() + 60
        else:
            assert pixel[label] > 180 and others.max() < 80
    return len(boxes)


@needs_mmyolo
@pytest.mark.parametrize('kind', [CocoDataset, VOCDataset])
@pytest.mark.parametrize('mixes', [MOSAIC, [*MOSAIC, *MIXUP]], ids=['mosaic', 'mixup'])
def test_boxes_and_labels_stay_with_their_objects(kind, mixes, root):
    dataset = build(kind, root, [*LOAD, *mixes, *PACK])
    np.random.seed(0)
    items = [dataset[index] for _ in range(4) for index in range(IMAGES + 1)]
    counts = [check_colours(data, faint=len(mixes) > len(MOSAIC)) for data in items]
    assert max(counts) >= 3 and sum(counts) > (25 if mixes is MOSAIC else 50), 'four images a mosaic, some cut off'
    for data in items:
        assert set(data) == {'inputs', 'data_samples'} and 'dataset' not in data['data_samples'].metainfo


@needs_mmyolo
def test_mosaic_on_real_cells(bccd_root):
    """BCCD in its own size, with MixUp: boxes inside, labels of its classes, an area that can be seen."""
    size = (160, 128)
    mosaic, affine = (dict(step) for step in MOSAIC)
    mosaic['img_scale'], affine['border'] = size, (-size[0] // 2, -size[1] // 2)
    mixup = dict(MIXUP[0], pre_transform=[*LOAD, mosaic, affine])
    more = dict(metainfo=dict(classes=('RBC', 'WBC', 'Platelets')), indices=8)
    dataset = build(VOCDataset, bccd_root, [*LOAD, mosaic, affine, mixup, *PACK], **more)
    np.random.seed(0)
    for index in range(4):
        data = dataset[index]
        truth = data['data_samples'].gt_instances
        boxes = truth.bboxes.tensor.numpy()
        assert data['inputs'].shape == (3, size[1], size[0]) and len(boxes) > 10
        assert boxes.min() >= 0 and (boxes[:, 2:] <= size).all() and (boxes[:, 2:] - boxes[:, :2]).min() > 0
        assert set(truth.labels.tolist()) <= {0, 1, 2}


@needs_mmyolo
@pytest.mark.parametrize('kind', [CocoDataset, VOCDataset])
def test_workers_and_pickles(kind, root):
    """A worker that is spawned gets a pickle."""
    dataset = build(kind, root, [*LOAD, *MOSAIC, *MIXUP, *PACK])
    again = pickle.loads(pickle.dumps(dataset))
    first, second = [], []
    for found, source in ((first, dataset), (second, again)):
        np.random.seed(1)
        found.extend(source[index] for index in range(3))
    assert all((one['inputs'] == other['inputs']).all() for one, other in zip(first, second, strict=True))
    assert pickle.loads(pickle.dumps(build(kind, root)[0]))['dataset'].data_prefix == dataset.data_prefix

    loader = mixed_loader(root, kind)
    batches = list(loader)
    assert [len(batch['inputs']) for batch in batches] == [2, 2, 2, 1]
    for batch in batches:
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            check_colours(dict(inputs=image, data_samples=sample), faint=False)


def mixed_loader(root, kind=CocoDataset):
    """Two workers that start anew every epoch, as in all of this project's configs."""
    dataset = dict(type=f'mmscale.{kind.__name__}', pipeline=[*LOAD, *MOSAIC, *PACK], **options(kind, root))
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Runner.build_dataloader(
            dict(
                batch_size=2,
                num_workers=2,
                persistent_workers=False,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=deepcopy(dataset),
            ),
            seed=5,
        )


@needs_mmyolo
def test_every_epoch_draws_anew(root):
    loader = mixed_loader(root)
    first, second = ([image for batch in loader for image in batch['inputs']] for _ in range(2))
    assert not any((one == other).all() for one, other in zip(first, second, strict=True))


# MMDetection's own way ------------------------------------------------------------------------------------------------


class Uncopied:
    """Fails where somebody copies the data set, with all its annotations, for every image."""

    def __reduce_ex__(self, protocol):
        raise AssertionError('the data set is copied')


class WatchedCoco(Uncopied, CocoDataset):
    pass


class WatchedMMDet(Uncopied, MMDetCocoDataset):
    pass


@pytest.mark.parametrize('kind', [WatchedMMDet, WatchedCoco], ids=['theirs', 'ours'])
@pytest.mark.parametrize('way', ['MultiImageMixDataset', 'CachedMosaic'])
def test_mmdetections_own_mosaic_copies_images_and_not_the_data_set(kind, way, root):
    """YOLOX's and RTMDet's: they copy what an image brings along."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        if way == 'CachedMosaic':
            mixed = build(kind, root, [*LOAD, dict(type='mmdet.CachedMosaic', img_scale=SIZE), *PACK])
        else:
            mixed = DATASETS.build(
                dict(
                    type='mmdet.MultiImageMixDataset',
                    dataset=build(kind, root, LOAD),
                    pipeline=[dict(type='mmdet.Mosaic', img_scale=SIZE), *PACK],
                )
            )
    np.random.seed(0)
    batch = pseudo_collate([mixed[index] for index in range(IMAGES)])
    assert max(len(sample.gt_instances) for sample in batch['data_samples']) >= 3
