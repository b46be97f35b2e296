"""An image's size from its header, and an error that names the file when the image is not whole.

Decoding every image of a data set to learn its size takes minutes; headers take seconds. A header does not show that
the rest of the file is missing, so the end of the file is looked at too, and only an image whose end looks wrong is
decoded to find out.
"""
from pathlib import Path

from PIL import Image

__all__ = ['read_image_size']

_END_MARKS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND'}
_TAIL = 4096  # some cameras pad the file after the end mark
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


def read_image_size(path: str | Path, decode: bool = False) -> tuple[int, int]:
    """Width and height of an image as a detector will load it.

    The EXIF orientation is applied, as OpenCV does when MMDetection loads an image.

    Args:
        path (str | Path): The image.
        decode (bool): Decode the whole image instead of trusting header and end mark. Defaults to False.

    Returns:
        tuple[int, int]: Width and height in pixels.

    Raises:
        FileNotFoundError: There is no such image.
        ValueError: The file is not an image, or is cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"image '{path}' does not exist: is the data set unpacked completely?")
    try:
        with Image.open(path) as image:
            width, height = image.size
            if _has_exif(image) and image.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
            if decode or not _has_end_mark(path, image.format):
                image.load()
    # Pillow raises SyntaxError for some broken PNG chunks and DecompressionBombError for absurd sizes
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image '{path}' cannot be decoded ({error}): fetch it again or remove it from the data set") \
            from error
    return width, height


def _has_exif(image: Image.Image) -> bool:
    """Pillow decodes a whole PNG to look for EXIF data behind the pixels; those before them are known by now."""
    return image.format != 'PNG' or 'exif' in image.info


def _has_end_mark(path: Path, image_format: str | None) -> bool:
    """Whether the last bytes hold the format's end mark; formats without one count as not having it."""
    mark = _END_MARKS.get(image_format)
    if mark is None:
        return False
    with path.open('rb') as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        return mark in file.read()
