"""Micro RGB UAV, videos of drones of a few pixels, to COCO json and a folder of frames per video.

The CSF-Net paper (Sensors 2026) trains on 182 videos and validates on 62, of 50 frames each; it refers to "A video
object detector with Spatio-Temporal Attention Module for micro UAV detection" (Neurocomputing 2024) for the data. Their
publisher's layout is not known to us. **Our choice** is to read what releases of that kind use:

- a folder of frames (``.jpg``, ``.png``) or a video file (``.mp4``, ``.avi``) per video;
- annotations as YOLO text per frame (``class cx cy w h`` in parts of the image), PASCAL VOC XML per frame (boxes as
  :func:`convert_voc` reads them), one text per video (``frame x y w h``), or one JSON per video as in Anti-UAV
  (``{"exist": [1, ...], "gt_rect": [[x, y, w, h], ...]}``), named like the frame or the video, or lying in its folder;
- all of it below ``train`` and ``val``, or beside lists ``train.txt`` and ``val.txt`` of videos, or undivided. Folders
  such as ``images`` and ``labels`` may come between.

The split is by video, never by frame: neighbouring frames are all but equal. Where the source is undivided, **our
choice** is to draw 62 of 244 videos for validation from a seed. YOLO boxes are rounded to 1/128 pixel, which gives back
whole pixels from six decimals in images up to 5000 pixels wide.
"""
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from .coco import CocoBuilder, Summary, read_lines, write_text
from .micro_uav_boxes import add_objects, read_annotations
from .micro_uav_source import Video, check_layout, extract_frames, find_videos, sort_key
from .nwpu import split_names

__all__ = ['MICRO_UAV_CLASSES', 'convert_micro_uav']

MICRO_UAV_CLASSES = ('UAV', )
_NAME = 'Micro RGB UAV'
_FRAMES, _VIDEOS = 50, dict(train=182, val=62)


class _VideoBuilder(CocoBuilder):
    """A COCO data set that lists its videos, as COCO's video format does."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.videos = []

    def document(self) -> dict:
        return dict(super().document(), videos=self.videos)


def convert_micro_uav(root: str | Path = 'data/micro_uav/source', out: str | Path = 'data/micro_uav',
                      layout: str | None = None, val_fraction: float = 62 / 244, seed: int = 0,
                      train_list: str | Path | None = None, val_list: str | Path | None = None,
                      first_frame: int | None = None, label: str | None = None, copy: bool = False,
                      overwrite: bool = False, decode: bool = False) -> list[Summary]:
    """Converts Micro RGB UAV into ``annotations/{train,val}.json`` and ``images/{train,val}/<video>/<frame>``.

    Every image of the json has ``video_id`` (from 1, over both splits) and ``frame_index`` (from 0). The videos of each
    split are listed in ``annotations/{train,val}.txt``.

    Args:
        root (str | Path): Folder with the videos. Defaults to 'data/micro_uav/source'.
        out (str | Path): Folder for the results. Defaults to 'data/micro_uav'.
        layout (str, optional): The annotations' layout where several are found: 'yolo', 'voc', 'lines' or 'json'.
            Defaults to None.
        val_fraction (float): Share of the videos for validation where the split is drawn. Defaults to 62 of 244.
        seed (int): Seed of a drawn split. Defaults to 0.
        train_list (str | Path, optional): Text file with one video's name per line, instead of a drawn split; needs
            ``val_list`` too. Defaults to None: ``<root>/train.txt`` where it exists.
        val_list (str | Path, optional): The same for validation. Defaults to None.
        first_frame (int, optional): Number of the first frame, 0 or 1, in annotations that name frames by number.
            Defaults to None: told from the annotations.
        label (str, optional): The class in YOLO texts (a number) or XML files (a name). Defaults to None: '0', 'UAV'.
        copy (bool): Copy the frames instead of linking to them. Defaults to False.
        overwrite (bool): Replace an ``images`` folder that is there. Defaults to False.
        decode (bool): Decode every frame to prove that it is whole. Defaults to False.

    Returns:
        list[Summary]: Of train and val.

    Raises:
        FileExistsError: ``<out>/images`` exists.
        FileNotFoundError: Videos, annotations or a list are missing.
        ValueError: No layout or several fit, a video is in both splits, an annotation or a frame is broken; the message
            names the file.
    """
    root, out = Path(root), Path(out)
    _check_folders(root, out, overwrite)
    videos = find_videos(root)
    splits, origin = _split(videos, root, val_fraction, seed, train_list, val_list)
    videos = [video for video in videos if any(video in members for members in splits.values())]
    layout = check_layout(videos, layout)
    with _staging(out) as stage:
        for split, members in splits.items():
            for video in tqdm(members, desc=f'{_NAME} {split}', unit='video', disable=None):
                if video.file:
                    video.frames = extract_frames(video.file, stage / 'images' / split / video.name)
        entries = read_annotations(videos, layout, first_frame)
        ids = {video.name: number for number, video in enumerate(videos, 1)}
        built = {split: _build(f'{_NAME} {split}, {origin}', members, ids, layout, entries, label, decode)
                 for split, members in splits.items()}
        _notice(splits)
        summaries = []
        for split, members in splits.items():
            _place(members, split, stage, out, copy)
            summaries.append(built[split].finish(stage / 'annotations' / f'{split}.json'))
            summaries[-1].path = out / 'annotations' / f'{split}.json'
            write_text(stage / 'annotations' / f'{split}.txt', ''.join(f'{video.name}\n' for video in members))
        _publish(stage, out)
    return summaries


def _check_folders(root: Path, out: Path, overwrite: bool) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"root '{root}' is missing: place the videos of {_NAME} and their annotations there")
    if out.resolve().is_relative_to(root.resolve()) or root.resolve().is_relative_to((out / 'images').resolve()):
        raise ValueError(f"root '{root}' and out '{out}' must not lie in each other: move the published files to "
                         f"'{out / 'source'}' and give that as root")
    if (out / 'images').exists() and not overwrite:
        raise FileExistsError(f"'{out / 'images'}' exists: give overwrite to replace it, or another out")


def _split(videos: Sequence[Video], root: Path, val_fraction: float, seed: int, train_list: str | Path | None,
           val_list: str | Path | None) -> tuple[dict[str, list[Video]], str]:
    """The videos of each split, and where the split comes from."""
    if (train_list is None) != (val_list is None):
        raise ValueError(f'train_list and val_list must be given together, but train_list is {train_list} and val_list '
                         f'is {val_list}')
    names, own_lists = [video.name for video in videos], (root / 'train.txt', root / 'val.txt')
    given = {video.split for video in videos}
    if given != {None}:
        if train_list is not None:
            raise ValueError(f"train_list is '{train_list}', but root '{root}' is divided by its folders already")
        if given != {'train', 'val'}:
            raise ValueError(f"root '{root}' must have videos in both train and val and nowhere else, but has them in "
                             f"{sorted(split or 'no split' for split in given)}")
        parts, origin = [[video.name for video in videos if video.split == split] for split in _VIDEOS], 'by folders'
    elif train_list is not None or any(path.is_file() for path in own_lists):
        parts = _read_lists(own_lists if train_list is None else (Path(train_list), Path(val_list)), names)
        origin = 'by lists'
    else:
        if not 0 < val_fraction < 1:
            raise ValueError(f'val_fraction must lie between 0 and 1, but is {val_fraction}')
        if round(len(names) * (1 - val_fraction)) in (0, len(names)):
            raise ValueError(f'val_fraction {val_fraction} of {len(names)} videos leaves one split empty')
        parts, origin = split_names(names, 1 - val_fraction, seed), f'drawn with seed {seed}'
    parts = [set(part) for part in parts]
    return {split: [video for video in videos if video.name in part]
            for split, part in zip(_VIDEOS, parts, strict=True)}, f'split {origin}'


def _read_lists(paths: Sequence[Path], names: Sequence[str]) -> list[set[str]]:
    parts = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"list '{path}' does not exist")
        parts.append(set())
        for number, line in read_lines(path):
            name = line if line in names else Path(line).stem
            if name not in names:
                raise ValueError(f"{path}, line {number}: there is no video '{line}'")
            parts[-1].add(name)
        if not parts[-1]:
            raise ValueError(f"list '{path}' names no video")
    both = sorted(parts[0] & parts[1], key=sort_key)
    if both:
        raise ValueError(f"'{paths[0]}' and '{paths[1]}' must not share videos, but share {both[:5]}")
    unlisted = [name for name in names if name not in parts[0] | parts[1]]
    if unlisted:
        warnings.warn(f'{_NAME}: {len(unlisted)} videos are in neither list and left out (the first: {unlisted[0]})',
                      stacklevel=4)
    return parts


def _build(name: str, videos: Sequence[Video], ids: dict[str, int], layout: str, entries: dict[str, list[list]],
           label: str | None, decode: bool) -> CocoBuilder:
    builder = _VideoBuilder(name, (label or 'UAV', ) if layout == 'voc' else MICRO_UAV_CLASSES, decode)
    for video in tqdm(videos, desc=builder.name, unit='video', disable=None):
        builder.videos.append(dict(id=ids[video.name], name=video.name))
        builder.count('videos')
        for index, path in enumerate(video.frames):
            image = builder.add_image(path, f'{video.name}/{path.name}')
            image.update(video_id=ids[video.name], frame_index=index)
            add_objects(builder, image, layout, entries[video.name][index], label or '0')
    builder.classes = MICRO_UAV_CLASSES  # whatever the XML files call it
    return builder


def _notice(splits: dict[str, list[Video]]) -> None:
    videos = [video for members in splits.values() for video in members]
    odd = [video for video in videos if len(video.frames) != _FRAMES]
    if odd:
        warnings.warn(f'{_NAME}: {len(odd)} of {len(videos)} videos do not have {_FRAMES} frames (the first: '
                      f'{odd[0].name} with {len(odd[0].frames)})', stacklevel=3)
    counts = {split: len(members) for split, members in splits.items()}
    if counts != _VIDEOS:
        warnings.warn(f'{_NAME}: {counts["train"]} videos for training and {counts["val"]} for validation, where the '
                      f'CSF-Net paper has {_VIDEOS["train"]} and {_VIDEOS["val"]}', stacklevel=3)


def _place(videos: Sequence[Video], split: str, stage: Path, out: Path, copy: bool) -> None:
    """Links or copies the frames; those of video files are there. Links within ``out`` are relative: it may move."""
    for video in tqdm(videos, desc=f'{_NAME} {split}, frames', unit='video', disable=None):
        if video.file:
            continue
        (stage / 'images' / split / video.name).mkdir(parents=True)
        for path in video.frames:
            target, source = stage / 'images' / split / video.name / path.name, path.resolve()
            if copy:
                shutil.copyfile(source, target)
            elif source.is_relative_to(out.resolve()):
                target.symlink_to(os.path.relpath(source, out.resolve() / 'images' / split / video.name))
            else:
                target.symlink_to(source)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder in ``out`` in which everything is made, and which is gone afterwards."""
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix='.unfinished-', dir=out))
    try:
        yield stage
    finally:
        shutil.rmtree(stage)
        if is_new and not any(out.iterdir()):
            out.rmdir()


def _publish(stage: Path, out: Path) -> None:
    """Moves what was made to its place by renaming, the json files last."""
    images, replaced = out / 'images', stage / 'replaced'
    if os.path.lexists(images):
        os.replace(images, replaced)
    try:
        os.replace(stage / 'images', images)
    except OSError:
        if os.path.lexists(replaced):
            os.replace(replaced, images)
        raise
    (out / 'annotations').mkdir(exist_ok=True)
    for path in sorted((stage / 'annotations').iterdir(), key=lambda path: path.suffix == '.json'):
        os.replace(path, out / 'annotations' / path.name)
