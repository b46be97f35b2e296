"""Gaussian noise on an image, the same for every model that is tested on it."""

import os
import zlib

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS

__all__ = ['GaussianNoise']


@TRANSFORMS.register_module()
class GaussianNoise(BaseTransform):
    """Adds white Gaussian noise to an image, as a worse camera would; it belongs right after the image is loaded.

    Every value of every channel gets its own noise, then is rounded to a whole grey level and clipped to 0..255,
    whatever the image's type, which is kept. So a model that reads float images sees the same as one that reads bytes.

    The noise depends on the seed, the image's file name (without its folder) and its size alone: every model and every
    run sees the same, and a larger sigma makes the same noise stronger. ``sigma=0`` leaves the image as it is.

    Required keys: ``img`` and ``img_path``. Changed keys: ``img``.

    Args:
        sigma (float): Standard deviation before clipping, in grey levels of 0..255.
        seed (int): Of the noise. Defaults to 0.

    Raises:
        ValueError: If sigma is negative or not finite.
        TypeError: If an image is neither uint8 nor float32.

    Example:
        >>> noise = GaussianNoise(sigma=20)
        >>> grey = dict(img=np.full((2, 2, 1), 128, np.uint8), img_path='photos/a.jpg')
        >>> noise(grey)['img'].ravel().tolist() == noise(dict(grey, img_path='other/a.jpg'))['img'].ravel().tolist()
        True
    """

    def __init__(self, sigma: float, seed: int = 0) -> None:
        if not (np.isfinite(sigma) and sigma >= 0):
            raise ValueError(f'sigma={sigma!r} of GaussianNoise must be a number from 0, in grey levels of 0..255')
        self.sigma = float(sigma)
        self.seed = int(seed)

    def transform(self, results: dict) -> dict:
        """Adds the noise.

        Args:
            results (dict): The data info with the image.

        Returns:
            dict: A data info with the noisy image; the image that came in is not changed.
        """
        if self.sigma == 0:
            return results
        image = results['img']
        if image.dtype not in (np.uint8, np.float32):
            raise TypeError(
                f"image '{results['img_path']}' is of type {image.dtype}; GaussianNoise needs uint8 or float32"
            )
        name = zlib.crc32(os.path.basename(str(results['img_path'])).encode())
        noise = np.random.default_rng([self.seed, name]).standard_normal(image.shape, dtype=np.float32)
        noisy = np.clip(np.rint(image + self.sigma * noise), 0, 255).astype(image.dtype)
        return {**results, 'img': noisy}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(sigma={self.sigma:g}, seed={self.seed})'
