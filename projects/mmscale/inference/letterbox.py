"""An image in the middle of a frame: as large as it fits in, with borders of one colour, half on either side."""

from dataclasses import dataclass

import mmcv
import numpy as np

__all__ = ['Letterbox', 'fill', 'resize_to']


@dataclass(frozen=True)
class Letterbox:
    """The last step before padding of a file whose pipeline ends so, as YOLOs' do.

    Attributes:
        scale (tuple[int, int]): Width and height of the frame.
        scale_up (bool): Whether an image that is smaller than the frame is enlarged.
        interpolation (str): MMCV's name.
        pad_value (float | list[float]): Value of the borders, or one per channel in the file's order.
    """

    scale: tuple[int, int]
    scale_up: bool
    interpolation: str
    pad_value: float | list[float]

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize an image ``(H, W, 3)`` so that it fits into the frame.

        Example:
            >>> Letterbox((64, 64), True, 'bilinear', 0.0).resize(np.zeros((25, 32, 3), np.uint8)).shape
            (50, 64, 3)
        """
        height, width = image.shape[:2]
        factor = min(self.scale[1] / height, self.scale[0] / width)
        if not self.scale_up:
            factor = min(factor, 1.0)
        return resize_to(image, max(1, round(width * factor)), max(1, round(height * factor)), self.interpolation)

    def pad(self, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """Put a resized image into the frame.

        Args:
            image (np.ndarray): In the file's order of channels, ``(H, W, 3)``.

        Returns:
            tuple[np.ndarray, tuple[int, int]]: The frame, and where the image's left and top are in it.

        Example:
            >>> frame, offset = Letterbox((4, 4), False, 'bilinear', 7.0).pad(np.zeros((1, 2, 3)))
            >>> offset, frame[..., 0].tolist()
            ((1, 1), [[7.0, 7.0, 7.0, 7.0], [7.0, 0.0, 0.0, 7.0], [7.0, 7.0, 7.0, 7.0], [7.0, 7.0, 7.0, 7.0]])
        """
        left, top = ((room - side) // 2 for room, side in zip(self.scale, image.shape[1::-1], strict=True))
        return fill(image, self.scale[::-1], self.pad_value, (left, top)), (left, top)


def resize_to(image: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    """An image ``(H, W, 3)`` of a given size; the same one where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    return mmcv.imresize(image, (width, height), interpolation=interpolation, backend='cv2')


def fill(
    image: np.ndarray, size: tuple[int, int], value: float | list[float], offset: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """An image on a larger canvas; the image itself where it fills it.

    Args:
        image (np.ndarray): ``(H, W, 3)``.
        size (tuple[int, int]): Height and width of the canvas.
        value (float | list[float]): Its colour.
        offset (tuple[int, int]): Left and top of the image in it. Defaults to (0, 0).
    """
    height, width = image.shape[:2]
    if size == (height, width):
        return image
    left, top = offset
    canvas = np.empty((*size, 3), image.dtype)
    canvas[:] = value
    canvas[top : top + height, left : left + width] = image
    return canvas
