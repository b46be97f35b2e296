"""From what the user typed, images, folders, videos and globs, to the files that are looked at."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from mmscale.engine.cli import UsageError

__all__ = ['IMAGES', 'VIDEOS', 'Source', 'find_sources']

IMAGES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEOS = ('.avi', '.flv', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ogv', '.webm', '.wmv')


@dataclass(frozen=True)
class Source:
    """A file to look at.

    Attributes:
        path (Path): Where it is.
        name (str): Its path below the folder that all inputs share, with forward slashes; no two have the same.
        is_video (bool): Whether it is read as a video.
    """

    path: Path
    name: str
    is_video: bool


def find_sources(
    inputs: Sequence[str], recursive: bool = False, own_pictures: str | PathLike | None = None
) -> list[Source]:
    """The files that the inputs stand for, every one once, in the order of the inputs and by name within each.

    A file is taken whatever its name; out of a folder or glob come those that are named like an image or a video and
    are not hidden.

    Args:
        inputs (Sequence[str]): Files, folders and globs (``**`` is any number of folders).
        recursive (bool): Whether folders inside folders are searched too. Defaults to False.
        own_pictures (str | PathLike, optional): Folder of this tool's own pictures, which it does not take for inputs
            when it finds them in a folder or glob. Defaults to None.

    Raises:
        UsageError: If an input stands for no file.
    """
    bases, paths = [], []
    for text in inputs:
        base, found = _expand(text, recursive, own_pictures)
        bases.append(os.path.abspath(base))
        paths += found
    try:
        root = os.path.commonpath(bases)
    except ValueError as error:  # on several drives
        raise UsageError(f'inputs {", ".join(map(repr, inputs))} share no folder: give them one by one') from error
    unique: dict[str, Path] = {}
    for path in paths:
        unique.setdefault(os.path.abspath(path), path)
    return [
        Source(path, Path(os.path.relpath(whole, root)).as_posix(), _is_video(path)) for whole, path in unique.items()
    ]


def _expand(text: str, recursive: bool, own_pictures: str | PathLike | None) -> tuple[Path, list[Path]]:
    """The folder that an input's names are relative to, and its files."""
    path = Path(text)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        base, candidates = path, sorted(_walk(path, recursive))
    elif glob.has_magic(text):
        base = Path(*_fixed_part(path))
        candidates = sorted(Path(match) for match in glob.glob(text, recursive=True))
    else:
        raise UsageError(f"input '{text}' does not exist (looked for from '{os.getcwd()}')")
    candidates = [file for file in candidates if file.suffix.lower() in IMAGES + VIDEOS and file.is_file()]
    found = [file for file in candidates if not _is_inside(file, own_pictures)]
    if not found:
        raise UsageError(_nothing(text, path, recursive, bool(candidates)))
    return base, found


def _walk(folder: Path, recursive: bool) -> list[Path]:
    """Files of a folder that are not hidden."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith('.')]
        files += [Path(parent, name) for name in names if not name.startswith('.')]
    return files


def _fixed_part(pattern: Path) -> list[str]:
    """The folders of a glob before the first that is none.

    Example:
        >>> _fixed_part(Path('photos/2024/*/a?.jpg'))
        ['photos', '2024']
    """
    fixed = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _is_inside(file: Path, folder: str | PathLike | None) -> bool:
    return folder is not None and Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _nothing(text: str, path: Path, recursive: bool, only_own: bool) -> str:
    """The sentence for an input without a file."""
    if only_own:
        return f"input '{text}' holds only pictures of --out-dir itself: choose another --out-dir"
    known = ', '.join(IMAGES + VIDEOS)
    if not path.is_dir():
        return f"input '{text}' matches no image or video ({known})"
    deeper = not recursive and any(file.suffix.lower() in IMAGES + VIDEOS for file in _walk(path, True))
    return f"folder '{text}' has no image or video ({known})" + ('; --recursive finds those below it' * deeper)
