"""The report itself: everything that can be known of a config's data sets before anyone trains on them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

from mmengine.config import Config

from ..datasets import type_name
from ..model import load_config
from .detector import find_levels, find_limits, find_strides
from .faults import annotated_images, find_faults, kept_images
from .files import ImageFile, find_copies, read_files, size_faults
from .findings import find_findings
from .loading import SPLITS, Boxes, Split, load_splits, original_boxes, resized_boxes
from .measures import measure_classes, measure_crowding, measure_levels, measure_sizes, measure_strides, per_draw

__all__ = ['Report', 'dataset_report']


@dataclass
class Report:
    """A finished report.

    Args:
        content (dict): All of it, ready for JSON.
        original (dict[str, Boxes]): The objects as annotated, by split.
        resized (dict[str, Boxes]): The objects as the network gets them, each once per draw.
    """

    content: dict
    original: dict[str, Boxes]
    resized: dict[str, Boxes]


def dataset_report(
    config: str | PathLike | Config,
    *,
    splits: Sequence[str] = SPLITS,
    strides: Sequence[float] | None = None,
    max_images: int | None = None,
    draws: int = 3,
    read_images: bool = True,
    seed: int = 0,
    cfg_options: dict | None = None,
    progress: bool = False,
) -> Report:
    """Looks at the data sets of a config; trains nothing and needs no weights.

    Args:
        config (str | PathLike | Config): A config, its file, or one inside an installed package ('mmdet::...').
        splits (Sequence[str]): Which data sets, of 'train', 'val' and 'test'. Defaults to all that there are.
        strides (Sequence[float], optional): The detector's. Defaults to None: those of the config.
        max_images (int, optional): At most so many images of each data set, drawn at random; the annotation files are
            read whole all the same. Defaults to None, for all.
        draws (int): How often an image passes a pipeline that resizes at random. Defaults to 3.
        read_images (bool): Whether to read and decode the image files. Defaults to True.
        seed (int): Of all draws. Defaults to 0.
        cfg_options (dict, optional): Overrides by dotted key. Defaults to None.
        progress (bool): Whether to show progress bars. Defaults to False.

    Raises:
        FileNotFoundError: The config or an annotation file does not exist.
        ValueError: An argument is out of its range, or the config has no data set or no strides.
    """
    for name, value in (('draws', draws), ('max_images', max_images)):
        if value is not None and value < 1:
            raise ValueError(f'{name}={value} should be a whole number from 1')
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"splits={list(splits)} should be of {', '.join(SPLITS)}, not '{sorted(unknown)[0]}'")
    cfg = load_config(config, cfg_options)
    loaded = load_splits(cfg, splits, max_images, seed)
    detector_strides, source = find_strides(cfg, strides)
    limits = find_limits(cfg)
    batch = [type_name(item) for item in (cfg.model.get('data_preprocessor') or {}).get('batch_augments') or []]
    content = dict(
        config=str(cfg.filename),
        detector=dict(type=type_name(cfg.model), strides=detector_strides, strides_from=source, batch_augments=batch),
        seed=seed,
        splits={},
    )
    report, files = Report(content, {}, {}), {}
    for split in loaded:
        times = draws if split.pipeline.random else 1
        original = original_boxes(split)
        resized = resized_boxes(split, times, seed, progress)
        report.original[split.name], report.resized[split.name] = original, resized
        content['splits'][split.name] = entry = dict(
            name=split.name,
            trains=split.trains,
            resize=_describe_resize(split, resized, times),
            original=measure_sizes(original),
            resized=measure_sizes(resized, times),
            strides=measure_strides(resized, detector_strides, times),
            levels=measure_levels(find_levels(cfg, resized.sizes), times),
            crowding=measure_crowding(original, [item for item in limits if item.trains or split.name != 'train']),
            ignored=original.ignored,
            **_classes(original, split.dataset.metainfo.get('classes') or ()),
        )
        entry['images'], entry['faults'], entry['files'], files[split.name] = _look(split, read_images, progress)
    content['copies'] = find_copies(files) if read_images else {}
    content['look_at'] = find_findings(content)
    return report


def _classes(boxes: Boxes, classes: Sequence[str]) -> dict:
    """The classes, and how many times the most frequent one outnumbers the least frequent one that occurs."""
    rows = measure_classes(boxes, classes)
    counts = [row['objects'] for row in rows if row['objects']]
    return dict(classes=rows, imbalance=round(max(counts) / min(counts), 1) if counts else None)


def _describe_resize(split: Split, resized: Boxes, draws: int) -> dict:
    """What the pipeline does, and the sizes of image that come out most often."""
    pipeline = split.pipeline
    shapes = Counter(tuple(int(side) for side in shape) for shape in resized.shapes)
    images = [dict(height=height, width=width, number=per_draw(number, draws))
              for (height, width), number in shapes.most_common(5)]  # fmt: skip
    return dict(steps=pipeline.steps, unknown=pipeline.unknown, wrappers=pipeline.wrappers, random=pipeline.random,
                draws=draws, images=images)  # fmt: skip


def _look(split: Split, read: bool, progress: bool) -> tuple[dict, dict, dict | None, list[ImageFile]]:
    """What stands in the split's annotation files, and what its image files are."""
    images, kept = annotated_images(split), kept_images(split)
    empty = [image.path for image in images if not image.boxes]
    counts = dict(listed=len(images), kept=len(kept), looked_at=len(split.indices), without_objects=len(empty),
                  kept_without_objects=len(set(empty) & set(kept)))  # fmt: skip
    faults = find_faults(images)
    if not read:
        return counts, faults, None, []
    if len(split.indices) < len(kept):
        chosen = {kept[index] for index in split.indices}
        images = [image for image in images if image.path in chosen]
    files = read_files(images, f'{split.name}: files', progress)
    unreadable = [dict(image=file.image.name, fault=file.fault) for file in files if file.fault]
    return counts, faults, dict(read=len(files), unreadable=unreadable, sizes=size_faults(files)), files
