"""The data sets of a config, and the objects in them before and after the pipeline's resizing."""

import contextlib
import io
import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from ..datasets import build_dataset
from .blank import BlankPipeline, blank_dataset

__all__ = ['SPLITS', 'Boxes', 'Split', 'leaves', 'load_splits', 'original_boxes', 'quiet', 'resized_boxes']

SPLITS = ('train', 'val', 'test')


@dataclass
class Split:
    """One data set of a config.

    Args:
        name (str): 'train', 'val' or 'test', or several of them that are the same data set: 'val+test'.
        dataset (BaseDataset): It, wrapped or not, on blank images.
        pipeline (BlankPipeline): What became of its transforms.
        indices (list[int]): The images that are looked at.
    """

    name: str
    dataset: object
    pipeline: BlankPipeline
    indices: list[int]

    @property
    def trains(self) -> bool:
        """bool: Whether the detector is trained on it."""
        return 'train' in self.name.split('+')


@dataclass
class Boxes:
    """Objects of several images; those to be ignored (crowds, difficult ones) are only counted.

    N objects on I images.

    Args:
        sizes (np.ndarray): Width and height, (N, 2).
        labels (np.ndarray): (N,).
        images (np.ndarray): Which of the images an object is on, (N,).
        shapes (np.ndarray): Height and width of the images, (I, 2).
        ignored (int): Objects to be ignored.
    """

    sizes: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    shapes: np.ndarray
    ignored: int

    @classmethod
    def collect(cls, parts: Iterable[tuple]) -> 'Boxes':
        """From images one by one: corners (n, 4), labels (n,), whether to ignore (n,), shape."""
        sizes, labels, images, shapes, ignored = [np.zeros((0, 2))], [np.zeros(0, int)], [np.zeros(0, int)], [], 0
        for index, (corners, found, ignore, shape) in enumerate(parts):
            kept = ~np.asarray(ignore, dtype=bool).reshape(-1)
            corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)[kept]
            sizes.append(corners[:, 2:] - corners[:, :2])
            labels.append(np.asarray(found, dtype=int).reshape(-1)[kept])
            images.append(np.full(len(corners), index))
            shapes.append(shape)
            ignored += int((~kept).sum())
        shapes = np.array(shapes, dtype=np.float64).reshape(-1, 2)
        return cls(*map(np.concatenate, (sizes, labels, images)), shapes, ignored)

    @property
    def min_sides(self) -> np.ndarray:
        """np.ndarray: The shorter sides, (N,)."""
        return self.sizes.min(axis=1, initial=np.inf)

    @property
    def root_areas(self) -> np.ndarray:
        """np.ndarray: Square roots of the areas, (N,)."""
        return np.sqrt(np.maximum(self.sizes.prod(axis=1), 0))


def load_splits(
    cfg: Config, names: Sequence[str] = SPLITS, max_images: int | None = None, seed: int = 0
) -> list[Split]:
    """Builds the data sets of a config; those that are configured alike only once.

    Args:
        cfg (Config): The config.
        names (Sequence[str]): Which of them. Defaults to all that it has.
        max_images (int, optional): How many images of each are looked at, drawn at random. Defaults to None, for all.
        seed (int): Of the draw. Defaults to 0.

    Raises:
        ValueError: The config has none of them, or one has no image.
    """
    merged: list[tuple[list[str], dict]] = []
    for name in names:
        dataset = (cfg.get(f'{name}_dataloader') or {}).get('dataset')
        if dataset is None:
            continue
        dataset = ConfigDict(dataset).to_dict()
        same = next((entry for entry in merged if entry[1] == dataset), None)
        if same:
            same[0].append(name)
        else:
            merged.append(([name], dataset))
    if not merged:
        raise ValueError(f"config '{cfg.filename}' has no data set: none of {', '.join(names)}_dataloader")
    splits = []
    for group, dataset in merged:
        blank, pipeline = blank_dataset(dataset)
        built = build_dataset(blank, cfg.get('default_scope'))
        indices = list(range(len(built)))
        if max_images is not None and max_images < len(indices):
            indices = sorted(random.Random(seed).sample(indices, max_images))
        splits.append(Split('+'.join(group), built, pipeline, indices))
    return splits


def leaves(dataset) -> Iterator:
    """The data sets inside the wrappers."""
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else None)
    if inner is None:
        yield dataset
    else:
        for part in inner:
            yield from leaves(part)


def original_boxes(split: Split) -> Boxes:
    """The objects as annotated, in the images' own pixels."""

    def parts():
        for index in split.indices:
            info = split.dataset.get_data_info(index)
            found = [item for item in info.get('instances', []) if 'bbox' in item]
            yield ([item['bbox'] for item in found], [item['bbox_label'] for item in found],
                   [item.get('ignore_flag', 0) for item in found], (info['height'], info['width']))  # fmt: skip

    return Boxes.collect(parts())


def resized_boxes(split: Split, draws: int = 1, seed: int = 0, progress: bool = False) -> Boxes:
    """The objects as the network gets them, before its batch is padded.

    Args:
        split (Split): The data set.
        draws (int): How often each image passes the pipeline. Defaults to 1.
        seed (int): Of the transforms; the generators of NumPy and Python are left as they were. Defaults to 0.
        progress (bool): Whether to show a progress bar. Defaults to False.
    """

    def parts():
        order = [index for _ in range(draws) for index in split.indices]
        for index in tqdm(order, desc=f'{split.name}: sizes', ncols=88, disable=None if progress else True):
            results = split.dataset[index]
            corners = results['gt_bboxes']
            yield (getattr(corners, 'tensor', corners), results['gt_bboxes_labels'], results['gt_ignore_flags'],
                   results['img'].shape[:2])  # fmt: skip

    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        return Boxes.collect(parts())
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines, for what was logged before."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints while it reads
            yield
    finally:
        logging.disable(before)
