"""Pixels of images and videos, and one sentence for a file that gives none."""

from collections.abc import Iterator
from os import PathLike

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile

__all__ = ['Unreadable', 'Video', 'as_picture', 'read_image']

DEFAULT_FPS = 25.0  # of a video that does not say; our choice


class Unreadable(Exception):
    """A file that cannot be read as what it is named; the text says which and why."""


def read_image(path: str | PathLike, loader: LoadImageFromFile) -> np.ndarray:
    """Decode an image file.

    Args:
        path (str | PathLike): The file.
        loader (LoadImageFromFile): How: MMScale's loader, which knows cut-off files.

    Returns:
        np.ndarray: As the loader makes it, normally BGR, uint8, ``(H, W, 3)``.

    Raises:
        Unreadable: If it is no image, empty, cut off, or may not be read.
    """
    try:
        return loader.transform(dict(img_path=str(path)))['img']
    except (OSError, ValueError) as error:
        raise Unreadable(str(error)) from error
    except cv2.error as error:
        raise Unreadable(f"image '{path}' cannot be decoded ({_sentence(error)})") from error


def as_picture(image: np.ndarray) -> np.ndarray:
    """A copy to draw on, BGR, uint8, ``(H, W, 3)``, of whatever a loader made.

    Args:
        image (np.ndarray): Grey, BGR or BGRA; uint8, uint16 or float on the scale of uint8.
    """
    if image.dtype == np.uint16:
        image = image >> 8
    image = np.clip(image, 0, 255).astype(np.uint8)
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else np.array(image[..., :3], order='C')


class Video:
    """The frames of a video, one after the other.

    Args:
        path (str | PathLike): The file.

    Attributes:
        fps (float): Frames per second; 25 where the file does not say.
        length (int): Number of frames as the file's header has it, which may be wrong; at least 1.

    Raises:
        Unreadable: If not even a first frame can be decoded.
    """

    def __init__(self, path: str | PathLike) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        found, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not found:
            self._capture.release()
            raise Unreadable(f"video '{path}' cannot be decoded, or has no frame")
        fps, length = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps < 1000 else DEFAULT_FPS
        self.length = int(length) if 1 <= length < 2**31 else 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """BGR, uint8, ``(H, W, 3)``; can be done once."""
        frame = self._first
        try:
            while frame is not None:
                yield frame
                found, following = self._capture.read()
                frame = following if found else None
        finally:
            self._capture.release()


def _sentence(error: Exception) -> str:
    """The gist of an OpenCV error."""
    return str(getattr(error, 'err', '') or error).strip().splitlines()[0]
