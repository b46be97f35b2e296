"""Micro RGB UAV as it may arrive: finds the videos, their frames and their annotation files.

``micro_uav`` says what is supported and why.
"""
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import walk
from pathlib import Path

import cv2

__all__ = ['LAYOUTS', 'Video', 'check_layout', 'extract_frames', 'find_videos', 'sort_key']

LAYOUTS = {'yolo': 'a YOLO text per frame', 'voc': 'a PASCAL VOC XML per frame',
           'lines': "one text per video with lines 'frame x y w h'", 'json': 'one JSON per video (exist, gt_rect)'}
_IMAGES, _VIDEOS, _TEXTS = ('.jpg', '.jpeg', '.png'), ('.mp4', '.avi'), ('.txt', '.xml', '.json')
_SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val'}
_SHELVES = ('images', 'image', 'img', 'imgs', 'jpegimages', 'frames', 'videos', 'labels', 'label', 'annotations',
            'annotation', 'annos', 'anno', 'xml', 'txt', 'json', 'gt', 'groundtruth', 'ground_truth')
_NO_ANNOTATION = ('classes', 'readme', 'license')


@dataclass
class Video:
    """A video of the source.

    Args:
        name (str): Its folder's or file's name.
        split (str, optional): 'train' or 'val' where its folder says so. Defaults to None.
        frames (list[Path]): Its frames in order; those of a video file come later, from ``extract_frames``.
        file (Path, optional): The video file. Defaults to None: the frames are files.
        texts (dict[str, list[Path]]): Annotation files per layout.
    """
    name: str
    split: str | None = None
    frames: list[Path] = field(default_factory=list)
    file: Path | None = None
    texts: dict[str, list[Path]] = field(default_factory=dict)


def sort_key(name: str) -> tuple:
    """Sorts names with numbers in them by the numbers.

    Example:
        >>> sorted(['v10', 'v9', 'v09'], key=sort_key)
        ['v09', 'v9', 'v10']
    """
    return [int(part) if index % 2 else part for index, part in enumerate(re.split('([0-9]+)', name))], name


def find_videos(root: Path) -> list[Video]:
    """Finds the videos below a folder, in order.

    Raises:
        FileNotFoundError: There is no video.
        ValueError: A video is in both splits, or files do not fit together; the message names them.
    """
    videos, texts = {}, []
    for path in _files(root):
        suffix = path.suffix.lower()
        split, rest = _shelve(root, path)
        if suffix in _TEXTS:
            texts.append((path, split, rest))
        if suffix not in _IMAGES + _VIDEOS:
            continue
        if suffix in _VIDEOS and not rest:
            rest = [path.stem]
        if len(rest) != 1:
            raise ValueError(f"'{path}' lies in no folder of one video: expected <video>/ or {{train,val}}/<video>/ "
                             f"below root '{root}', with no folders between but such as images/ and labels/")
        video = videos.setdefault(rest[0], Video(rest[0], split))
        if video.split != split:
            raise ValueError(f"video '{video.name}' is in {video.split or 'no split'} and in {split or 'no split'} "
                             f"('{path}'), but belongs in one: rename it if these are two videos")
        if suffix in _IMAGES:
            video.frames.append(path)
        elif video.file:
            raise ValueError(f"video '{video.name}' has two files, '{video.file}' and '{path}': move one out of root")
        else:
            video.file = path
    if not videos:
        raise FileNotFoundError(f"root '{root}' holds no frames ({', '.join(_IMAGES)}) and no video files "
                                f"({', '.join(_VIDEOS)})")
    for video in videos.values():
        _check_frames(video)
    _hand_out(texts, videos)
    return sorted(videos.values(), key=lambda video: sort_key(video.name))


def _files(root: Path) -> Iterable[Path]:
    """All files below a folder in order, links followed, hidden ones and archivers' leftovers not."""
    found = []
    for folder, folders, names in walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(('.', '__MACOSX'))]
        found += [Path(folder, name) for name in names if not name.startswith('.')]
    return sorted(found, key=lambda path: sort_key(path.as_posix()))


def _shelve(root: Path, path: Path) -> tuple[str | None, list[str]]:
    """The split that a file's folders name, and those of its folders that are neither a split nor a shelf."""
    split, rest = None, []
    for part in path.parent.relative_to(root).parts:
        if split is None and not rest and part.lower() in _SPLITS:
            split = _SPLITS[part.lower()]
        elif part.lower() not in _SHELVES:
            rest.append(part)
    return split, rest


def _check_frames(video: Video) -> None:
    if video.file and video.frames:
        raise ValueError(f"video '{video.name}' has both frames ('{video.frames[0].parent}') and a video file "
                         f"('{video.file}'): move one of them out of root")
    stems = {}
    for path in video.frames:
        other = stems.setdefault(path.stem, path)
        if other is not path or path.parent != video.frames[0].parent:
            raise ValueError(f"video '{video.name}' has frames in two folders or twice, "
                             f"'{other if other is not path else video.frames[0]}' and '{path}': move one out of root")


def _hand_out(texts: Iterable[tuple], videos: dict[str, Video]) -> None:
    """Gives annotation files to their videos, sorted by layout."""
    inside = {name: [] for name in videos}
    for path, split, rest in texts:
        name = rest[0] if len(rest) == 1 else path.stem
        if name not in videos or len(rest) > 1 or path.stem.lower() in _NO_ANNOTATION:
            continue
        video, suffix = videos[name], path.suffix.lower()
        if split not in (None, video.split):
            raise ValueError(f"annotation file '{path}' is in {split}, but its video '{name}' is in "
                             f"{video.split or 'no split'}")
        if suffix == '.txt' and rest:
            inside[name].append(path)
        elif suffix != '.xml' or rest:
            layout = {'.txt': 'lines', '.xml': 'voc', '.json': 'json'}[suffix]
            video.texts.setdefault(layout, []).append(path)
    for name, paths in inside.items():
        stems = {path.stem for path in videos[name].frames}
        per_frame = any(path.stem in stems for path in paths) if stems else len(paths) > 1
        if paths:
            videos[name].texts.setdefault('yolo' if per_frame else 'lines', []).extend(paths)


def check_layout(videos: Sequence[Video], layout: str | None = None) -> str:
    """The one layout in which all videos are annotated.

    Raises:
        FileNotFoundError: A video has no annotations.
        ValueError: No layout fits, or several do.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {list(LAYOUTS)}, but is '{layout}'")
    found = {kind: video.texts[kind][0] for video in reversed(videos) for kind in video.texts}
    expected = '; '.join(f'{kind}: {what}' for kind, what in LAYOUTS.items())
    if not found or layout not in (None, *found):
        raise ValueError(f'no annotations fit the videos{f" in layout {layout!r}" if layout else ""}; supported are '
                         f'{expected}, named and placed like the frames or the video')
    if layout is None and len(found) > 1:
        files = ' and '.join(f"{kind} ('{path}')" for kind, path in sorted(found.items()))
        raise ValueError(f'annotations of several layouts fit, {files}: choose one by layout')
    layout = layout or next(iter(found))
    for video in videos:
        texts = video.texts.get(layout, [])
        if not texts:
            raise FileNotFoundError(f"video '{video.name}' has no annotations in layout '{layout}' "
                                    f'({LAYOUTS[layout]}), but others have')
        if layout in ('lines', 'json') and len(texts) > 1:
            raise ValueError(f"video '{video.name}' has {len(texts)} files in layout '{layout}' ({LAYOUTS[layout]}), "
                             f"'{texts[0]}' and '{texts[1]}': move the others out of root")
    return layout


def extract_frames(path: Path, folder: Path) -> list[Path]:
    """Writes every frame of a video file as a PNG, which loses nothing of a drone of a few pixels."""
    folder.mkdir(parents=True)
    frames, capture = [], cv2.VideoCapture(str(path))
    stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    while (frame := capture.read()[1]) is not None:
        frames.append(folder / f'{len(frames):06d}.png')
        if not cv2.imwrite(str(frames[-1]), frame):
            raise OSError(f"frame '{frames[-1]}' cannot be written: is the disk full?")
    capture.release()
    if not frames:
        raise ValueError(f"video '{path}' cannot be decoded: fetch it again or remove it from the data set")
    if stated > 0 and stated != len(frames):
        warnings.warn(f"video '{path}' states {stated} frames, but {len(frames)} can be decoded", stacklevel=2)
    return frames
