"""COCO-format data sets: what they mend and what they complain about."""
import json
import re

import pytest
from mmdet.datasets import CocoDataset as MMDetCocoDataset

from mmscale.datasets import CityscapesDataset, CocoDataset

from .tiny import write_coco

CLASSES = dict(classes=('disk', 'square'))


def build(path, **kwargs):
    return CocoDataset(ann_file=str(path), metainfo=kwargs.pop('metainfo', CLASSES), data_prefix=dict(img='img'),
                       serialize_data=False, **kwargs)


def box(image=1, category=1, bbox=(5, 5, 10, 10), **extra):
    return dict(image_id=image, category_id=category, bbox=list(bbox), **extra)


@pytest.fixture
def warned(monkeypatch):
    """The warnings that data sets log."""
    messages = []
    monkeypatch.setattr('mmscale.datasets.checks.print_log', lambda message, **_: messages.append(message))
    return messages


def test_reads_as_mmdetection_does(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=7), dict(id=3), dict(id=9)], [
        box(7, 2, (1, 2, 10, 20)), box(3, 1, (4, 4, 8, 8), iscrowd=1), box(7, 1, segmentation=[[1, 1, 9, 1, 9, 9]]),
        box(3, 2, (1, 1, 5, 5), ignore=1)])
    kwargs = dict(ann_file=str(path), metainfo=CLASSES, data_prefix=dict(img='img'), serialize_data=False)
    assert CocoDataset(**kwargs).data_list == MMDetCocoDataset(**kwargs).data_list
    kwargs['filter_cfg'] = dict(filter_empty_gt=True)
    assert [info['img_id'] for info in CocoDataset(**kwargs).data_list] == [7, 3]


def test_boxes_are_mended_with_one_warning(tmp_path, warned):
    path = write_coco(tmp_path / 'a.json', [dict(id=1), dict(id=2)], [
        box(1), box(1, bbox=(5, 5, 0, 9)), box(2, bbox=(70, 5, 9, 9)), box(2, bbox=(60, 40, 20, 20))])
    dataset = build(path)
    assert [i['bbox'] for i in dataset.get_data_info(0)['instances']] == [[5, 5, 15, 15]]
    assert [i['bbox'] for i in dataset.get_data_info(1)['instances']] == [[60, 40, 64, 48]]
    assert len(warned) == 1
    assert 'of 4 boxes 2 dropped' in warned[0] and '1 clipped' in warned[0] and 'in 1.jpg, 2.jpg' in warned[0]


def test_a_sound_file_gives_no_warning(tmp_path, warned):
    build(write_coco(tmp_path / 'a.json', [dict(id=1)], [box()]))
    assert not warned


def test_labels_follow_the_classes_by_name(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box(category=1), box(category=2)])
    dataset = build(path, metainfo=dict(classes=('square', 'disk')))
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [1, 0]


def test_images_without_objects_work(tmp_path):
    dataset = build(write_coco(tmp_path / 'a.json', [dict(id=1), dict(id=2)], []))
    assert len(dataset) == 2 and dataset.get_data_info(1)['instances'] == []


def test_ignored_regions_are_kept(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1, ignored_regions=[[0, 0, 9, 9]])], [box()])
    assert build(path).get_data_info(0)['ignored_regions'] == [[0, 0, 9, 9]]


def test_an_area_of_zero_does_not_lose_a_sound_box(tmp_path):
    assert len(build(write_coco(tmp_path / 'a.json', [dict(id=1)], [box(area=0)])).get_data_info(0)['instances']) == 1


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="annotation file '.*none.json' does not exist"):
        build(tmp_path / 'none.json')


def test_classes_that_match_nothing(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box()])
    with pytest.raises(ValueError, match=r"\('cat', 'dog'\) occurs in '.*a.json', which has \('disk', 'square'\)"):
        build(path, metainfo=dict(classes=('cat', 'dog')))


def test_unknown_class_is_an_error_unless_wanted(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box(), box(category=2), box(category=2)])
    with pytest.raises(ValueError, match=r"2 objects of the classes \('square'\).* classes \('disk'\).*ignore_unknown"):
        build(path, metainfo=dict(classes=('disk', )))
    dataset = build(path, metainfo=dict(classes=('disk', )), ignore_unknown_classes=True)
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [0]


def test_a_category_without_objects_is_no_error(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box()], categories=('disk', 'square', 'others'))
    assert len(build(path)) == 1


@pytest.mark.parametrize(('change', 'message'), [
    (lambda a: a.update(image_id=99), "annotation 1 belongs to image id 99, which the file's 1"),
    (lambda a: a.update(category_id=99), r"annotation 1 has category_id 99, .* \{1: 'disk', 2: 'square'\}"),
    (lambda a: a.update(bbox=[1, 2, 3]), r'annotation 1 has the bbox \[1, 2, 3\]; four numbers'),
    (lambda a: a.update(bbox=['1', 2, 3, 4]), 'annotation 1 has the bbox'),
    (lambda a: a.pop('bbox'), r"annotation 1 lacks \('bbox'\)"),
])
def test_broken_annotations_are_named(tmp_path, change, message):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box()])
    content = json.loads(path.read_text())
    change(content['annotations'][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        build(path)


def test_ids_used_twice(tmp_path):
    with pytest.raises(ValueError, match='image id 1 is used twice'):
        build(write_coco(tmp_path / 'a.json', [dict(id=1), dict(id=1)], []))
    with pytest.raises(ValueError, match='annotation 5 has an id that is used twice'):
        build(write_coco(tmp_path / 'b.json', [dict(id=1)], [box(id=5), box(id=5)]))


def test_two_categories_of_one_name(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box(category=2)], categories=('disk', 'disk'))
    assert build(path, metainfo=dict(classes=('disk', ))).cat2label == {2: 0}, 'the one that is used'
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box(category=1), box(category=2)], ('disk', 'disk'))
    with pytest.raises(ValueError, match=r"2 categories that are all named 'disk' \(ids \[1, 2\]\)"):
        build(path, metainfo=dict(classes=('disk', )))


@pytest.mark.parametrize(('text', 'message'), [
    ('', r'is empty \(0 bytes\)'),
    ('{"images": [],\n "categories": [{"id": 1,', r"a.json', line 2, column 26: broken JSON .*cut off"),
    ('{"images": []}', r"should be a COCO file .* but has \['images'\]"),
    ('[]', 'should be a COCO file .* but has list'),
    ('{"images": [{"id": 1, "width": 4, "height": 4}], "categories": []}', r"image number 1 lacks \('file_name'\)"),
    ('{"images": {}, "categories": []}', 'the image list should be a list, but is a dict'),
    ('{"images": [], "categories": [], "annotations": []}', 'lists no image'),
])
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        build(path)
    assert re.search(re.escape(str(path)), str(error.value))


def test_nothing_left_after_the_filter(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1)], [box(bbox=(5, 5, 0, 5))])
    with pytest.raises(ValueError, match=r"is left of 1: filter_cfg=\{'filter_empty_gt': True\}"):
        build(path, filter_cfg=dict(filter_empty_gt=True))
    assert len(build(path, filter_cfg=dict(filter_empty_gt=True), test_mode=True)) == 1


def test_cityscapes_leaves_out_images_of_crowds(tmp_path):
    path = write_coco(tmp_path / 'a.json', [dict(id=1), dict(id=2)], [box(1, iscrowd=1), box(2)], ('person', ))
    dataset = CityscapesDataset(ann_file=str(path), data_prefix=dict(img=''), filter_cfg=dict(filter_empty_gt=True),
                               serialize_data=False)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [2]
    assert len(dataset.metainfo['classes']) == 8


def test_a_box_one_pixel_wide_is_kept(tmp_path):
    """Neither our check nor MMDetection's takes the rounding of x + w - x for a thinner box."""
    assert 7.2 + 1 - 7.2 < 1
    path = write_coco(tmp_path / 'a.json', [dict(id=1, width=640)], [
        dict(image_id=1, category_id=1, bbox=[7.2, 5, 1, 9])])
    dataset = CocoDataset(ann_file=str(path), metainfo=dict(classes=('disk', 'square')), data_prefix=dict(img=''))
    instance, = dataset.get_data_info(0)['instances']
    assert instance['bbox'] == pytest.approx([7.2, 5, 8.2, 14]) and dataset.box_report.dropped == 0
