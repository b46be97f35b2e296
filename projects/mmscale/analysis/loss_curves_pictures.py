"""Smoothed curves of several trainings as a picture."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure

from .loss_curves import Curve, Model, lr_drops
from .pictures import save_figure

__all__ = ['check_log_axis', 'draw_curves', 'drop_places']

# Safe for colour-blind readers; after eight models the dashes change.
CYCLE = ('#222222', '#d55e00', '#0072b2', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f')
STYLES = ('-', '--', ':', '-.')
AXES = {'epoch': 'epoch', 'iter': 'iteration', 'time': 'hours of training'}


def check_log_axis(models: Sequence[Model], key: str) -> None:
    """Refuse a logarithmic axis for values that it has no place for.

    Raises:
        ValueError: If a smoothed value is not above 0.
    """
    for model in models:
        for curve in model.curves:
            if (lowest := np.nanmin(curve.smoothed)) <= 0:
                raise ValueError(
                    f"--log needs values above 0, but '{curve.log.path}' has a smoothed '{key}' of {lowest:.4g}"
                )


def drop_places(curve: Curve, axis: str) -> list[tuple[float, float]]:
    """Where a run's learning rate drops, and to which share of what it was."""
    log = curve.log
    positions, places = [record.position for record in log.train], log.coordinate(log.train, axis)
    return [(float(np.interp(drop.position, positions, places)), drop.factor) for drop in lr_drops(log)]


def draw_curves(
    path: str | PathLike,
    models: Sequence[Model],
    levels: Sequence[float],
    key: str,
    axis: str = 'epoch',
    smoothing: str = 'smoothed',
    log: bool = False,
) -> None:
    """Draw a line per model: the mean over its runs, and a band of one standard deviation.

    Behind the line of a model of one run stand the values as logged. Dotted lines are the levels, a dot is where a
    model came to one (the mean over its runs, if all did); dashed lines are steps of the learning rate, grey if they
    are all models', else in the model's colour.

    Args:
        path (str | PathLike): The picture's file.
        models (Sequence[Model]): What is drawn.
        levels (Sequence[float]): As in the table.
        key (str): The scalar.
        axis (str): 'epoch', 'iter' or 'time'. Defaults to 'epoch'.
        smoothing (str): What to say of the smoothing. Defaults to 'smoothed'.
        log (bool): Whether the values' axis is logarithmic. Defaults to False.
    """
    figure = Figure(figsize=(7.6, 4.8), layout='constrained')
    axes = figure.subplots()
    low = min(np.nanmin(curve.smoothed) for model in models for curve in model.curves)
    high = max(np.nanmax(curve.smoothed) for model in models for curve in model.curves)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    if log:
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')
        if high / low < 20:  # a decade alone would leave the axis without numbers
            axes.yaxis.set_minor_formatter('{x:g}')
        axes.set_ylim(low / (high / low) ** 0.04 / 1.01, high * (high / low) ** 0.04 * 1.01)
    else:
        axes.set_ylim(low - margin, high + margin)
    for level in levels:
        axes.axhline(level, color='0.55', linewidth=0.7, linestyle=':')
    drops = [drop_places(model.curves[0], axis) for model in models]
    shared = all(np.shape(other) == np.shape(drops[0]) and np.allclose(other, drops[0], rtol=1e-3) for other in drops)
    for number, model in enumerate(models):
        colour, style = CYCLE[number % len(CYCLE)], STYLES[number // len(CYCLE) % len(STYLES)]
        _draw_model(axes, model, levels, colour, style)
        for place, factor in drops[number] if not shared or number == 0 else ():
            mark = '0.55' if shared else colour
            axes.axvline(place, color=mark, linewidth=0.7, linestyle=(0, (6, 4)))
            if shared:
                axes.annotate(f' lr x{factor:.3g}', (place, 0.99), xycoords=('data', 'axes fraction'), va='top',
                              color='0.4', fontsize=8)  # fmt: skip
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel(key)
    axes.set_xlim(left=0)
    if any(len(model.curves) > 1 for model in models):
        smoothing += '; mean over the runs, band of ± one standard deviation'
    axes.set_title(smoothing, fontsize=9)
    axes.grid(color='0.92')
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    save_figure(path, figure)


def _draw_model(axes, model: Model, levels: Sequence[float], colour: str, style: str) -> None:
    """One line, its band or its raw values, and where it reached the levels."""
    places, middle, spread = model.band
    label = model.label
    if len(model.curves) > 1:
        label += f' (n = {len(model.curves)})'
        axes.fill_between(places, middle - spread, middle + spread, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.plot(model.curves[0].x, model.curves[0].values, color=colour, alpha=0.2, linewidth=0.7)
    marker = dict(marker='o', markersize=3) if len(places) < 20 else {}
    axes.plot(places, middle, color=colour, linestyle=style, linewidth=1.5, label=label, **marker)
    for level in levels:
        reached = model.reached(level)
        if reached.mean is not None and not reached.at_start:
            axes.plot(
                [reached.mean], [level], marker='o', markersize=5, color=colour, markeredgecolor='white', zorder=3
            )
