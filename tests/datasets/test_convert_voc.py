"""PASCAL VOC XML to COCO json, on hand-made samples and on BCCD."""
import json

import numpy as np
import pytest
from PIL import Image

from mmscale.datasets.convert import BCCD_CLASSES, convert_voc

OBJECT = """  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
"""


def annotation(*objects, size=(60, 50)):
    head = f'<annotation>\n  <size><width>{size[0]}</width><height>{size[1]}</height></size>\n'
    return head + ''.join(OBJECT.format(name=name, box=box, difficult=difficult)
                          for name, box, difficult in objects) + '</annotation>\n'


@pytest.fixture
def root(tmp_path):
    """Two images of 60x50; the second has no object."""
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (tmp_path / folder).mkdir(parents=True)
    picture = Image.fromarray(np.zeros((50, 60, 3), np.uint8))
    picture.save(tmp_path / 'JPEGImages' / 'one.jpg')
    picture.save(tmp_path / 'JPEGImages' / 'two.png')
    (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('one\ntwo\n')
    objects = ('dog', (11, 21, 31, 41), 0), ('cat', (1, 1, 9, 5), 1)
    (tmp_path / 'Annotations' / 'one.xml').write_text(annotation(*objects))
    (tmp_path / 'Annotations' / 'two.xml').write_text(annotation())
    return tmp_path


def convert(root, **kwargs):
    summary = convert_voc(root, 'train', ('cat', 'dog'), **kwargs)
    return summary, json.loads(summary.path.read_text())


def set_xml(root, text):
    (root / 'Annotations' / 'one.xml').write_text(text)


def test_boxes_difficult_objects_and_an_empty_annotation(root):
    summary, coco = convert(root)
    assert summary.path == root / 'coco' / 'train.json'
    assert coco['images'] == [dict(id=1, file_name='one.jpg', width=60, height=50),
                              dict(id=2, file_name='two.png', width=60, height=50)]
    assert coco['annotations'] == [
        dict(id=1, image_id=1, category_id=2, bbox=[10, 20, 20, 20], area=400, iscrowd=0, difficult=0),
        dict(id=2, image_id=1, category_id=1, bbox=[0, 0, 8, 4], area=32, iscrowd=1, difficult=1),
    ]
    assert (summary.images, summary.images_without_objects, summary.boxes) == (2, 1, dict(cat=1, dog=1))


def test_inclusive_counts_the_corner_pixels(root):
    _, coco = convert(root, inclusive=True)
    assert [item['bbox'] for item in coco['annotations']] == [[10, 20, 21, 21], [0, 0, 9, 5]]


def test_pycocotools_neither_rewards_nor_punishes_difficult_objects(root):
    """One perfect detection of the difficult cat, one of the dog: AP counts the dog only."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    summary, coco = convert(root)
    truth = COCO(str(summary.path))
    found = truth.loadRes([dict(image_id=1, category_id=item['category_id'], bbox=item['bbox'], score=0.9)
                           for item in coco['annotations']])
    evaluation = COCOeval(truth, found, 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][0, :, :, 0, 2]  # IoU 0.5, recall, class, all areas, 100 detections
    assert precision[:, 1] == pytest.approx(1)  # dog
    assert (precision[:, 0] == -1).all()  # cat: no ground truth that counts


def test_degenerate_outside_and_clipped_boxes(root):
    set_xml(root, annotation(('dog', (5, 5, 5, 9), 0), ('dog', (9, 9, 5, 5), 0), ('dog', (70, 5, 80, 9), 0),
                             ('dog', (51, 41, 71, 61), 0)))
    with pytest.warns(UserWarning) as caught:
        summary, coco = convert(root)
    assert [item['bbox'] for item in coco['annotations']] == [[50, 40, 10, 10]]
    assert summary.counts == {'boxes without area, dropped': 2, 'boxes outside the image, dropped': 1,
                              'boxes clipped to the image': 1}
    assert len(caught) == 3 and any('one.xml, line 6' in str(warning.message) for warning in caught)


def test_an_unknown_class_is_named_or_skipped(root):
    set_xml(root, annotation(('dog', (1, 1, 9, 9), 0), ('cow', (1, 1, 9, 9), 0)))
    with pytest.raises(ValueError, match=r"one\.xml, line 9: class 'cow' is not among the classes \['cat', 'dog'\]"):
        convert(root)
    with pytest.warns(UserWarning, match=r'1 objects of other classes, skipped \(the first: .*one\.xml, line 9\)'):
        summary, _ = convert(root, skip_unknown=True)
    assert summary.boxes == dict(cat=0, dog=1)


GOOD = annotation(('dog', (11, 21, 31, 41), 0))


@pytest.mark.parametrize('text, message', [
    (GOOD[:150], r'one\.xml, line \d+: not well-formed XML'),
    ('', r'one\.xml, line 1: not well-formed XML \(no element found\)'),
    (GOOD.replace('<xmax>31</xmax>', ''), r'one\.xml, line 6: <bndbox> has no <xmax>'),
    (GOOD.replace('31', 'wide'), r"one\.xml, line 6: <xmax> must be a number, but is 'wide'"),
    (GOOD.replace('31', ''), r"one\.xml, line 6: <xmax> must be a number, but is ''"),
    (GOOD.replace('<name>dog</name>', ''), r'one\.xml, line 3: <object> has no <name>'),
    (GOOD.replace('<difficult>0', '<difficult>no'), r"one\.xml, line 5: <difficult> must be a number, but is 'no'"),
    (GOOD.replace('<width>60</width>', ''), r'one\.xml, line 2: <size> has no <width>'),
])
def test_malformed_xml_is_named(root, text, message):
    set_xml(root, text)
    with pytest.raises(ValueError, match=message):
        convert(root)
    assert not (root / 'coco').exists()


def test_the_image_rules_over_a_wrong_size(root):
    set_xml(root, annotation(('dog', (11, 21, 31, 41), 0), size=(600, 500)))
    with pytest.warns(UserWarning, match=r'1 annotations that state another size .*one\.xml, line 2'):
        _, coco = convert(root)
    assert (coco['images'][0]['width'], coco['images'][0]['height']) == (60, 50)


def test_size_and_difficult_may_be_absent(root):
    set_xml(root, GOOD.replace('<size><width>60</width><height>50</height></size>', '')
            .replace('<difficult>0</difficult>', ''))
    _, coco = convert(root)
    assert coco['annotations'][0]['difficult'] == 0


def test_parts_of_an_object_are_no_objects(root):
    part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>'
    set_xml(root, GOOD.replace('  </object>', f'{part}</object>'))
    assert len(convert(root)[1]['annotations']) == 1


def test_missing_files_are_named(root):
    with pytest.raises(FileNotFoundError, match=r"test\.txt' does not exist; splits found there: \['train'\]"):
        convert_voc(root, 'test', ('cat', 'dog'))
    (root / 'JPEGImages' / 'two.png').unlink()
    with pytest.raises(FileNotFoundError, match=r"image '.*two\.jpg' does not exist"):
        convert(root)
    (root / 'Annotations' / 'two.xml').unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt, line 2: 'two' has no annotation file"):
        convert(root)


@pytest.mark.parametrize('classes, error, message', [
    ((), ValueError, 'at least one name'),
    (('cat', 'dog', 'cat'), ValueError, r"\['cat'\] occur more than once"),
    ('cat', TypeError, "a list of names, but is the string 'cat'"),
])
def test_wrong_classes(root, classes, error, message):
    with pytest.raises(error, match=message):
        convert_voc(root, 'train', classes)


def test_bccd(bccd_root, tmp_path):
    """Counted with grep: 205 + 87 + 72 images, 4,888 objects, of which two have no area."""
    with pytest.warns(UserWarning, match='1 boxes without area, dropped .*BloodImage_00343'):
        train = convert_voc(bccd_root, 'train', BCCD_CLASSES, tmp_path / 'train.json')
    with pytest.warns(UserWarning, match='1 boxes without area, dropped .*BloodImage_00338'):
        val = convert_voc(bccd_root, 'val', BCCD_CLASSES, tmp_path / 'val.json')
    test = convert_voc(bccd_root, 'test', BCCD_CLASSES, tmp_path / 'test.json')
    assert [summary.images for summary in (train, val, test)] == [205, 87, 72]
    boxes = {name: sum(summary.boxes[name] for summary in (train, val, test)) for name in BCCD_CLASSES}
    assert boxes == dict(WBC=372, RBC=4153, Platelets=361)


def test_bccd_gives_the_boxes_that_mmdetection_reads(bccd_root, tmp_path):
    from mmdet.datasets import XMLDataset
    convert_voc(bccd_root, 'test', BCCD_CLASSES, tmp_path / 'test.json')
    coco = json.loads((tmp_path / 'test.json').read_text())
    read = XMLDataset(data_root=str(bccd_root), ann_file='ImageSets/Main/test.txt', data_prefix=dict(sub_data_root=''),
                      metainfo=dict(classes=BCCD_CLASSES), test_mode=True, pipeline=[])
    for position, image in enumerate(coco['images']):
        ours = [[item['category_id'] - 1, item['bbox'][0], item['bbox'][1], item['bbox'][0] + item['bbox'][2],
                 item['bbox'][1] + item['bbox'][3]] for item in coco['annotations'] if item['image_id'] == image['id']]
        theirs = [[item['bbox_label'], *item['bbox']] for item in read[position]['instances']]
        assert ours == theirs
