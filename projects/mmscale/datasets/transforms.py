"""Loading an image with errors that name the file.

OpenCV 4 decodes a JPEG that was cut off into an image whose lower part is grey, and a detector then trains on grey;
OpenCV 5 gives nothing, and MMCV fails on that without the file's name. ``mmscale.LoadImageFromFile`` looks at the bytes
first and treats a cut-off image as an error: nobody annotated a half-grey image.
"""
import os

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile

from ..registry import TRANSFORMS
from .reading import read_file

__all__ = ['LoadImageFromFile', 'is_cut_off']

JPEG_START, JPEG_END, JPEG_SCAN = b'\xff\xd8', b'\xff\xd9', 0xda
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND'


def is_cut_off(content: bytes) -> bool:
    """Whether a JPEG or PNG file ends before its end marker.

    A complete file nearly always has its marker in the last bytes, which is all that is looked at then. Otherwise bytes
    may follow the image (padding, a second image); the marker is searched from the first scan on, where a JPEG's
    entropy-coded data cannot contain it by chance. The marker of a thumbnail in the header does not count.

    Args:
        content (bytes): The file.

    Returns:
        bool: True for a cut-off JPEG or PNG, False for complete ones and all other formats.

    Example:
        >>> is_cut_off(b'\\xff\\xd8' + bytes(10) + b'\\xff\\xd9')
        False
        >>> is_cut_off(b'\\xff\\xd8' + bytes(10))
        True
    """
    if content.startswith(JPEG_START):
        return not content.endswith(JPEG_END) and content.find(JPEG_END, _first_scan(content)) < 0
    if content.startswith(PNG_START):
        return PNG_END not in content[-16:] and PNG_END not in content
    return False


def _first_scan(content: bytes) -> int:
    """Where a JPEG's first scan starts: its header is a chain of segments that state their lengths."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xff:
        marker = content[position + 1]
        if marker == JPEG_SCAN:
            return position
        if marker == 0xff:  # a fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(content[position + 2:position + 4], 'big')
    return min(position, len(content))


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """Loads an image; an image that is missing, empty, cut off or unreadable is an error that names its file.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        to_float32 (bool): Whether to convert the image to float32. Defaults to False.
        color_type (str): The flag of ``mmcv.imfrombytes``. Defaults to 'color'.
        imdecode_backend (str): The decoder of ``mmcv.imfrombytes``. Defaults to 'cv2'.
        ignore_empty (bool): Whether an image that cannot be loaded is passed over, so that the data set takes another
            one at random, instead of an error. Defaults to False.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.

    Raises:
        FileNotFoundError: The image does not exist.
        ValueError: It is empty, cut off or cannot be decoded.
    """

    def __init__(self, to_float32: bool = False, color_type: str = 'color', imdecode_backend: str = 'cv2',
                 ignore_empty: bool = False, backend_args: dict | None = None) -> None:
        super().__init__(to_float32=to_float32, color_type=color_type, imdecode_backend=imdecode_backend,
                         ignore_empty=ignore_empty, backend_args=backend_args)

    def transform(self, results: dict) -> dict | None:
        """Loads the image.

        Args:
            results (dict): The data info with ``img_path``.

        Returns:
            dict | None: The data info with the image; None for an image that is passed over.
        """
        try:
            image = self._load(results['img_path'])
        except (OSError, ValueError):
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def _load(self, path: str) -> np.ndarray:
        content = read_file(path, 'image', self.backend_args)
        if not content:
            raise ValueError(f"image '{path}' is empty (0 bytes)")
        if is_cut_off(content):
            raise ValueError(f"image '{path}' is cut off: its end marker is missing after {len(content)} bytes; copy "
                             'it again')
        try:
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except (OSError, ValueError) as error:
            raise self._undecodable(path, content) from error
        if image is None:
            raise self._undecodable(path, content)
        return image

    def _undecodable(self, path: str, content: bytes) -> ValueError:
        return ValueError(f"image '{path}' cannot be decoded by {self.imdecode_backend!r}: its {len(content)} bytes "
                          f'start with {content[:8]!r} (suffix {os.path.splitext(path)[1]!r})')
