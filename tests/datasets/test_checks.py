"""What all data sets check."""
import pytest

from mmscale.datasets.checks import BoxReport, check_class_type, check_classes_overlap, check_not_empty


def test_boxes_are_kept_dropped_and_clipped():
    report = BoxReport()
    assert report.fit([1, 2, 30, 40], 64, 48, 'a') == [1, 2, 30, 40]
    assert report.fit([5, 5, 5, 9], 64, 48, 'b') is None, 'zero width'
    assert report.fit([9, 5, 5, 9], 64, 48, 'b') is None, 'negative width'
    assert report.fit([5, 5, 5.5, 9], 64, 48, 'c') is None, 'half a pixel'
    assert report.fit([float('nan'), 0, 9, 9], 64, 48, 'd') is None
    assert report.fit([70, 5, 80, 9], 64, 48, 'e') is None, 'wholly outside'
    assert report.fit([-20, 5, 0, 9], 64, 48, 'e') is None, 'touches the border from outside'
    assert report.fit([-5, 40, 10, 60], 64, 48, 'f') == [0, 40, 10, 48]
    assert report.fit([0, 0, 64.6, 48], 64, 48, 'g') == [0, 0, 64, 48], 'rounding is clipped without being counted'
    assert (report.total, report.degenerate, report.outside, report.clipped) == (9, 4, 2, 1)
    message = report.message('train.json')
    assert "'train.json': of 9 boxes 6 dropped (4 of zero" in message and '2 outside' in message
    assert message.endswith('1 clipped to the image; first found in b, c, d')


def test_one_pixel_is_one_pixel_in_floating_point():
    """7.2 + 1 - 7.2 and the like are above or below 1 by rounding."""
    assert 7.2 + 1 - 7.2 < 1 and 64.1 - 63.1 < 1
    report = BoxReport()
    assert report.fit([7.2, 5, 7.2 + 1, 9], 640, 480, 'a') is not None
    assert report.fit([5, 63.1, 9, 65], 640, 64.1, 'a') is not None, 'one pixel is left inside'
    assert report.dropped == 0


def test_nothing_to_report():
    report = BoxReport()
    report.fit([0, 0, 64, 48], 64, 48, 'a')
    assert report.message('train.json') is None


def test_a_forgotten_comma_is_found():
    with pytest.raises(TypeError, match=r"is the string 'UAV'; write a tuple, \('UAV',\)"):
        check_class_type('UAV', 'CocoDataset')


@pytest.mark.parametrize('classes', [None, (), (1, 2)])
def test_classes_have_to_be_names(classes):
    with pytest.raises(TypeError, match='non-empty tuple of class names'):
        check_class_type(classes, 'CocoDataset')


def test_a_class_named_twice_is_found():
    with pytest.raises(ValueError, match=r"\('car'\) more than once"):
        check_class_type(('car', 'bus', 'car'), 'CocoDataset')


def test_both_lists_are_in_the_message():
    with pytest.raises(ValueError, match=r"classes \('cat'\) occurs in 'a.json', which has \('disk', 'square'\)"):
        check_classes_overlap(('cat', ), ('disk', 'square'), 'a.json')
    check_classes_overlap(('cat', 'disk'), ('disk', 'square'), 'a.json')
    check_classes_overlap(('cat', ), (), 'a.json')


def test_no_image_left():
    with pytest.raises(ValueError, match="'train.txt' lists no image"):
        check_not_empty([], 0, 'train.txt', None)
    with pytest.raises(ValueError, match=r"no image of 'train.txt' is left of 3: filter_cfg=\{'min_size': 99\}"):
        check_not_empty([], 3, 'train.txt', dict(min_size=99))
