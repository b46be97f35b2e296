"""A scalar of several trainings over epochs, and how soon each model reaches a given value (CFSAM's fig. 5).

A model is one run or several with other seeds. Each run's curve is smoothed for itself; what is said of a model is the
mean over its runs.

Nothing of this is in the paper, which draws the losses and says which fell fastest: the smoothing, the levels and their
crossing are our choices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from .training_log import Record, TrainingLog

__all__ = ['Curve', 'Drop', 'Model', 'Reached', 'crossing', 'curve_of', 'default_levels', 'kind_of', 'lr_drops',
           'smooth']  # fmt: skip

NEAR = 1e-9  # of a window's end: rounding decides about no point


def smooth(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Centred moving average: the mean of all points within half a width on either side.

    With a width of one epoch every image counts once, which takes out the order of the images and leaves the trend. A
    centred mean keeps a straight line as it is, where an exponential one lags behind it: every model would seem slower
    than it is by the same time, and their ratio nearer to 1. At both ends the window holds what there is (nothing is
    padded), so the last value is the mean over the last half of a width. A window that shrinks on both sides alike
    would not lag there, but leave the last value, which is compared, as noisy as a single line of the log.

    Args:
        x (np.ndarray): Positions, rising, ``(N,)``.
        y (np.ndarray): Values, ``(N,)``; those that are not finite stay out of every mean, and are NaN themselves.
        width (float): In the unit of ``x``. One below the distance of two points leaves ``y`` as it is.

    Raises:
        ValueError: If the width is not above 0.

    Example:
        >>> smooth(np.arange(5.0), np.array([5.0, 4.0, 0.0, 2.0, 1.0]), 2).tolist()
        [4.5, 3.0, 2.0, 1.0, 1.5]
    """
    if not width > 0:
        raise ValueError(f'the width of the smoothing is {width:g} and should be above 0; a tiny one smooths nothing')
    finite, result = np.isfinite(y), np.full(len(y), np.nan)
    places, values = x[finite], y[finite]
    low = np.searchsorted(places, places - width / 2 - NEAR, side='left')
    high = np.searchsorted(places, places + width / 2 + NEAR, side='right')
    # No running sum: after one value of 1e30 it would have forgotten all others.
    result[finite] = [values[start:end].mean() for start, end in zip(low, high, strict=True)]
    return result


def crossing(x: np.ndarray, y: np.ndarray, level: float, falling: bool = True) -> float | None:
    """Where a curve first reaches a level, on the straight line between two points.

    Args:
        x (np.ndarray): Positions, rising, ``(N,)``.
        y (np.ndarray): Values, ``(N,)``; over one that is NaN no line is drawn.
        level (float): Reached at or below it.
        falling (bool): Whether that is so; else at or above it. Defaults to True.

    Returns:
        float | None: The position, that of the first point if it is there already; None if the level is not reached.

    Example:
        >>> crossing(np.array([0.0, 1.0, 2.0]), np.array([5.0, 4.0, 2.0]), 3.5)
        1.25
    """
    sign = 1 if falling else -1
    reached = np.flatnonzero(sign * y <= sign * level)
    if not len(reached):
        return None
    index = reached[0]
    if index == 0 or np.isnan(y[index - 1]):
        return float(x[index])
    share = (y[index - 1] - level) / (y[index - 1] - y[index])
    return float(x[index - 1] + share * (x[index] - x[index - 1]))


@dataclass(frozen=True)
class Curve:
    """One run's scalar.

    Attributes:
        log (TrainingLog): The run.
        records (list[Record]): Its lines that have the scalar, ``N`` of them.
        x (np.ndarray): Their places on the axis, ``(N,)``.
        values (np.ndarray): As logged, ``(N,)``.
        smoothed (np.ndarray): ``(N,)``, NaN where the value is not finite.
    """

    log: TrainingLog
    records: list[Record]
    x: np.ndarray
    values: np.ndarray
    smoothed: np.ndarray


def kind_of(logs: Sequence[TrainingLog], key: str) -> tuple[str, str]:
    """Whether a scalar is one of training or of validation, and its name without the prefix.

    Args:
        logs (Sequence[TrainingLog]): The runs.
        key (str): A name such as 'loss' or 'coco/bbox_mAP'; 'val/' before it asks for that of validations where
            training has one of the same name, such as 'time'.

    Raises:
        ValueError: If no run has it, or one has not.
    """
    prefix, _, name = key.partition('/')
    if prefix in ('train', 'val'):
        kinds, key = [prefix], name
    else:
        kinds = ['train', 'val']
    for kind in kinds:
        without = [log for log in logs if key not in log.keys(kind)]
        if not without:
            return kind, key
        if len(without) < len(logs):
            raise ValueError(f"'{without[0].path}' does not log '{key}', as other runs do: {_available(without)}")
    raise ValueError(f"no run logs '{key}': {_available(logs)}")


def _available(logs: Sequence[TrainingLog]) -> str:
    """The scalars that runs have."""
    found = []
    for kind, words in (('train', 'there is'), ('val', 'and of validations')):
        if keys := sorted({key for log in logs for key in log.keys(kind)} - {'step', 'iter', 'epoch'}):
            found.append(f'{words} {", ".join(keys)}')
    return ', '.join(found)


def curve_of(log: TrainingLog, kind: str, key: str, axis: str, width: float, unit: str) -> Curve:
    """A run's curve.

    Args:
        log (TrainingLog): The run.
        kind (str): As :func:`kind_of` gives it.
        key (str): The same.
        axis (str): 'epoch', 'iter' or 'time'.
        width (float): Of the smoothing.
        unit (str): Its unit, 'epoch' or 'iter'.

    Raises:
        ValueError: If no value is finite, or the run has no such axis.
    """
    records = [record for record in getattr(log, kind) if key in record.values]
    values = np.array([record.values[key] for record in records])
    if not np.isfinite(values).any():
        raise ValueError(f"'{log.path}': none of its {len(values)} values of '{key}' is finite")
    smoothed = smooth(log.coordinate(records, unit), values, width)
    return Curve(log, records, log.coordinate(records, axis), values, smoothed)


@dataclass(frozen=True)
class Reached:
    """When the runs of a model reached a level.

    Attributes:
        places (list[float]): Of those that did.
        runs (int): All of them.
        at_start (bool): Whether one had reached it at its first line already, so that it was earlier than is known.
    """

    places: list[float]
    runs: int
    at_start: bool

    @property
    def mean(self) -> float | None:
        """Over all runs; None if one did not reach it, since the mean of the others would flatter the model."""
        return mean(self.places) if len(self.places) == self.runs else None


@dataclass
class Model:
    """One or several runs that only their seed tells apart.

    Attributes:
        label (str): Its name.
        curves (list[Curve]): Of its runs.
        falling (bool): Whether the lowest value is the best. Defaults to True.
        band (tuple[np.ndarray, np.ndarray, np.ndarray]): Places where all runs have a curve, the mean of the smoothed
            ones there, and their standard deviation, each ``(M,)``.
    """

    label: str
    curves: list[Curve]
    falling: bool = True
    band: tuple[np.ndarray, np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        """Take the mean over the runs."""
        start = max(curve.x[0] for curve in self.curves)
        end = min(curve.x[-1] for curve in self.curves)
        places = np.unique(np.concatenate([curve.x for curve in self.curves]))
        places = places[(places >= start) & (places <= end)]
        values = np.stack([np.interp(places, curve.x, curve.smoothed) for curve in self.curves])
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(places))
        self.band = places, values.mean(axis=0), spread

    @property
    def end(self) -> list[float]:
        """The last place of each run."""
        return [float(curve.x[-1]) for curve in self.curves]

    @property
    def first(self) -> list[float]:
        """The first finite value of each run, as logged."""
        return [float(curve.values[np.isfinite(curve.values)][0]) for curve in self.curves]

    @property
    def final(self) -> list[float]:
        """The last smoothed value of each run: NaN if its training ended in NaN."""
        return [float(curve.smoothed[-1]) for curve in self.curves]

    @property
    def best(self) -> list[tuple[float, float]]:
        """The best smoothed value of each run, and where it is."""
        found = []
        for curve in self.curves:
            index = (np.nanargmin if self.falling else np.nanargmax)(curve.smoothed)
            found.append((float(curve.smoothed[index]), float(curve.x[index])))
        return found

    def reached(self, level: float) -> Reached:
        """When its runs reached a level."""
        found = [crossing(curve.x, curve.smoothed, level, self.falling) for curve in self.curves]
        at_start = any(place == curve.x[0] for place, curve in zip(found, self.curves, strict=True))
        return Reached([place for place in found if place is not None], len(found), at_start)


def default_levels(model: Model) -> list[float]:
    """Two levels of a model that others are compared with: where it ends, and where 9 tenths of the way there lie.

    The end is the worst of its runs' final values, so that each of them reaches it. The other is there because a
    learning rate that drops late lets every model reach the end soon after the drop. Our choice.

    Returns:
        list[float]: The levels; none if the model ends worse than it began, or in NaN.
    """
    start, end = mean(model.first), (max if model.falling else min)(model.final)
    if not np.isfinite(model.final).all() or (end < start) != model.falling:
        return []
    return [start + 0.9 * (end - start), end]


@dataclass(frozen=True)
class Drop:
    """A step down of the learning rate.

    Attributes:
        position (float): The epoch that began with it, or the iteration of the last line before it.
        factor (float): The new rate by the old one.
    """

    position: float
    factor: float


def lr_drops(log: TrainingLog) -> list[Drop]:
    """Steps of a learning rate: to half of it or less between two lines, from a plateau.

    A warm-up rises, and a cosine has no plateau.

    Args:
        log (TrainingLog): The run.
    """
    records = [record for record in log.train if record.values.get('lr', 0) > 0]
    found = []
    for before, last, now in zip(records, records[1:], records[2:], strict=False):
        rates = [record.values['lr'] for record in (before, last, now)]
        if abs(rates[0] - rates[1]) < 1e-6 * rates[1] and rates[2] <= 0.5 * rates[1]:
            begin = np.ceil(now.position - NEAR) - 1 if log.by_epoch else -1
            found.append(Drop(float(max(begin, last.position)), rates[2] / rates[1]))
    return found
