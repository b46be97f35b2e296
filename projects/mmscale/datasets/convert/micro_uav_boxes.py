"""Micro RGB UAV's annotations in the layouts of ``micro_uav_source``: which frame they are of, and their boxes."""
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..reading import read_json
from .coco import CocoBuilder, parse_number, read_lines
from .micro_uav_source import Video
from .voc import _add_objects as add_voc_objects

__all__ = ['add_objects', 'read_annotations']

_GRID = 128  # YOLO boxes are rounded to this part of a pixel; a power of two, so that x + w stays exact


def read_annotations(videos: Iterable[Video], layout: str, first_frame: int | None = None) -> dict[str, list[list]]:
    """What is annotated in every frame of every video: annotation files, or boxes with their place.

    Args:
        videos (Iterable[Video]): The videos, all with frames.
        layout (str): A key of ``LAYOUTS``.
        first_frame (int, optional): The number of the first frame, 0 or 1, in annotations that name frames by number.
            Defaults to None: found out.

    Returns:
        dict[str, list[list]]: Per video and frame what ``add_objects`` takes.
    """
    if first_frame not in (None, 0, 1):
        raise ValueError(f'first_frame must be 0 or 1, but is {first_frame}')
    read, numbered = {}, []
    for video in videos:
        slots = read[video.name] = [[] for _ in video.frames]
        if layout == 'json':
            _read_json(video, slots)
        elif layout == 'lines':
            numbered += _read_numbered_lines(video)
        elif video.file:
            numbered += [(video, _trailing_number(path), str(path), path) for path in video.texts[layout]]
        else:
            indices = {path.stem: index for index, path in enumerate(video.frames)}
            for path in video.texts[layout]:
                if path.stem not in indices:
                    raise FileNotFoundError(f"annotation file '{path}' has no frame in '{video.frames[0].parent}'")
                slots[indices[path.stem]].append(path)
    first = _first_frame(numbered) if first_frame is None else first_frame
    for video, number, where, entry in numbered:
        if number - first not in range(len(video.frames)):
            raise ValueError(f"{where}: frame {number} is not among the {len(video.frames)} frames of video "
                             f"'{video.name}', which count from {first}")
        read[video.name][number - first].append(entry)
    for frame in (frame for slots in read.values() for frame in slots if layout in ('yolo', 'voc')):
        if len(frame) > 1:
            raise ValueError(f"'{frame[0]}' and '{frame[1]}' annotate the same frame: move one out of root")
    return read


def _first_frame(numbered: Sequence[tuple]) -> int:
    """Whether frames count from 0 or from 1: somewhere frame 0 is named, or the last one counted from 1."""
    zero = next((where for _, number, where, _ in numbered if number == 0), None)
    last = next((where for video, number, where, _ in numbered if number == len(video.frames)), None)
    if zero and last:
        raise ValueError(f'{zero}: names frame 0, yet {last} names a number that only frames counted from 1 have')
    if numbered and not zero and not last:
        raise ValueError(f'{numbered[0][2]}: frames may count from 0 or from 1, for no annotation names frame 0 or a '
                         "video's last frame counted from 1: give first_frame")
    return 0 if zero else 1


def _trailing_number(path: Path) -> int:
    match = re.search('[0-9]+$', path.stem)
    if match is None:
        raise ValueError(f"annotation file '{path}' of a video file must end in its frame's number")
    return int(match.group())


def _read_numbered_lines(video: Video) -> list[tuple]:
    path, = video.texts['lines']
    found = []
    for line_number, line in read_lines(path):
        where = f'{path}, line {line_number}'
        fields = re.split(r'\s*,\s*|\s+', line.strip(', '))
        if len(fields) != 5:
            raise ValueError(f"{where}: expected 5 values (frame x y w h), found {len(fields)}: '{line}'")
        number, *box = (parse_number(text, where, name)
                        for text, name in zip(fields, ('frame', 'x', 'y', 'w', 'h'), strict=True))
        if not isinstance(number, int):
            raise ValueError(f'{where}: frame must be a whole number, but is {number}')
        found.append((video, number, where, (box, where)))
    return found


def _read_json(video: Video, slots: list[list]) -> None:
    path, = video.texts['json']
    content = read_json(str(path), 'annotation file')
    for key in ('exist', 'gt_rect'):
        values = content.get(key) if isinstance(content, dict) else None
        if not isinstance(values, list) or len(values) != len(slots):
            found = f'{len(values)} values' if isinstance(values, list) else 'no such list'
            raise ValueError(f"{path}: '{key}' must list one value for each of {len(slots)} frames, but has {found}")
    for index, (exists, box) in enumerate(zip(content['exist'], content['gt_rect'], strict=True)):
        where = f'{path}, frame {index}'
        if exists not in (0, 1):
            raise ValueError(f"{where}: 'exist' must be 0 or 1, but is {exists!r}")
        if exists:
            if not isinstance(box, list) or len(box) != 4:
                raise ValueError(f"{where}: 'gt_rect' must be [x, y, w, h], but is {box!r}")
            slots[index].append(([parse_number(str(value), where, 'gt_rect') for value in box], where))


def add_objects(builder: CocoBuilder, image: dict, layout: str, entries: list[Any], number: str) -> None:
    """Adds what is annotated in one frame.

    Args:
        builder (CocoBuilder): Gets the boxes, all of its only class.
        image (dict): The frame in it.
        layout (str): A key of ``LAYOUTS``.
        entries (list): From ``read_annotations``.
        number (str): The class's number in YOLO texts.
    """
    if layout in ('yolo', 'voc') and not entries:
        builder.count('frames without an annotation file, taken to show no UAV')
    for entry in entries:
        if layout == 'voc':
            add_voc_objects(builder, image, entry, inclusive=False, skip_unknown=False)
        elif layout == 'yolo':
            _add_yolo(builder, image, entry, number)
        else:
            builder.add_box(image, entry[0], builder.classes[0], entry[1])


def _add_yolo(builder: CocoBuilder, image: dict, path: Path, number: str) -> None:
    for line_number, line in read_lines(path):
        where, fields = f'{path}, line {line_number}', line.split()
        if len(fields) != 5:
            raise ValueError(f"{where}: expected 5 values (class cx cy w h), found {len(fields)}: '{line}'")
        if fields[0] != number:
            raise ValueError(f"{where}: class '{fields[0]}' is not the UAV's, which is '{number}'")
        cx, cy, w, h = values = [parse_number(text, where, name)
                                 for text, name in zip(fields[1:], ('cx', 'cy', 'w', 'h'), strict=True)]
        if min(values) < -1 or max(values) > 2:
            raise ValueError(f"{where}: cx cy w h must be parts of the image's size, but are '{' '.join(fields[1:])}'")
        x1, x2 = (_round((cx + side * w) * image['width']) for side in (-0.5, 0.5))
        y1, y2 = (_round((cy + side * h) * image['height']) for side in (-0.5, 0.5))
        builder.add_box(image, (x1, y1, x2 - x1, y2 - y1), builder.classes[0], where)


def _round(value: float) -> float:
    """Six decimals of a fraction place a pixel to some thousandths; the rest is noise."""
    value = round(value * _GRID) / _GRID
    return int(value) if value.is_integer() else value
