"""The error analysis as tables and as a plot."""

from collections.abc import Callable, Sequence
from os import PathLike

import numpy as np
from matplotlib.figure import Figure

from mmscale.evaluation.error_metric import ratio_text
from mmscale.evaluation.matching import CAUSES, RANGES, Counts
from mmscale.files import markdown_table

from .error_analysis import Run, best_f1, sweep
from .pictures import COLOURS, save_figure

__all__ = ['best_lines', 'draw_errors', 'error_tables', 'sweep_table']

NUMBERS: dict[str, Callable[[Counts], float]] = {
    'TP': lambda counts: counts.tp,
    'FP': lambda counts: counts.fp,
    'FN': lambda counts: counts.fn,
    'precision': lambda counts: counts.precision,
    'recall': lambda counts: counts.recall,
    'F1': lambda counts: counts.f1,
}
FALSE = {
    'FP': lambda counts: counts.fp,
    **{cause: lambda counts, cause=cause: counts.causes[cause] for cause in CAUSES},
}


def error_tables(runs: Sequence[Run], score_thr: float) -> str:
    """Errors by size and by class, then the false positives by cause.

    Args:
        runs (Sequence[Run]): The baseline, and perhaps a candidate.
        score_thr (float): The lowest score that counts.
    """
    classes = runs[0].matches.classes
    sizes = [(name, [run.matches.count(score_thr, size=name) for run in runs]) for name in RANGES]
    labels = [(name, [run.matches.count(score_thr, label) for run in runs]) for label, name in enumerate(classes)]
    names = [run.name for run in runs]
    total = sizes[0][1][0].truths
    parts = [
        f'{runs[0].matches.num_images} images, {total} objects; IoU from {runs[0].matches.iou_thr:g}, score from '
        f'{score_thr:g}',
        _table('size', names, sizes, NUMBERS),
        _table('class', names, labels, NUMBERS),
        best_lines(runs),
        'False positives by cause',
        _table('size', names, sizes, FALSE),
        _table('class', names, labels, FALSE),
    ]
    if len(runs) == 2:
        parts.insert(1, f"difference: '{names[1]}' minus '{names[0]}'; relative: in percent of '{names[0]}'")
    return '\n\n'.join(parts)


def _table(
    heading: str, names: Sequence[str], groups: Sequence[tuple[str, list[Counts]]], numbers: dict, compare: bool = True
) -> str:
    """For each group a line per run, and with two runs their difference, absolute and relative."""
    rows = [[heading, 'run', *numbers]]
    for group, counts in groups:
        values = [[number(item) for number in numbers.values()] for item in counts]
        for at, (name, line) in enumerate(zip(names, values, strict=True)):
            rows.append([group if at == 0 else '', name, *map(_text, line)])
        if compare and len(values) == 2:
            pairs = list(zip(*values, strict=True))
            rows.append(['', 'difference', *(_text(new - old, sign=True) for old, new in pairs)])
            rows.append(['', 'relative', *(_relative(old, new) for old, new in pairs)])
    return markdown_table(rows, right=range(2, len(rows[0])))


def _text(value: float, sign: bool = False) -> str:
    """A count, or a ratio to three digits, or '-' where it is not defined."""
    if value != value:
        return '-'
    if isinstance(value, int):
        return f'{value:+d}' if sign else str(value)
    return f'{value:+.3f}' if sign else f'{value:.3f}'


def _relative(old: float, new: float) -> str:
    """The change in percent of the baseline's value; '-' where that is zero or a value is not defined."""
    return '-' if not old or old != old or new != new else f'{100 * (new / old - 1):+.2f} %'


def sweep_table(runs: Sequence[Run], thresholds: Sequence[float]) -> str:
    """The counts by score threshold."""
    columns = [sweep(run.matches, thresholds) for run in runs]
    groups = [(f'{at:.2f}', [column[index][1] for column in columns]) for index, at in enumerate(thresholds)]
    return _table('score', [run.name for run in runs], groups, NUMBERS, compare=False)


def best_lines(runs: Sequence[Run]) -> str:
    """The score threshold of each run's best F1, beside which a fixed one should be seen."""
    lines = []
    for run in runs:
        score, counts = best_f1(run.matches)
        found = f'{counts.f1:.3f} from score {score:.3f} (precision {counts.precision:.3f}, recall '
        lines.append(
            f'{run.name}: '
            + ('no detection that counts' if score != score else f'best F1 {found}{ratio_text(counts.recall)})')
        )
    return '\n'.join(lines)


def draw_errors(path: str | PathLike, runs: Sequence[Run], score_thr: float) -> None:
    """Draws counts, false positives by cause, and precision, recall and F1 by score threshold.

    Args:
        path (str | PathLike): The picture.
        runs (Sequence[Run]): One or two.
        score_thr (float): The lowest score that counts.
    """
    figure = Figure(figsize=(12, 3.8), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    counts = [run.matches.count(score_thr) for run in runs]
    _bars(left, runs, ('TP', 'FP', 'FN'), [[item.tp, item.fp, item.fn] for item in counts])
    left.set_title(f'IoU from {runs[0].matches.iou_thr:g}, score from {score_thr:g}')
    _bars(middle, runs, CAUSES, [list(item.causes.values()) for item in counts])
    middle.set_title('false positives by cause')
    thresholds = np.linspace(0, 1, 101)
    for run, colour in zip(runs, COLOURS, strict=False):
        found = [item for _, item in sweep(run.matches, thresholds)]
        for name, style in (('precision', ':'), ('recall', '--'), ('F1', '-')):
            values = [NUMBERS[name](item) for item in found]
            right.plot(thresholds, values, style, color=colour, label=f'{run.name}: {name}' if len(runs) > 1 else name)
    right.axvline(score_thr, color='grey', linewidth=0.8)
    right.set(xlabel='score threshold', ylim=(0, 1.02), title='by score threshold')
    right.legend(fontsize=7)
    save_figure(path, figure)


def _bars(axis, runs: Sequence[Run], names: Sequence[str], values: Sequence[Sequence[int]]) -> None:
    """Bars side by side with their numbers."""
    width = 0.8 / len(runs)
    for at, (run, heights) in enumerate(zip(runs, values, strict=True)):
        places = np.arange(len(names)) + (at - (len(runs) - 1) / 2) * width
        bars = axis.bar(places, heights, width, label=run.name, color=COLOURS[at])
        axis.bar_label(bars, fontsize=7)
    axis.set_xticks(range(len(names)), names)
    axis.margins(y=0.12)
    axis.legend(fontsize=7)
