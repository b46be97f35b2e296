"""Image files: whether they can be read, whether their size is the annotated one, and which are the same."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import mmcv
import numpy as np
from tqdm import tqdm

from mmscale.datasets.reading import read_file
from mmscale.datasets.transforms import is_cut_off

from .faults import AnnotatedImage

__all__ = ['ImageFile', 'difference_hash', 'find_copies', 'read_files', 'size_faults']


@dataclass
class ImageFile:
    """What an image file turned out to be.

    Args:
        image (AnnotatedImage): The annotation that names it.
        fault (str, optional): Why it cannot be used.
        sha256 (str, optional): Hash of the file's bytes.
        look (int, optional): Hash of its look, :func:`difference_hash`.
        width (int): As decoded, 0 if it could not be.
        height (int): As decoded.
    """

    image: AnnotatedImage
    fault: str | None = None
    sha256: str | None = None
    look: int | None = None
    width: int = 0
    height: int = 0


def read_files(images: Sequence[AnnotatedImage], what: str = 'images', progress: bool = False) -> list[ImageFile]:
    """Reads and decodes every file.

    Args:
        images (Sequence[AnnotatedImage]): The images.
        what (str): The progress bar's name. Defaults to 'images'.
        progress (bool): Whether to show a progress bar. Defaults to False.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hidden = None if progress else True  # None: where it is no terminal
        found = tqdm(pool.map(_read, images), total=len(images), desc=what, ncols=88, disable=hidden)
        return list(found)


def _read(image: AnnotatedImage) -> ImageFile:
    try:
        content = read_file(image.path, 'image', image.backend_args)
    except OSError:
        return ImageFile(image, 'does not exist')
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return ImageFile(image, 'is empty')
    if is_cut_off(content):
        return ImageFile(image, 'is cut off', digest)
    try:
        pixels = mmcv.imfrombytes(content, backend='cv2')  # turned as its EXIF data says, as in training
    except (cv2.error, OSError, ValueError, AttributeError):
        pixels = None
    if pixels is None:
        return ImageFile(image, 'cannot be decoded', digest)
    return ImageFile(image, None, digest, difference_hash(pixels), pixels.shape[1], pixels.shape[0])


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits of an image's look: whether brightness rises to the right, on a grid of 8 rows and 9 columns (dHash).

    Args:
        pixels (np.ndarray): BGR, uint8, (H, W, 3).

    Example:
        >>> difference_hash(np.zeros((48, 64, 3), np.uint8))
        0
    """
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def size_faults(files: Sequence[ImageFile]) -> list[dict]:
    """Images that have not the annotated size, and whether width and height are swapped."""
    found = []
    for file in files:
        real, told = (file.width, file.height), (file.image.width, file.image.height)
        if not file.fault and real != told:
            found.append(dict(image=file.image.name, file=list(real), annotated=list(told), swapped=real == told[::-1]))
    return found


def find_copies(files: dict[str, list[ImageFile]]) -> dict[str, list[dict]]:
    """Images that occur more than once, within a split or in several: the worst kind of leak.

    Args:
        files (dict[str, list[ImageFile]]): The files by split.

    Returns:
        dict[str, list[dict]]: 'same file' (equal bytes) and 'same look' (equal :func:`difference_hash`, other bytes;
            a flat image has no look). An entry has 'splits' and 'images', by split.
    """
    by_bytes, by_look = defaultdict(list), defaultdict(list)
    for split, group in files.items():
        for file in group:
            if file.sha256 and file.fault != 'is empty':
                by_bytes[file.sha256].append((split, file))
            if file.look:
                by_look[file.look].append((split, file))
    looks = [group for group in by_look.values() if len({file.sha256 for _, file in group}) > 1]
    found = {'same file': list(by_bytes.values()), 'same look': looks}
    return {kind: [_copies(group) for group in groups if len(group) > 1] for kind, groups in found.items()}


def _copies(group: list[tuple[str, ImageFile]]) -> dict:
    images = defaultdict(list)
    for split, file in group:
        images[split].append(file.image.name)
    return dict(splits=list(images), images=dict(images))
