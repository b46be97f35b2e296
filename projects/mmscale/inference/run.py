"""The run: files in, detections out, and what was skipped by name."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mmscale.engine.cli import UsageError
from mmscale.version import __version__

from .coco_results import CocoResults
from .detections import Detections
from .drawing import draw_detections, enlarge_small
from .onnx_model import OnnxModel
from .outputs import PictureFolder
from .reading import Unreadable, Video, as_picture, read_image
from .sources import Source
from .torch_model import TorchModel

__all__ = ['Summary', 'run']

NAMED = 5  # unreadable files in the last line; all of them were named before, and are in the JSON file


@dataclass
class Summary:
    """What a run did.

    Attributes:
        images (int): Image files that were looked at.
        videos (int): Videos that were looked at.
        frames (int): Their frames.
        detections (int): Objects found in all.
        unreadable (dict[str, str]): Reason by name of every file that was skipped.
    """

    images: int = 0
    videos: int = 0
    frames: int = 0
    detections: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(Summary(images=3, detections=1, unreadable={'a.jpg': 'image a.jpg is empty'}))
            3 images, 1 detection, 1 unreadable (a.jpg)
        """
        parts = [_count(self.images, 'image')] if self.images or not self.videos else []
        parts += [f'{_count(self.videos, "video")} of {_count(self.frames, "frame")}'] if self.videos else []
        parts += [_count(self.detections, 'detection'), f'{len(self.unreadable)} unreadable']
        names = ', '.join([*list(self.unreadable)[:NAMED], *['...'] * (len(self.unreadable) > NAMED)])
        return ', '.join(parts) + (f' ({names})' if names else '')


@dataclass
class Item:
    """An image, or a frame of a video, on its way through.

    Attributes:
        source (Source): Its file.
        image (np.ndarray): As it was decoded.
        prepared (Any): As the model wants it.
        frame (int, optional): Its place in the video, from 0. Defaults to None: it is an image.
        fps (float, optional): The video's frames per second. Defaults to None.
    """

    source: Source
    image: np.ndarray
    prepared: Any
    frame: int | None = None
    fps: float | None = None


def run(
    model: TorchModel | OnnxModel,
    sources: Sequence[Source],
    out_dir: Path,
    score_thr: float = 0.3,
    batch_size: int = 1,
    pictures: bool = True,
) -> Summary:
    """Detect in every source; write ``detections.json`` and, below ``pictures/``, what was found, drawn.

    A file that cannot be read is named on stderr, skipped and counted. The JSON file is written at the end.

    Args:
        model (TorchModel | OnnxModel): The detector.
        sources (Sequence[Source]): As :func:`find_sources` gives them.
        out_dir (Path): Folder for the results.
        score_thr (float): Lowest score of a detection that is drawn and written. Defaults to 0.3.
        batch_size (int): Images that pass the model together. Defaults to 1.
        pictures (bool): Whether to draw. Defaults to True.

    Returns:
        Summary: What was done.

    Raises:
        UsageError: If not one source can be read.
    """
    results, summary = CocoResults(model.classes), Summary()
    folder = PictureFolder(out_dir / 'pictures', sources) if pictures else None
    bar = tqdm(total=len(sources), desc='infer', unit='image', ncols=88, disable=None)
    items = _read_items(model, sources, summary, bar)
    try:
        with bar, closing(items):
            for batch in _batches(model, items, batch_size):
                found = model.detect([item.prepared for item in batch], score_thr)
                for item, detections in zip(batch, found, strict=True):
                    _keep(item, detections, model.classes, results, folder, summary)
                bar.update(len(batch))
        if folder is not None:
            folder.close()
    finally:
        if folder is not None:
            folder.abort()
    if not summary.images and not summary.videos:
        reason = next(iter(summary.unreadable.values()))
        raise UsageError(
            reason if len(sources) == 1 else f'none of the {len(sources)} files can be read; the first: {reason}'
        )
    info = dict(
        description='detections of MMScale tools/infer.py',
        version=__version__,
        model=model.name,
        score_thr=score_thr,
        unreadable=[dict(file_name=name, reason=reason) for name, reason in summary.unreadable.items()],
    )
    results.write(out_dir / 'detections.json', info)
    return summary


def _read_items(model, sources: Sequence[Source], summary: Summary, bar: tqdm) -> Iterator[Item]:
    """Decode and prepare the sources one after the other; name those that cannot be read."""
    for source in sources:
        try:
            yield from _read_video(model, source, summary, bar) if source.is_video else [_read_image(model, source)]
        except Unreadable as error:
            summary.unreadable[source.name] = str(error)
            tqdm.write(f'skipped: {error}', file=sys.stderr)
            bar.update()
        else:
            summary.images += not source.is_video
            summary.videos += source.is_video


def _read_image(model, source: Source) -> Item:
    image = read_image(source.path, model.loader)
    return Item(source, image, model.prepare(image, source.path))


def _read_video(model, source: Source, summary: Summary, bar: tqdm) -> Iterator[Item]:
    """Frames of a video; the bar learns of them from its header, and at its end the truth."""
    video, index = Video(source.path), -1
    bar.total += video.length - 1
    for index, frame in enumerate(video):
        yield Item(source, frame, model.prepare(frame, source.path, index), index, video.fps)
        summary.frames += 1
    read = index + 1
    bar.total += read - video.length
    if read < video.length - max(2, video.length // 50):  # headers of some formats are estimates
        tqdm.write(
            f"warning: video '{source.path}' ends after {read} of the {video.length} frames that its header states",
            file=sys.stderr,
        )


def _batches(model, items: Iterator[Item], batch_size: int) -> Iterator[list[Item]]:
    """Neighbours that fit together, at most ``batch_size`` of them."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == batch_size or not model.fits_batch(batch[0].prepared, item.prepared)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _keep(
    item: Item,
    found: Detections,
    classes: tuple[str, ...],
    results: CocoResults,
    folder: PictureFolder | None,
    summary: Summary,
) -> None:
    """Note and draw what was found in one image."""
    fields = {} if item.frame is None else dict(frame_index=item.frame)
    results.add(item.source.name, item.image.shape[:2], found, **fields)
    summary.detections += len(found)
    if folder is None:
        return
    picture = as_picture(item.image)
    if item.frame is None:
        picture, found = enlarge_small(picture, found)
    folder.write(item.source, draw_detections(picture, found, classes), item.fps)


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"s" * (number != 1)}'
