"""The figures of several trainings as Markdown and JSON, and what speaks against comparing them."""

from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from mmscale.files import markdown_table

from .loss_curves import Model, crossing, lr_drops

__all__ = ['describe', 'doubts', 'reach_table', 'show_place', 'summary_table', 'unit_of']


def _figure(values: Sequence[float], show: Callable[[float], str]) -> str:
    """A mean with its standard deviation over the runs, unless they are all equal."""
    return show(mean(values)) + (f' ± {stdev(values):.2g}' if min(values) < max(values) else '')


def _ratio(value: float | None, reference: float | None) -> str:
    return '-' if value is None or not reference else f'{value / reference:.3f}'


def show_place(axis: str) -> Callable[[float], str]:
    """How a place on an axis is printed."""
    return {'epoch': '{:.2f}', 'iter': '{:.0f}', 'time': '{:.4g}'}[axis].format


def unit_of(axis: str) -> str:
    """What an axis counts."""
    return {'epoch': 'epochs', 'iter': 'iterations', 'time': 'hours'}[axis]


def summary_table(models: Sequence[Model], axis: str) -> str:
    """First, final and best value of every model, and the ratios of the last two to the first model's.

    Args:
        models (Sequence[Model]): The first is the reference.
        axis (str): 'epoch', 'iter' or 'time'.
    """
    best, at, value = 'lowest' if models[0].falling else 'highest', show_place(axis), '{:.4g}'.format
    rows = [['model', 'runs', unit_of(axis), 'first', 'final', 'ratio', best, 'ratio', 'at']]
    reference = mean(models[0].final), mean(best for best, _ in models[0].best)
    for model in models:
        bests, places = zip(*model.best, strict=True)
        rows.append([
            model.label, str(len(model.curves)), _figure(model.end, at), _figure(model.first, value),
            _figure(model.final, value), _ratio(mean(model.final), reference[0]),
            _figure(bests, value), _ratio(mean(bests), reference[1]), _figure(places, at)])  # fmt: skip
    return markdown_table(rows, right=range(1, len(rows[0])))


def reach_table(models: Sequence[Model], levels: Sequence[float], axis: str) -> str:
    """How long every model takes to each level ('<=': it is there at its first line), and the ratio to the first model.

    Args:
        models (Sequence[Model]): The first is the reference.
        levels (Sequence[float]): The values to reach.
        axis (str): 'epoch', 'iter' or 'time'.
    """
    rows = [['model', *(cell for level in levels for cell in (f'{unit_of(axis)} to {level:.4g}', 'ratio'))]]
    for model in models:
        row = [model.label]
        for level in levels:
            reached, reference = model.reached(level), models[0].reached(level)
            text = _figure(reached.places, show_place(axis)) if reached.places else 'not reached'
            few = f' ({len(reached.places)} of {reached.runs} runs)' if 0 < len(reached.places) < reached.runs else ''
            row += ['<= ' * reached.at_start + text + few, _ratio(reached.mean, reference.mean)]
        rows.append(row)
    return markdown_table(rows, right=range(1, len(rows[0])))


def describe(model: Model, levels: Sequence[float]) -> dict[str, Any]:
    """A model's figures, ready for JSON: what is not finite is None."""

    def plain(values: Sequence[float]) -> list[float | None]:
        return [value if np.isfinite(value) else None for value in values]

    return dict(
        label=model.label,
        runs=[str(curve.log.path) for curve in model.curves],
        batch_sizes=[curve.log.batch_size for curve in model.curves],
        end=model.end,
        first=model.first,
        final=plain(model.final),
        best=[value for value, _ in model.best],
        best_at=[place for _, place in model.best],
        reached=[
            dict(level=level, at=[crossing(c.x, c.smoothed, level, model.falling) for c in model.curves])
            for level in levels
        ],
        lr_drops=[[drop.__dict__ for drop in lr_drops(curve.log)] for curve in model.curves],
    )


def doubts(models: Sequence[Model], key: str) -> list[str]:
    """Why a difference between the curves may not be one between the models, one sentence each.

    Args:
        models (Sequence[Model]): What is compared.
        key (str): The scalar.
    """
    logs = [(model.label, curve.log) for model in models for curve in model.curves]
    found = []
    sizes = {size: label for label, log in reversed(logs) if (size := log.batch_size) is not None}
    if len(sizes) > 1:
        told = ', '.join(f'{label}: {size}' for size, label in reversed(sizes.items()))
        found.append(f'the runs have batches of different sizes ({told}), so an epoch is not the same number of steps')
    if key == 'loss':
        terms = {
            frozenset(name for name in log.keys('train') if 'loss' in name): label for label, log in reversed(logs)
        }
        common = frozenset.intersection(*terms)
        told = ', '.join(
            f'{label}: {", ".join(sorted(names - common)) or "none"}' for names, label in reversed(terms.items())
        )
        if len(terms) > 1:
            found.append(f'the losses are sums of different terms (beyond the common ones, {told}): not comparable')
    return found
