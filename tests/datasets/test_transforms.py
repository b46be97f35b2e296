"""Loading images: what is an error, and what is not."""
import time

import mmcv
import numpy as np
import pytest

from mmscale.datasets import LoadImageFromFile
from mmscale.datasets.transforms import is_cut_off

from .tiny import write_image


def load(path, **kwargs):
    return LoadImageFromFile(**kwargs).transform(dict(img_path=str(path)))


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp'])
def test_loads_what_mmcv_loads(tmp_path, suffix):
    path = write_image(tmp_path / f'a{suffix}')
    results = load(path)
    np.testing.assert_array_equal(results['img'], mmcv.imread(str(path)))
    assert results['img_shape'] == results['ori_shape'] == (48, 64)
    assert load(path, to_float32=True)['img'].dtype == np.float32


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="image '.*none.jpg' does not exist"):
        load(tmp_path / 'none.jpg')


def test_empty(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match=r"image '.*a.jpg' is empty \(0 bytes\)"):
        load(tmp_path / 'a.jpg')


def test_no_image(tmp_path):
    (tmp_path / 'a.jpg').write_text('<html>not found</html>')
    with pytest.raises(ValueError, match=r"a.jpg' cannot be decoded by 'cv2': its 22 bytes start with b'<html"):
        load(tmp_path / 'a.jpg')


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('share', [0.3, 0.6, 0.99])
def test_cut_off(tmp_path, suffix, share):
    path = write_image(tmp_path / f'a{suffix}')
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(ValueError, match=f"image '.*a{suffix}' is cut off: its end marker is missing"):
        load(path)
    assert load(path, ignore_empty=True) is None


def test_bytes_after_the_image_are_no_fault(tmp_path):
    path = write_image(tmp_path / 'a.jpg')
    path.write_bytes(path.read_bytes() + b'\0' * 5000)
    assert load(path)['img_shape'] == (48, 64)


def test_the_end_of_a_thumbnail_is_not_the_end(tmp_path):
    content = write_image(tmp_path / 'a.jpg').read_bytes()
    thumbnail = b'\xff\xd8thumbnail\xff\xd9'
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    content = content[:2] + segment + content[2:]
    assert not is_cut_off(content)
    assert is_cut_off(content[:-100])


def test_the_check_costs_next_to_nothing(tmp_path):
    content = write_image(tmp_path / 'a.jpg', 640, 480).read_bytes()
    start = time.perf_counter()
    for _ in range(1000):
        is_cut_off(content)
    assert time.perf_counter() - start < 0.1, 'below 0.1 ms per image, where decoding takes 5'


def test_bccd_is_whole(bccd_root):
    images = sorted((bccd_root / 'JPEGImages').glob('*.jpg'))
    assert len(images) == 364 and not any(is_cut_off(path.read_bytes()) for path in images)
