"""The report as pictures."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..pictures import COLOURS, save_figure
from .loading import Boxes
from .report import Report

__all__ = ['draw_report']

MOST_CLASSES = 40


def draw_report(folder: str | PathLike, report: Report) -> list[Path]:
    """Draws sizes, objects per image and classes.

    Args:
        folder (str | PathLike): Where 'sizes.png', 'objects_per_image.png' and 'classes.png' are written.
        report (Report): The report.

    Returns:
        list[Path]: The pictures.
    """
    drawn = []
    for name, draw in (('sizes', _sizes), ('objects_per_image', _objects_per_image), ('classes', _classes)):
        path = Path(folder) / f'{name}.png'
        save_figure(path, draw(report))
        drawn.append(path)
    return drawn


def _per_split(report: Report, draw: Callable[[Axes, str], None], width: float = 5.2, height: float = 3.6) -> Figure:
    """A row of axes, one per split."""
    names = list(report.content['splits'])
    figure = Figure(figsize=(width * len(names), height), layout='constrained')
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        draw(axis, name)
        axis.set_title(name)
    return figure


def _sizes(report: Report) -> Figure:
    """Histograms of sqrt(area) and shorter side after resizing, with the strides as lines."""
    strides = report.content['detector']['strides']

    def draw(axis: Axes, name: str) -> None:
        boxes: Boxes = report.resized[name]
        draws = report.content['splits'][name]['resize']['draws']
        values = [np.maximum(boxes.root_areas, 0.5), np.maximum(boxes.min_sides, 0.5)]
        if len(boxes.labels):
            high = max(values[0].max(), max(strides)) * 1.1
            bins = np.geomspace(min(0.9, *(value.min() for value in values)), high, 60)
            weights = np.full(len(boxes.labels), 1 / draws)
            for value, label, colour in zip(values, ('sqrt(area)', 'shorter side'), COLOURS, strict=False):
                axis.hist(value, bins, weights=weights, histtype='step', linewidth=1.4, color=colour, label=label)
        for at, stride in enumerate(strides):
            axis.axvline(stride, color='grey', linestyle='--', linewidth=0.9, label='strides' if at == 0 else None)
        axis.set_xscale('log', base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
        axis.set(xlabel='pixels after resizing', ylabel='objects')
        axis.legend(fontsize=7, loc='upper left')

    return _per_split(report, draw)


def _objects_per_image(report: Report) -> Figure:
    """Histograms of objects per image, with the limits as lines."""

    def draw(axis: Axes, name: str) -> None:
        boxes: Boxes = report.original[name]
        numbers = np.bincount(boxes.images, minlength=len(boxes.shapes))
        limits: dict[int, list[str]] = {}
        for limit in report.content['splits'][name]['crowding']['limits']:
            if limit['per'] == 'image':
                limits.setdefault(limit['value'], []).append(limit['name'])
        high = int(max([1, *numbers, *limits]))
        axis.hist(numbers, np.arange(0, high + 2, high // 100 + 1) - 0.5, color=COLOURS[0])
        for value, names in limits.items():
            axis.axvline(value, color='grey', linestyle='--', linewidth=0.9, label=f'{value}: {", ".join(names)}')
        axis.set(xlabel='objects per image', ylabel='images')
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        if limits:
            axis.legend(fontsize=7, loc='upper center')

    return _per_split(report, draw)


def _classes(report: Report) -> Figure:
    """Bars of objects by class, in the first split's order of frequency."""
    splits = report.content['splits']
    first = next(iter(splits.values()))
    order = [row['name'] for row in sorted(first['classes'], key=lambda row: -row['objects'])][:MOST_CLASSES]
    figure = Figure(figsize=(max(5.2, 0.35 * len(order) * len(splits)), 3.6), layout='constrained')
    axis = figure.subplots()
    width = 0.8 / len(splits)
    for at, (name, split) in enumerate(splits.items()):
        counts = {row['name']: row['objects'] for row in split['classes']}
        places = np.arange(len(order)) + (at - (len(splits) - 1) / 2) * width
        bars = axis.bar(places, [counts.get(label, 0) for label in order], width, label=name, color=COLOURS[at])
        if len(order) <= 10:
            axis.bar_label(bars, fontsize=7)
    axis.set_yscale('symlog', linthresh=1)
    axis.margins(y=0.1)
    axis.set_xticks(range(len(order)), order, rotation=90 if len(order) > 10 else 0)
    more = len(first['classes']) - len(order)
    axis.set(ylabel='objects', title=f'the {MOST_CLASSES} most frequent of {len(first["classes"])}' if more else None)
    axis.legend(fontsize=7)
    return figure
