"""Gaussian noise: its size, what it depends on, and what it leaves alone."""

import numpy as np
import pytest

from mmscale.datasets import GaussianNoise


def noisy(sigma=20.0, seed=0, path='photos/a.jpg', image=None):
    image = np.full((256, 256, 3), 128, np.uint8) if image is None else image
    return GaussianNoise(sigma, seed)(dict(img=image, img_path=path))['img']


def test_size_of_the_noise():
    noise = noisy(20).astype(float) - 128
    # 196608 values: the standard error of the deviation is 20 / sqrt(2 * 196608) = 0.03, rounding adds 1 / 12
    assert noise.std() == pytest.approx((20**2 + 1 / 12) ** 0.5, abs=0.15)
    assert abs(noise.mean()) < 0.2
    # channels and neighbours have noise of their own
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1]) < 0.02


def test_rounds_and_clips():
    image = np.array([[[0, 255, 128]]], np.uint8).repeat(64, 0).repeat(64, 1)
    result = noisy(100, image=image)
    assert result.dtype == np.uint8 and result.shape == image.shape
    # half of the noise on black and on white is cut off; nothing wraps around
    assert (result[..., 0] == 0).mean() == pytest.approx(0.5, abs=0.04)
    assert (result[..., 1] == 255).mean() == pytest.approx(0.5, abs=0.04)


def test_floats_see_the_same_as_bytes():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    as_float = noisy(30, image=image.astype(np.float32))
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(as_float, noisy(30, image=image))


def test_depends_on_seed_and_file_name_alone():
    same = noisy(path='elsewhere/a.jpg')
    np.testing.assert_array_equal(noisy(), same)
    for other in (noisy(seed=1), noisy(path='photos/b.jpg')):
        assert (other != same).mean() > 0.9


def test_larger_sigma_makes_the_same_noise_stronger():
    weak, strong = noisy(10).astype(int) - 128, noisy(20).astype(int) - 128
    assert np.abs(strong - 2 * weak).max() <= 1  # each is rounded once


def test_sigma_zero_is_the_image_and_the_input_is_kept():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before = image.copy()
    assert noisy(0, image=image) is image
    noisy(50, image=image)
    np.testing.assert_array_equal(image, before)


def test_mistakes():
    for sigma in (-1, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='of GaussianNoise must be a number from 0, in grey levels'):
            GaussianNoise(sigma)
    with pytest.raises(TypeError, match=r"image 'photos/a.jpg' is of type int64"):
        noisy(image=np.zeros((4, 4, 3), np.int64))


def test_is_built_from_a_config():
    from mmscale.registry import TRANSFORMS

    assert repr(TRANSFORMS.build(dict(type='mmscale.GaussianNoise', sigma=5))) == 'GaussianNoise(sigma=5, seed=0)'
