import pytest
import torch

from mmscale.layers.levels import check_widths, checked_levels


def test_levels():
    assert checked_levels('SENeck', None, 3) == [0, 1, 2]
    assert checked_levels('SENeck', (0, 2), 3) == [0, 2]


@pytest.mark.parametrize(
    'levels, count, message',
    [
        (None, 0, r'in_channels=\[\] of SENeck names no map'),
        ([], 3, r'levels=\[\] of SENeck leaves no map of 3; leave the module out instead'),
        ([0, 3], 3, r'levels=\[0, 3\] of SENeck names level 3, but in_channels has the levels 0 to 2'),
        ([-1], 3, r'levels=\[-1\] of SENeck names level -1'),
        ([1, 0], 3, r'levels=\[1, 0\] of SENeck should be ascending, each level once'),
        ([1, 1], 3, r'levels=\[1, 1\] of SENeck should be ascending, each level once'),
    ],
)
def test_levels_that_do_not_exist(levels, count, message):
    with pytest.raises(ValueError, match=message) as caught:
        checked_levels('SENeck', levels, count)
    assert '\n' not in str(caught.value)


def test_widths():
    maps = [torch.rand(1, 4, 3, 3), torch.rand(1, 8, 2, 2)]
    check_widths('SENeck', maps, (4, 8))
    with pytest.raises(ValueError, match=r'SENeck got maps with \[4, 8\] channels, but in_channels=\[4\]'):
        check_widths('SENeck', maps, [4])
    with pytest.raises(ValueError, match=r'SENeck got maps with \[4, 8\] channels, but in_channels=\[8, 4\]'):
        check_widths('SENeck', maps, [8, 4])
