"""A report's pictures: bars with every seed as a dot and the paper's differences beside ours; validation curves.

Colours tell ours from the paper's and are safe for colour-blind readers. Nothing here touches matplotlib's global
state, and the same results give the same file.
"""

from collections.abc import Sequence
from pathlib import Path

from .results import Column, Results, RowResult
from .significance import summarise

__all__ = ['bars', 'curves']

OURS, PAPER, DOTS = '#0072b2', '#e69f00', '#222222'
CYCLE = ('#222222', '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#f0e442')
STYLES = ('-', '--', ':', '-.')


def bars(results: Results, path: str | Path, column: str | None = None) -> bool:
    """Draw a figure of every row and its difference to the baseline.

    Left: ours, mean and standard deviation, a dot per seed. Right: the differences to each row's baseline, ours with
    the confidence interval and a dot per pair of seeds, the paper's beside it. A row without runs keeps its place.

    Args:
        results (Results): What the runs say.
        path (str | Path): The PNG; an existing one is replaced.
        column (str, optional): The figure. Defaults to None: the table's main one.

    Returns:
        bool: Whether there was anything to draw.

    Raises:
        ValueError: If the table has no such column.
    """
    figure_of = results.columns[0] if column is None else results.column(column)
    rows = results.rows
    cells = [row.cells[figure_of.name] for row in rows]
    if not any(cell.values for cell in cells):
        return False
    width = max(len(row.label) for row in rows) * 0.065
    figure = _new_figure(width + 9.0, 1.9 + 0.42 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        few = len(cell.values) < results.min_seeds
        _bar(left, place, cell.summary.mean, 0.62, OURS, few)
        if cell.summary.std is not None:
            _whisker(left, place - 0.1, cell.summary.mean - cell.summary.std, cell.summary.mean + cell.summary.std)
        _dots(left, place + 0.17, list(cell.values.values()))
        if not cell.values:
            words = {'quoted': 'quoted', 'waits': 'waits', 'failed': 'failed'}.get(row.state, 'not run')
            left.annotate(words, (0.01, place), xycoords=('axes fraction', 'data'), va='center', color='grey')
        _bar(right, place + 0.2, cell.paper_difference, 0.34, PAPER)
        if (difference := cell.difference) is not None:
            _bar(right, place - 0.2, difference.mean, 0.34, OURS, few)
            if difference.low is not None:
                _whisker(right, place - 0.2, difference.low, difference.high)
            _dots(right, place - 0.2, difference.values)
    _finish_bars(results, figure, left, right, figure_of)
    _save(figure, path)
    return True


def _finish_bars(results: Results, figure, left, right, column: Column) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = results.rows
    cells = [row.cells[column.name] for row in rows]
    few = [bool(row.seeds) and len(row.seeds) < results.min_seeds for row in rows]
    left.set_yticks(range(len(rows)), [row.label + (' *' if mark else '') for row, mark in zip(rows, few, strict=True)])
    left.set_ylim(len(rows) - 0.4, -0.6)
    right.axvline(0, color='black', linewidth=0.8)
    better = ' (lower is better)' if column.lower_is_better else ''
    left.set_xlabel(f'{column.name}{better}, mean ± standard deviation')
    right.set_xlabel(f'difference to the baseline, {results.confidence * 100:g} % interval')
    for axes in (left, right):
        axes.grid(axis='x', color='0.9')
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    right.tick_params(left=False)
    handles = [
        Patch(color=OURS, label='ours'),
        *([Patch(color=PAPER, label='paper')] if any(cell.paper_difference is not None for cell in cells) else []),
        Line2D([], [], marker='o', linestyle='', color=DOTS, markersize=4, label='one seed'),
    ]
    if any(few):
        handles.append(
            Patch(facecolor='white', edgecolor=OURS, hatch='////', label=f'* fewer than {results.min_seeds} seeds')
        )
    figure.suptitle(f'{results.table.name}, {results.experiment}')
    figure.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=9)


def curves(results: Results, path: str | Path, column: str | None = None) -> bool:
    """Draw a figure over the epochs as validation found it, one line per row: the mean, and a band of one standard
    deviation over the seeds that reached the epoch.

    Args:
        results (Results): What the runs say.
        path (str | Path): The PNG; an existing one is replaced.
        column (str, optional): The figure. Defaults to None: the table's main one.

    Returns:
        bool: Whether any run was validated at two epochs or more; with fewer there is no curve, and no file.

    Raises:
        ValueError: If the table has no such column.
    """
    figure_of = results.columns[0] if column is None else results.column(column)
    drawn = [row for row in results.rows if _longest(row, figure_of) > 1]
    if not drawn:
        return False
    figure = _new_figure(8.0, 4.8)
    axes = figure.subplots()
    for number, row in enumerate(drawn):
        by_epoch: dict[int, list[float]] = {}
        for curve in row.cells[figure_of.name].history.values():
            for epoch, value in curve:
                by_epoch.setdefault(epoch, []).append(value)
        epochs = sorted(by_epoch)
        points = [summarise(by_epoch[epoch]) for epoch in epochs]
        colour, style = CYCLE[number % len(CYCLE)], STYLES[number // len(CYCLE) % len(STYLES)]
        seeds = len(row.cells[figure_of.name].history)
        axes.plot(
            epochs,
            [point.mean for point in points],
            color=colour,
            linestyle=style,
            marker='o',
            markersize=3,
            label=f'{row.label} (n = {seeds})',
        )
        axes.fill_between(
            epochs,
            [point.mean - (point.std or 0) for point in points],
            [point.mean + (point.std or 0) for point in points],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xlabel('epoch')
    axes.set_ylabel(f'{figure_of.name} on the validation set' + (' (lower is better)' * figure_of.lower_is_better))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f'{results.table.name}, {results.experiment}: mean, band of ± one standard deviation', fontsize=10)
    axes.grid(color='0.9')
    axes.spines[['top', 'right']].set_visible(False)
    widest = max(len(row.label) for row in drawn) * 0.075 + 1.2  # inches of an entry
    figure.legend(loc='outside lower center', ncols=max(1, int(8.0 / widest)), frameon=False, fontsize=9)
    _save(figure, path)
    return True


def _longest(row: RowResult, column: Column) -> int:
    return max((len(curve) for curve in row.cells[column.name].history.values()), default=0)


def _new_figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _bar(axes, place: float, value: float | None, height: float, colour: str, few: bool = False) -> None:
    if value is not None:
        look = dict(facecolor='white', edgecolor=colour, hatch='////') if few else dict(color=colour)
        axes.barh(place, value, height=height, **look)


def _whisker(axes, place: float, low: float, high: float) -> None:
    axes.errorbar((low + high) / 2, place, xerr=(high - low) / 2, color='black', capsize=3, linewidth=1.2)


def _dots(axes, place: float, values: Sequence[float]) -> None:
    axes.plot(
        values,
        [place] * len(values),
        marker='o',
        linestyle='',
        color=DOTS,
        markeredgecolor='white',
        markersize=5,
        markeredgewidth=0.7,
        zorder=3,
    )


def _save(figure, path: str | Path) -> None:
    from mmscale.analysis.pictures import save_figure

    save_figure(path, figure)
