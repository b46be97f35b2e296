"""VOC-format data sets: what they mend and what they complain about."""
import numpy as np
import pytest
from mmdet.datasets import VOCDataset as MMDetVOCDataset

from mmscale.datasets import VOCDataset

from .tiny import voc_xml, write_voc

CLASSES = dict(classes=('RBC', 'WBC'))


def build(root, **kwargs):
    return VOCDataset(data_root=str(root), ann_file='ImageSets/Main/train.txt', serialize_data=False,
                      metainfo=kwargs.pop('metainfo', CLASSES), **kwargs)


@pytest.fixture
def warned(monkeypatch):
    """The warnings that data sets log."""
    messages = []
    monkeypatch.setattr('mmscale.datasets.checks.print_log', lambda message, **_: messages.append(message))
    return messages


def test_reads_as_mmdetection_does(tmp_path):
    write_voc(tmp_path, {
        'a': voc_xml([('RBC', 1, 2, 30, 40), ('WBC', 5.7, 6, 20, 48, 1)]), 'b': voc_xml(),
        'c': voc_xml([('WBC', 10, 10, 14, 30)])})
    kwargs = dict(data_root=str(tmp_path), ann_file='ImageSets/Main/train.txt', metainfo=CLASSES, serialize_data=False,
                  data_prefix=dict(sub_data_root=''), filter_cfg=dict(bbox_min_size=5, filter_empty_gt=True))
    ours = VOCDataset(**kwargs)
    assert ours.data_list == MMDetVOCDataset(**kwargs).data_list
    assert [info['img_id'] for info in ours.data_list] == ['a', 'c']
    assert [i['ignore_flag'] for info in ours.data_list for i in info['instances']] == [0, 1, 1]
    assert ours.data_list[0]['instances'][1]['bbox'] == [4, 5, 19, 47]


def test_boxes_are_mended_with_one_warning(tmp_path, warned):
    write_voc(tmp_path, {
        'a': voc_xml([('RBC', 1, 2, 30, 40), ('WBC', 5, 6, 5, 6)]),
        'b': voc_xml([('RBC', 100, 2, 130, 40), ('WBC', 50, 30, 80, 90)])})
    dataset = build(tmp_path)
    boxes = [[i['bbox'] for i in dataset.get_data_info(index)['instances']] for index in range(2)]
    assert boxes == [[[0, 1, 29, 39]], [[49, 29, 64, 48]]]
    assert len(warned) == 1
    assert 'of 4 boxes 2 dropped (1 of zero' in warned[0] and '1 clipped' in warned[0] and 'a.xml, b.xml' in warned[0]


def test_unknown_class_is_an_error_unless_wanted(tmp_path):
    write_voc(tmp_path, {'a': voc_xml([('RBC', 1, 2, 9, 9)]), 'b': voc_xml([('RBC', 1, 2, 3, 4), ('wbc', 1, 2, 9, 9)])})
    with pytest.raises(ValueError, match=r"b.xml', line 4: class 'wbc' .* \('RBC', 'WBC'\); add it, or set ignore_"):
        build(tmp_path)
    assert len(build(tmp_path, ignore_unknown_classes=True).get_data_info(1)['instances']) == 1


def test_classes_that_match_nothing(tmp_path):
    write_voc(tmp_path, {'a': voc_xml([('rbc', 1, 2, 30, 40)])})
    for ignore in (False, True):
        with pytest.raises(ValueError, match=r"\('RBC', 'WBC'\) occurs in '.*train.txt', which has \('rbc'\)"):
            build(tmp_path, ignore_unknown_classes=ignore)


@pytest.mark.parametrize('text', ['', ' \n', voc_xml(), voc_xml(size=None)])
def test_an_annotation_without_objects_is_an_image_without_objects(tmp_path, text):
    info = build(write_voc(tmp_path, {'a': text})).get_data_info(0)
    assert (info['width'], info['height'], info['instances']) == (64, 48, [])


def test_a_size_of_zero_is_read_from_the_image(tmp_path):
    info = build(write_voc(tmp_path, {'a': voc_xml([('RBC', 1, 1, 9, 9)], size=(0, 0))})).get_data_info(0)
    assert (info['width'], info['height']) == (64, 48)


@pytest.mark.parametrize(('text', 'message'), [
    ('<annotation>\n<object>\n</annotation>', "a.xml', line 3: broken XML .mismatched tag"),
    ('<annotation>\n', "a.xml', line 2: broken XML .no element found"),
    (voc_xml(extra='<object><name>RBC</name></object>'), "a.xml', line 3: the object 'RBC' has no bndbox"),
    (voc_xml([('RBC', 1, 2, 'x', 40)]), "a.xml', line 3: <xmax> should hold a number, but holds 'x'"),
    (voc_xml([('RBC', 1, 2, '', 40)]), 'line 3: <xmax> should hold a number, but holds None'),
    (voc_xml([('RBC', 1, 2, 'nan', 40)]), "line 3: <xmax> should hold a number, but holds 'nan'"),
    (voc_xml([('RBC', 1, 2, 8, 40, 'no')]), "line 3: <difficult> should hold a number, but holds 'no'"),
    (voc_xml(extra='<object><name>RBC</name><bndbox><xmin>1</xmin></bndbox></object>'), '3: <bndbox> has no <ymin>'),
])
def test_broken_annotations_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        build(write_voc(tmp_path, {'a': text}))


def test_missing_files(tmp_path):
    write_voc(tmp_path, {'a': voc_xml(), 'b': voc_xml()})
    (tmp_path / 'Annotations' / 'b.xml').unlink()
    with pytest.raises(FileNotFoundError, match=r"b.xml' does not exist .*; line 2 of '.*train.txt' lists it"):
        build(tmp_path)
    (tmp_path / 'ImageSets/Main/train.txt').unlink()
    with pytest.raises(FileNotFoundError, match="list of images '.*train.txt' does not exist"):
        build(tmp_path)


def test_nothing_left(tmp_path):
    write_voc(tmp_path, {'a': voc_xml()})
    with pytest.raises(ValueError, match='is left of 1: filter_cfg'):
        build(tmp_path, filter_cfg=dict(filter_empty_gt=True))
    (tmp_path / 'ImageSets/Main/train.txt').write_text('\n\n')
    with pytest.raises(ValueError, match='lists no image'):
        build(tmp_path)


def test_a_single_class_without_comma(tmp_path):
    with pytest.raises(TypeError, match="is the string 'RBC'"):
        build(write_voc(tmp_path, {'a': voc_xml()}), metainfo=dict(classes='RBC'))


def test_bccd_has_no_degenerate_box(bccd_root, warned):
    dataset = VOCDataset(data_root=str(bccd_root), ann_file='ImageSets/Main/trainval.txt',
                         metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    boxes = np.array([i['bbox'] for info in infos for i in info['instances']])
    assert len(infos) == 292 and (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 640 and boxes[:, 3].max() <= 480
    assert dataset.box_report.degenerate == 2 and len(warned) == 1
    assert 'BloodImage_00338.xml' in warned[0] and 'BloodImage_00343.xml' in warned[0]
