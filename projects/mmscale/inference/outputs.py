"""Drawn pictures and videos on disk, each written whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mmscale.engine.cli import UsageError

from .sources import Source

__all__ = ['PictureFolder', 'VideoFile', 'picture_names']

WRITABLE = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def picture_names(sources: Sequence[Source]) -> dict[Source, str]:
    """A name for the picture of each source: its own, and ``.png`` or ``.mp4`` after it where that cannot be written.

    Args:
        sources (Sequence[Source]): Whose names differ.

    Example:
        >>> names = [Source(Path(name), name, name.endswith('v')) for name in ('a/x.jpg', 'b/x.jpg', 'x.ppm', 'x.mkv')]
        >>> list(picture_names(names).values())
        ['a/x.jpg', 'b/x.jpg', 'x.ppm.png', 'x.mkv.mp4']
    """
    names, taken = {}, {source.name for source in sources}
    for source in sources:
        suffix = Path(source.name).suffix.lower()
        name, end = source.name, '.mp4' if source.is_video else '.png'
        if suffix not in (('.mp4',) if source.is_video else WRITABLE):
            name += end
            while name in taken:
                name += end
            taken.add(name)
        names[source] = name
    return names


class VideoFile:
    """A video that takes its name when it is closed.

    Args:
        path (Path): Ends in ``.mp4``.
        fps (float): Frames per second.
        size (tuple[int, int]): Height and width of a frame; MPEG-4 cuts off the last row or column of an odd one.

    Raises:
        UsageError: If OpenCV cannot write such a file here.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self._path, self._size = path, size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f'.{path.stem}.partial{path.suffix}')  # OpenCV goes by the suffix
        self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter_fourcc(*'mp4v'), fps, size[::-1])
        if not self._writer.isOpened():
            self.abort()
            raise UsageError(f"video '{path}' cannot be written by this OpenCV: --no-pictures goes without")

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, BGR, uint8; one of another size is resized, which OpenCV would drop."""
        if frame.shape[:2] != self._size:
            frame = cv2.resize(frame, self._size[::-1])
        self._writer.write(frame)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OSError: If nothing was written, as on a full disk.
        """
        self._writer.release()
        if not self._partial.is_file() or not self._partial.stat().st_size:
            self._partial.unlink(missing_ok=True)
            raise OSError(f"video '{self._path}' could not be written: is the disk full?")
        os.replace(self._partial, self._path)

    def abort(self) -> None:
        """Leave no trace."""
        self._writer.release()
        self._partial.unlink(missing_ok=True)


class PictureFolder:
    """Writes drawn images, and drawn frames into videos, below a folder.

    Args:
        folder (Path): The folder; it is made with the first picture.
        sources (Sequence[Source]): All that may come.

    Raises:
        UsageError: If a picture would replace a source.
    """

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        self._paths = {source: folder / name for source, name in picture_names(sources).items()}
        self._video: VideoFile | None = None
        self._source: Source | None = None
        own = {source.path.resolve() for source in sources}
        for path in self._paths.values():
            if path.resolve() in own:
                raise UsageError(f"picture '{path}' would replace an input: choose another --out-dir")

    def write(self, source: Source, picture: np.ndarray, fps: float | None = None) -> None:
        """Write an image's picture, or append a frame to its video's.

        Args:
            source (Source): Whose picture it is; frames of a video come one after the other.
            picture (np.ndarray): BGR, uint8.
            fps (float, optional): Of the video that it is a frame of. Defaults to None: it is an image.
        """
        if source != self._source:
            self.close()
        self._source = source
        path = self._paths[source]
        if fps is None:
            write_image(path, picture)
            return
        if self._video is None:
            self._video = VideoFile(path, fps, picture.shape[:2])
        self._video.write(picture)

    def close(self) -> None:
        """Finish the video that is being written."""
        video, self._video = self._video, None
        if video is not None:
            video.close()

    def abort(self) -> None:
        """Drop the video that is being written."""
        if self._video is not None:
            self._video.abort()
            self._video = None


def write_image(path: Path, picture: np.ndarray) -> None:
    """Write an image whole or not at all, and make its folder; the format follows the suffix."""
    done, encoded = cv2.imencode(path.suffix, picture)
    if not done:
        raise OSError(f"picture '{path}' cannot be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.partial')
    try:
        partial.write_bytes(encoded.tobytes())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
