"""HMPE's heatmaps as pictures: what a detector finds hot, and which positions keep their encoding for it.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), figs. 1
and 6, section 4.4: maps of the encoder, enlarged to the image, with a heat bar. One row per level:

    image | H_class | H_bbox | H_mixed, the queries as points | mask | kept encoding

H_class, H_bbox and H_mixed lie over the grey image and have one scale, from 0 to 1, or stretched from the smallest to
the largest value of the row's three; on the bar of H_mixed a line marks tau. The mask shows the cells of the map. With
a ground truth the maps by gradients stand beside H_class and H_bbox, from 0 to 1.

**Kept encoding** is what MOHFE adds to its queries and keys (eq. 7): the sine code of the positions that attend (of
each level the hottest ``max_tokens``) and are in the mask; 0 elsewhere, where the grey image stays. Its length says
nothing but kept or not, since sin^2 + cos^2 = 1 makes it the same in all places, and its slow channels hardly change
over an image. So the fastest two are drawn, the mean of the sines of row and column, and at the panel's sides, as bars
of heat from 0 to 1, the strength: length over that of an unmasked code, its mean over every column (below) and every
row (right). In these an object in the middle of the image shows as fig. 1's "hot" middle with "cold" ends.

Everything is drawn in pixels of the original image, whatever the pipeline made of its size and its padding.

Shape shorthand in this module:
    C: channels of the encoder, N: queries in the level, H, W: size of a level
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Rectangle
from torch import Tensor

from mmscale.analysis.datasets import find_pipelines, type_name
from mmscale.analysis.detector import Detector, Sample, read_test_set
from mmscale.analysis.pictures import grid, save_figure
from mmscale.files import markdown_table
from mmscale.rtdetr.detector import strides_of

from .detector import HMPE
from .heatmap_head import HeatmapHead, Heatmaps, assign_positions
from .mohfe import MOHFE, masked_position_embedding

__all__ = [
    'HeatmapEmbedding',
    'LevelHeat',
    'draw_heatmap_embedding',
    'heat_table',
    'heatmap_embedding',
    'level_statistics',
    'object_statistics',
    'objects_with_queries',
    'read_annotated',
    'require_heatmaps',
]

HEAT, WAVES = 'turbo', 'PuOr_r'
KEPT = ListedColormap(['#1b1b3a', '#f6c445'])  # of the mask: 0, 1
CELL = 2.5  # inches, width of a panel with its bar


@dataclass
class LevelHeat:
    """One level's maps of one image.

    Attributes:
        index (int): The level's place, 0 the finest.
        stride (int): Its stride.
        classes (np.ndarray): H_class as predicted, ``(H, W)``.
        boxes (np.ndarray): H_bbox as predicted, ``(H, W)``.
        mixed (np.ndarray): H_mixed, ``(H, W)``.
        mask (np.ndarray): Where H_mixed is above tau, boolean, ``(H, W)``.
        encoding (np.ndarray, optional): What MOHFE adds to queries and keys, ``(H, W, C)``, 0 where nothing; None for a
            detector without MOHFE.
        queries (np.ndarray, optional): Row and column of HIDQ's queries in the level, ``(N, 2)``, hottest first; None
            for a detector without HIDQ.
        gradients (np.ndarray, optional): H_class and H_bbox by gradients, ``(2, H, W)``; None if not asked for.
        owners (np.ndarray, optional): Number of the object that a position belongs to, or -1, ``(H, W)``; likewise.
    """

    index: int
    stride: int
    classes: np.ndarray
    boxes: np.ndarray
    mixed: np.ndarray
    mask: np.ndarray
    encoding: np.ndarray | None = None
    queries: np.ndarray | None = None
    gradients: np.ndarray | None = None
    owners: np.ndarray | None = None

    @property
    def strength(self) -> np.ndarray:
        """Length of the kept encoding over that of an unmasked one, ``(H, W)``: 1 or 0."""
        return np.linalg.norm(self.encoding, axis=2) / (self.encoding.shape[2] / 2) ** 0.5

    @property
    def waves(self) -> np.ndarray:
        """The mean of the kept encoding's fastest sines, of row and of column, ``(H, W)``, from -1 to 1."""
        return self.encoding[..., [0, self.encoding.shape[2] // 2]].mean(2)


@dataclass
class HeatmapEmbedding:
    """One image's maps.

    Attributes:
        sample (Sample): The image.
        levels (list[LevelHeat]): Of the levels that were asked for.
        tau (float): Threshold of the mask.
        num_queries (int, optional): HIDQ's queries in all levels; None for a detector without HIDQ.
    """

    sample: Sample
    levels: list[LevelHeat]
    tau: float
    num_queries: int | None = None


def require_heatmaps(detector: Detector, levels: Sequence[int] | None = None) -> list[int]:
    """Refuse a detector that has nothing to draw, and levels that it has not.

    Args:
        detector (Detector): The detector.
        levels (Sequence[int], optional): Places of levels, 0 the finest. Defaults to None: all.

    Returns:
        list[int]: The levels, finest first.

    Raises:
        ValueError: Says what is wrong.
    """
    model, name = detector.model, detector.cfg.filename or detector.name
    if not isinstance(model, HMPE):
        raise ValueError(f"config '{name}' builds {type(model).__name__}, which has no heatmaps: mmscale.HMPE has them")
    if model.heatmap_head is None:
        raise ValueError(f"config '{name}' builds an HMPE without heatmaps: its model.heatmap_head is None")
    count = model.neck.num_outs
    if levels is None:
        return list(range(count))
    for level in levels:
        if not 0 <= level < count:
            raise ValueError(f'levels={list(levels)} names level {level}, but the detector has levels 0 to {count - 1}')
    return sorted(set(levels))


def heatmap_embedding(
    detector: Detector, sample: Sample, levels: Sequence[int] | None = None, gradient: bool = False
) -> HeatmapEmbedding:
    """Run a detector on an image and take its heatmaps, the encoding that they keep, and the queries.

    Args:
        detector (Detector): An HMPE with heatmaps.
        sample (Sample): The image.
        levels (Sequence[int], optional): Places of levels, 0 the finest. Defaults to None: all.
        gradient (bool): Whether to make the maps by gradients too, for which the sample needs its ground truth in
            pixels of the input, see :func:`read_annotated`. Defaults to False.

    Raises:
        ValueError: As :func:`require_heatmaps`.
    """
    wanted, model = require_heatmaps(detector, levels), detector.model
    maps, heat, places = _run(model, sample)
    mohfe = getattr(model.neck, 'mohfe', None)
    encodings = [None] * len(maps) if mohfe is None else _kept_encodings(mohfe, maps, heat)
    gradients = owners = [None] * len(maps)
    if gradient:
        gradients = _gradients(model.heatmap_head, maps, sample)
        owners = [x[0].cpu().numpy() for x, *_ in assign_positions(sample.data_samples, maps)]
    strides, found, start = strides_of(maps, sample.inputs), [], 0
    for index, x in enumerate(maps):
        height, width = x.shape[-2:]
        queries = None
        if places is not None:
            own = places[(places >= start) & (places < start + height * width)] - start
            queries = np.stack(np.divmod(own, width), axis=1)
        start += height * width
        if index in wanted:
            predicted = [_plane(part[index]) for part in (heat.classes, heat.boxes, heat.mixed, heat.mask)]
            more = encodings[index], queries, gradients[index], owners[index]
            found.append(LevelHeat(index, strides[index], *predicted, *more))
    return HeatmapEmbedding(sample, found, model.heatmap_head.tau, None if places is None else len(places))


def _run(model: HMPE, sample: Sample) -> tuple[list[Tensor], Heatmaps, np.ndarray | None]:
    """The maps that the heatmap head sees, what it makes of them, and HIDQ's places in the sequence of all levels."""
    seen = {}

    def keep(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs, output))

    hooks = [model.heatmap_head.register_forward_hook(keep('heat'))]
    if model.hidq:
        hooks.append(model.memory_proj.register_forward_hook(keep('hidq')))
    try:
        with torch.no_grad():
            model(sample.inputs, sample.data_samples, mode='tensor')
    finally:
        for hook in hooks:
            hook.remove()
    (maps, *_), heat = seen['heat']
    return maps, heat, seen['hidq'][1][1][0].cpu().numpy() if model.hidq else None


def _kept_encodings(mohfe: MOHFE, maps: Sequence[Tensor], heat: Heatmaps) -> list[np.ndarray]:
    """The masked codes of the positions that attend, ``(H, W, C)`` per level."""
    kept = []
    for code, mixed, mask in zip(mohfe.positions(maps), heat.mixed, heat.mask, strict=True):
        attends = torch.zeros_like(mask.flatten(1)).scatter(1, mohfe.hottest(mixed), True)
        masked = masked_position_embedding(code, mask.flatten(1) & attends)
        kept.append(masked[0].view(*mask.shape[-2:], -1).cpu().numpy())
    return kept


def _gradients(head: HeatmapHead, maps: Sequence[Tensor], sample: Sample) -> list[np.ndarray]:
    """H_class and H_bbox by gradients, ``(2, H, W)`` per level, with the batch norms as at inference."""
    with torch.no_grad():
        activations = [trunk(x) for trunk, x in zip(head.trunks, maps, strict=True)]
        logits = [head.predictor(x) for x in activations]
    return [x[0].cpu().numpy() for x in head.supervise(activations, logits, sample.data_samples).targets]


def _plane(x: Tensor) -> np.ndarray:
    return x[0, 0].cpu().numpy()


def read_annotated(detector: Detector, number: int | None = None) -> Iterator[Sample]:
    """Images of the config's test set with their ground truth in pixels of the network's input.

    A test pipeline loads the annotations after resizing, if at all, for the metric wants them in the original's pixels;
    here they are loaded right after the image.

    Args:
        detector (Detector): Whose config names the test set.
        number (int, optional): At most so many, evenly spaced. Defaults to None: all.

    Raises:
        ValueError: If the config has no test set, or its pipeline loads no annotations.
    """
    cfg = detector.cfg.copy()
    for pipeline in find_pipelines((cfg.get('test_dataloader') or {}).get('dataset')):
        names = [type_name(step) for step in pipeline]
        loaders = [step for step, name in zip(pipeline, names, strict=True) if _loads_annotations(name)]
        if not loaders:
            raise ValueError(f"config '{cfg.filename}': its test pipeline loads no annotations ({', '.join(names)})")
        rest = [step for step, name in zip(pipeline, names, strict=True) if not _loads_annotations(name)]
        pipeline[:] = [rest[0], *loaders, *rest[1:]]
    yield from read_test_set(replace(detector, cfg=cfg), number)


def _loads_annotations(name: str) -> bool:
    return name.startswith('Load') and 'Annotations' in name


def level_statistics(found: HeatmapEmbedding) -> list[dict[str, float]]:
    """Per level what :func:`heat_table` sums up.

    Args:
        found (HeatmapEmbedding): One image's.

    Returns:
        list[dict[str, float]]: ``level``, ``stride``, ``positions``, the means ``H_class``, ``H_bbox``, ``H_mixed``,
        the share of positions in the ``mask`` and of those with a kept ``encoding``, the share of all queries
        (``queries``), and the means by gradients (``H_class gradient``, ``H_bbox gradient``); each where there is one.
    """
    rows = []
    for level in found.levels:
        row = dict(level=level.index, stride=level.stride, positions=level.mixed.size)
        row |= dict(H_class=level.classes.mean(), H_bbox=level.boxes.mean(), H_mixed=level.mixed.mean())
        row['mask'] = level.mask.mean()
        if level.encoding is not None:
            row['encoding'] = (level.strength > 0).mean()
        if level.queries is not None:
            row['queries'] = len(level.queries) / found.num_queries
        if level.gradients is not None:
            row |= {'H_class gradient': level.gradients[0].mean(), 'H_bbox gradient': level.gradients[1].mean()}
        rows.append({name: float(value) for name, value in row.items()})
    return rows


def object_statistics(found: HeatmapEmbedding) -> list[dict[str, float]]:
    """Per level the means over the positions within objects and over the others, of maps with a ground truth.

    Args:
        found (HeatmapEmbedding): One image's, with gradients.

    Returns:
        list[dict[str, float]]: ``level``, ``stride``, and for H_class, H_bbox, the same by gradients, and the mask each
        the mean ``inside`` and ``outside``; NaN where there is no such position.
    """
    rows = []
    for level in found.levels:
        maps = {'H_class': level.classes, 'H_bbox': level.boxes}
        maps |= {'H_class gradient': level.gradients[0], 'H_bbox gradient': level.gradients[1], 'mask': level.mask}
        row = dict(level=level.index, stride=level.stride)
        for name, values in maps.items():
            for place, chosen in (('inside', level.owners >= 0), ('outside', level.owners < 0)):
                row[f'{name} {place}'] = float(values[chosen].mean()) if chosen.any() else float('nan')
        rows.append(row)
    return rows


def objects_with_queries(found: HeatmapEmbedding) -> tuple[int, int, int]:
    """How many objects have one of the queries at a position of theirs.

    Args:
        found (HeatmapEmbedding): One image's, with queries and gradients, of all levels.

    Returns:
        tuple[int, int, int]: Objects; those with a query; those that would have one if the queries were the hottest
        positions by gradients, classes and boxes alike.
    """
    owners = np.concatenate([level.owners.ravel() for level in found.levels])
    by_gradient = np.concatenate([level.gradients.mean(0).ravel() for level in found.levels])
    hit = [level.owners[tuple(level.queries.T)] for level in found.levels]
    would = owners[np.argsort(-by_gradient, kind='stable')[: found.num_queries]]
    count = len(found.sample.data_samples[0].gt_instances)
    return count, len(set(np.concatenate(hit)) - {-1}), len(set(would) - {-1})


def heat_table(images: Iterable[Sequence[dict[str, float]]]) -> str:
    """Means over images of :func:`level_statistics` or :func:`object_statistics` as a Markdown table, a line per level.

    Args:
        images (Iterable[Sequence[dict[str, float]]]): The statistics of every image; what is NaN in one is left out.

    Example:
        >>> images = [[dict(level=0, stride=8, positions=n, mask=n / 96)] for n in (48, 96)]
        >>> print(heat_table(images))
        | level | stride | positions |  mask |
        |------:|-------:|----------:|------:|
        |     0 |      8 |        72 | 75.0% |
    """
    rows = []
    for level in zip(*images, strict=True):
        means = {name: float(np.nanmean([image[name] for image in level])) for name in level[0]}
        rows.append({name: _write(name, value) for name, value in means.items()})
    return markdown_table([list(rows[0]), *(list(row.values()) for row in rows)], right=range(len(rows[0])))


def _write(name: str, value: float) -> str:
    if name in ('level', 'stride', 'positions'):
        return f'{value:.0f}'
    return f'{value:.1%}' if name.split()[0] in ('mask', 'encoding', 'queries') else f'{value:.3f}'


def draw_heatmap_embedding(
    path: str | PathLike, found: HeatmapEmbedding, strength: float = 0.7, stretch: bool = False
) -> None:
    """Draw one figure: a row per level, see the top of this module.

    With maps by gradients, each stands beside the predicted one, and the image carries its ground truth.

    Args:
        path (str | PathLike): The picture's file.
        found (HeatmapEmbedding): One image's maps.
        strength (float): Share of the colours over the image. Defaults to 0.7.
        stretch (bool): Whether the scale of a row's predicted heatmaps goes from their smallest to their largest value
            instead of from 0 to 1. Defaults to False.
    """
    canvas = Canvas(found.sample, strength)
    with_gradients, with_encoding = found.levels[0].gradients is not None, found.levels[0].encoding is not None
    columns = 5 + 2 * with_gradients + with_encoding
    figure, axes = grid(len(found.levels), columns, 0.8 * canvas.height / canvas.width, CELL)
    for line, level in zip(axes, found.levels, strict=True):
        predicted = [level.classes, level.boxes, level.mixed]
        scale = Normalize(np.min(predicted), np.max(predicted)) if stretch else Normalize(0, 1)
        by_gradient = [None] * 3 if level.gradients is None else [*level.gradients, None]
        panels = iter(line)
        canvas.image(next(panels), level)
        for name, heat, gradient in zip(('class', 'bbox', 'mixed'), predicted, by_gradient, strict=True):
            axis, title, stride = next(panels), f'$H_{{{name}}}$', f', stride {level.stride}'
            bar = canvas.heat(axis, heat, scale, title + stride)
            if gradient is not None:
                canvas.heat(next(panels), gradient, Normalize(0, 1), f'{title} by gradient{stride}')
        canvas.queries(axis, level)
        mark_threshold(bar, found.tau, scale)
        canvas.mask(next(panels), level, found.tau)
        if with_encoding:
            canvas.encoding(next(panels), level)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.06, wspace=0.01, hspace=0.01)
    save_figure(path, figure)


class Canvas:
    """Draws in the original image's pixels: of what the pipeline made of it, the scale and the padding are taken back.

    Attributes:
        width (float): Of the original image.
        height (float): Of the original image.
    """

    def __init__(self, sample: Sample, strength: float) -> None:
        meta = sample.data_samples[0].metainfo
        known = 'scale_factor' in meta and 'ori_shape' in meta
        self.height, self.width = (meta['ori_shape'] if known else sample.picture.shape)[:2]
        self.scale = meta['scale_factor'][:2] if known else (1.0, 1.0)  # along the width, along the height
        self.top, _, self.left, _ = meta.get('pad_param') or (0, 0, 0, 0)
        self.input_size = tuple(sample.inputs.shape[-2:])
        self.sample = sample
        self.strength = strength

    def move(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple:
        """From pixels of the network's input to those of the original image."""
        return (x - self.left) / self.scale[0], (y - self.top) / self.scale[1]

    def show(self, axis: Axes, values: np.ndarray, size: tuple[int, int], **options) -> None:
        """Draw an array that covers the ``size``, height and width, of the network's input."""
        (left, top), (right, bottom) = self.move(0, 0), self.move(size[1], size[0])
        axis.imshow(values, extent=(left, right, bottom, top), **options)
        axis.set(xlim=(0, self.width), ylim=(self.height, 0))

    def grey(self, axis: Axes) -> None:
        """The image without its colours."""
        grey = self.sample.picture @ np.array([0.299, 0.587, 0.114])
        self.show(axis, grey, grey.shape, cmap='gray', vmin=0, vmax=255)

    def image(self, axis: Axes, level: LevelHeat) -> None:
        """The image, with the ground truth where the maps by gradients needed it."""
        picture, (rows, columns) = self.sample.picture, level.mixed.shape
        self.show(axis, picture, picture.shape[:2])
        axis.set_title(f'level {level.index}: stride {level.stride}, {columns} x {rows}', fontsize=8)
        if level.gradients is None:
            return
        instances = self.sample.data_samples[0].gt_instances
        for (x1, y1, x2, y2), label in zip(instances.bboxes.tolist(), instances.labels.tolist(), strict=True):
            (left, top), (right, bottom) = self.move(x1, y1), self.move(x2, y2)
            axis.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, lw=0.8, color=f'C{label % 10}')
            )

    def heat(self, axis: Axes, heat: np.ndarray, scale: Normalize, title: str) -> Axes:
        """A heatmap over the grey image; returns its bar."""
        self.grey(axis)
        self.show(axis, heat, self.input_size, cmap=HEAT, norm=scale, alpha=self.strength, interpolation='bilinear')
        axis.set_title(title, fontsize=8)
        return heat_bar(axis, ScalarMappable(scale, HEAT))

    def queries(self, axis: Axes, level: LevelHeat) -> None:
        """A point for every query in the level."""
        if level.queries is None:
            return
        cell = np.array(self.input_size) / level.mixed.shape
        y, x = ((level.queries + 0.5) * cell).T
        axis.scatter(*self.move(x, y), s=5, c='white', edgecolors='black', linewidths=0.4)

    def mask(self, axis: Axes, level: LevelHeat, tau: float) -> None:
        """The cells of the mask."""
        self.grey(axis)
        scale = Normalize(0, 1)
        self.show(
            axis, level.mask, self.input_size, cmap=KEPT, norm=scale, alpha=self.strength, interpolation='nearest'
        )
        bar = heat_bar(axis, ScalarMappable(scale, KEPT), ticks=[0.25, 0.75])
        bar.set_yticklabels(['0', '1'])
        axis.set_title(rf'mask, $\tau$ = {tau:g}: {level.mask.mean():.0%}, stride {level.stride}', fontsize=8)

    def encoding(self, axis: Axes, level: LevelHeat) -> None:
        """The kept encoding's fastest waves, and its strength per column and row."""
        self.grey(axis)
        scale, strength = Normalize(-1, 1), level.strength
        waves = np.ma.masked_array(level.waves, strength == 0)
        self.show(axis, waves, self.input_size, cmap=WAVES, norm=scale, alpha=0.9, interpolation='nearest')
        heat_bar(axis, ScalarMappable(scale, WAVES), offset=0.12, ticks=[-1, 0, 1])
        below, right = axis.inset_axes([0, -0.09, 1, 0.06]), axis.inset_axes([1.03, 0, 0.045, 1])
        for strip, values in ((below, strength.mean(0)[None]), (right, strength.mean(1)[:, None])):
            self.show(strip, values, self.input_size, cmap=HEAT, vmin=0, vmax=1, interpolation='nearest', aspect='auto')
            strip.set(xticks=[], yticks=[])
        axis.set_title(f'kept encoding: {(strength > 0).mean():.0%}, stride {level.stride}', fontsize=8)


def heat_bar(axis: Axes, colours: ScalarMappable, offset: float = 0.03, ticks: Sequence[float] | None = None) -> Axes:
    """A heat bar at a panel's right side, as high as the panel."""
    bar = axis.inset_axes([1 + offset, 0, 0.045, 1])
    axis.figure.colorbar(colours, cax=bar, ticks=ticks).ax.tick_params(labelsize=6, length=2, pad=1)
    return bar


def mark_threshold(bar: Axes, tau: float, scale: Normalize) -> None:
    """A line on a heat bar where the mask ends, if it is in the bar's range."""
    if scale.vmin <= tau <= scale.vmax:
        bar.axhline(tau, color='white', lw=1.6)
        bar.axhline(tau, color='black', lw=0.8)
