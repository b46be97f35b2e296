"""What the runs of one experiment say about one table: figures, differences, and what is wrong with them.

Takes what :mod:`mmscale.reproduce.runs` reads and computes everything that Markdown, CSV, JSON and pictures then only
show.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .provenance import environments, faults, revisions
from .significance import Difference, Summary, holm, paired, summarise, verdict
from .spec import Row, Table

__all__ = ['Cell', 'Column', 'Results', 'RowResult', 'gather']


@dataclass(frozen=True)
class Column:
    """One figure of a table.

    Attributes:
        name (str): Its heading.
        metric (str): The evaluator's name of it.
        scale (float): Factor from the evaluator's unit to the paper's.
        lower_is_better (bool): Whether a smaller figure is the better one.
        decimals (int): Of a printed value; differences get one more.
    """

    name: str
    metric: str
    scale: float
    lower_is_better: bool
    decimals: int


@dataclass
class Cell:
    """One figure of one row, in the paper's unit.

    Attributes:
        values (dict[int, float]): By seed; a seed whose run has no such figure, or none that is a number, is left out.
        summary (Summary): Over the seeds.
        paper (float | None): The paper's.
        paper_difference (float | None): The paper's, to its baseline.
        difference (Difference | None): Ours to the baseline row's; None without a common seed.
        p_holm (float | None): Its p-value, adjusted over the rows of the column.
        verdict (str | None): What it shows.
        history (dict[int, list[tuple[int, float]]]): Epoch and value of each validation during training, by seed.
    """

    values: dict[int, float]
    summary: Summary
    paper: float | None
    paper_difference: float | None
    difference: Difference | None = None
    p_holm: float | None = None
    verdict: str | None = None
    history: dict[int, list[tuple[int, float]]] = field(default_factory=dict)


@dataclass
class RowResult:
    """One line of the table.

    Attributes:
        name (str): The row's name.
        label (str): What is printed.
        baseline (str | None): The row that it is compared with.
        state (str): 'quoted', 'waits', 'failed', 'not run', 'too few seeds' or 'complete'.
        why (str | None): What it waits for, or how it failed.
        note (str | None): The table's note on the row.
        seeds (list[int]): Seeds that finished.
        cells (dict[str, Cell]): By column.
        seconds (float | None): Mean training time of a run.
        seconds_ratio (float | None): To the baseline, over common seeds.
        memory (float | None): Mean peak in bytes.
        memory_of (list[str]): What it is the peak of: 'cuda allocated' or 'resident set'.
        memory_ratio (float | None): To the baseline, over common seeds.
        runs (list[dict]): What the runs left.
    """

    name: str
    label: str
    baseline: str | None
    state: str
    why: str | None
    note: str | None
    seeds: list[int]
    cells: dict[str, Cell]
    seconds: float | None
    seconds_ratio: float | None
    memory: float | None
    memory_of: list[str]
    memory_ratio: float | None
    runs: list[dict]


@dataclass
class Results:
    """All that is known of one experiment of one table.

    Attributes:
        table (Table): The table.
        experiment (str): The experiment's name.
        settings (dict): What the experiment changes in every row.
        confidence (float): Of the intervals.
        min_seeds (int): Fewer runs than this mark a row.
        columns (list[Column]): The table's figures, the main one first.
        rows (list[RowResult]): In the table's order.
        faults (list[str]): What makes runs incomparable, one sentence each.
        revisions (dict[str, int]): Number of runs by git revision.
        environment (dict[str, list]): The values that were seen, by name.
        dates (tuple[str, str] | None): When the first and the last run finished.
    """

    table: Table
    experiment: str
    settings: dict
    confidence: float
    min_seeds: int
    columns: list[Column]
    rows: list[RowResult]
    faults: list[str]
    revisions: dict[str, int]
    environment: dict[str, list]
    dates: tuple[str, str] | None

    def row(self, name: str) -> RowResult:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def column(self, name: str) -> Column:
        """The column of a name.

        Raises:
            ValueError: If the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        names = ', '.join(column.name for column in self.columns)
        raise ValueError(f"table '{self.table.name}' has no column '{name}'; there is {names}")

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; what is not a number (NaN) became null."""
        table = self.table
        rows = [{key: value for key, value in asdict(row).items() if key != 'runs'} for row in self.rows]
        head = {key: getattr(table, key) for key in ('paper', 'key', 'title', 'source', 'recipe_paper', 'recipe_ours')}
        body = {key: value for key, value in vars(self).items() if key not in ('table', 'rows', 'columns')}
        return {**head, **body, 'columns': [asdict(column) for column in self.columns], 'rows': rows}


def gather(
    table: Table,
    experiment: str,
    runs: Sequence[Mapping],
    *,
    failures: Sequence[Mapping] = (),
    settings: Mapping | None = None,
    min_seeds: int = 3,
    confidence: float = 0.95,
) -> Results:
    """Make sense of an experiment's finished runs.

    Args:
        table (Table): The table.
        experiment (str): The experiment's name.
        runs (Sequence[Mapping]): The contents of the run.json files.
        failures (Sequence[Mapping]): ``row``, ``seed`` and ``error`` of the runs whose last attempt failed.
        settings (Mapping, optional): The experiment's. Defaults to None: the first run's.
        min_seeds (int): Fewer runs than this mark a row. Defaults to 3.
        confidence (float): Of the intervals. Defaults to 0.95.

    Raises:
        ValueError: If ``min_seeds`` is below 1, or ``confidence`` is not between 0 and 1.
    """
    if min_seeds < 1:
        raise ValueError(f'min_seeds={min_seeds} should be 1 or more')
    if not 0 < confidence < 1:
        raise ValueError(f'confidence={confidence} should lie between 0 and 1, for instance 0.95')
    by_row: dict[str, list[dict]] = {row.name: [] for row in table.rows}
    for run in sorted(runs, key=lambda run: (run['row'], run['seed'])):
        by_row.setdefault(run['row'], []).append(dict(run))
    columns = [_column(table, name) for name in table.metrics]
    rows = [_row(table, row, by_row[row.name], columns, failures, min_seeds) for row in table.rows]
    for row in rows:
        _compare(row, next((other for other in rows if other.name == row.baseline), None), confidence)
    for column in columns:
        _judge([row.cells[column.name] for row in rows], column)
    lost = [
        f"'{name}' has {len(by_row[name])} run(s), but is no row of {table.name} any more: left out"
        for name in list(by_row)[len(table.rows) :]
    ]
    used = [run for row in rows for run in row.runs]
    if settings is None:
        settings = used[0]['settings'] if used else {}
    finished = sorted(run['finished'] for run in used)
    return Results(
        table,
        experiment,
        dict(settings),
        confidence,
        min_seeds,
        columns,
        rows,
        [*lost, *faults(rows, columns, settings)],
        revisions(used),
        environments(used),
        (finished[0], finished[-1]) if finished else None,
    )


def _column(table: Table, name: str) -> Column:
    """A figure with as many decimals as the paper prints, and one at least."""
    figures = [figures[name] for row in table.rows for figures in (row.paper, row.paper_baseline) if name in figures]
    decimals = max((len(f'{figure:.10g}'.partition('.')[2]) for figure in figures), default=1)
    return Column(
        name, table.metrics[name], table.scale.get(name, 1.0), name in table.lower_is_better, max(1, decimals)
    )


def _row(
    table: Table, row: Row, runs: list[dict], columns: Sequence[Column], failures: Sequence[Mapping], min_seeds: int
) -> RowResult:
    failed = [failure for failure in failures if failure['row'] == row.name]
    why = row.waits_for
    if row.quoted or row.waits_for:
        state = 'quoted' if row.quoted else 'waits'
    elif failed:
        why = '; '.join(f'seed {failure["seed"]}: {failure["error"]}' for failure in failed)
        state = 'failed' if len(runs) < min_seeds else 'complete'
    else:
        state = 'complete' if len(runs) >= min_seeds else 'too few seeds' if runs else 'not run'
    cells = {column.name: _cell(table, row, column, runs) for column in columns}
    return RowResult(
        row.name,
        row.label,
        row.baseline,
        state,
        why,
        row.note,
        [run['seed'] for run in runs],
        cells,
        summarise([run['seconds'] for run in runs]).mean,
        None,
        summarise([run['peak_memory_bytes'] for run in runs if run.get('peak_memory_bytes')]).mean,
        sorted({run['peak_memory_of'] for run in runs if run.get('peak_memory_bytes')}),
        None,
        runs,
    )


def _cell(table: Table, row: Row, column: Column, runs: Iterable[dict]) -> Cell:
    values, history = {}, {}
    for run in runs:
        figure = _figure(run['metrics'], column)
        if figure is not None:
            values[run['seed']] = figure
        curve = [(entry['epoch'], _figure(entry['metrics'], column)) for entry in run.get('history') or ()]
        if curve := [(epoch, figure) for epoch, figure in curve if figure is not None]:
            history[run['seed']] = curve
    paper = row.paper.get(column.name)
    base = row.paper_baseline.get(column.name)
    if base is None and row.baseline is not None:
        base = table.row(row.baseline).paper.get(column.name)
    change = None if paper is None or base is None else round(paper - base, 10)
    return Cell(values, summarise(list(values.values())), paper, change, history=history)


def _figure(metrics: Mapping, column: Column) -> float | None:
    """A metric in the paper's unit; None where it is absent or no number (NaN: no ground truth)."""
    value = metrics.get(column.metric)
    return None if value is None or not math.isfinite(value) else value * column.scale


def _compare(row: RowResult, baseline: RowResult | None, confidence: float) -> None:
    if baseline is None:
        return
    for name, cell in row.cells.items():
        cell.difference = paired(cell.values, baseline.cells[name].values, confidence)
    row.seconds_ratio = _ratio(row.runs, baseline.runs, 'seconds')
    if row.memory_of == baseline.memory_of and len(row.memory_of) == 1:
        row.memory_ratio = _ratio(row.runs, baseline.runs, 'peak_memory_bytes')


def _ratio(runs: Iterable[dict], others: Iterable[dict], key: str) -> float | None:
    ours, theirs = ({run['seed']: run[key] for run in side if run.get(key)} for side in (runs, others))
    common = ours.keys() & theirs.keys()
    return sum(ours[seed] for seed in common) / sum(theirs[seed] for seed in common) if common else None


def _judge(cells: Sequence[Cell], column: Column) -> None:
    """Adjusted p-values and verdicts of a column: its rows are one family of comparisons (our choice)."""
    compared = [cell for cell in cells if cell.difference is not None]
    adjusted = holm([cell.difference.p for cell in compared])
    count = sum(p is not None for p in adjusted)
    for cell, p in zip(compared, adjusted, strict=True):
        cell.p_holm = p
        cell.verdict = verdict(cell.difference, p, count, column.lower_is_better)
