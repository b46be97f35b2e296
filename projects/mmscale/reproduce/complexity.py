"""Parameters and operations of every row beside the paper's, with a marker where they differ."""

import math
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

from mmscale.files import markdown_table

from .config import count_config
from .optional import mark_waiting, require_some
from .spec import COSTS, Counting, Row, Table, as_printed

__all__ = ['Cost', 'count', 'to_json', 'to_markdown']

MARKER = '!'
WORTH_A_PROCESS = 4  # networks: one is counted in about a second, and a process imports for several


@dataclass(frozen=True)
class Cost:
    """What was counted for one row.

    Attributes:
        row (Row): The row.
        ours (dict[str, float]): Figures by column of cost: parameters in M, operations in G of the table's convention;
            the differences to the baseline row where that was counted.
        result (dict | None): :meth:`mmscale.analysis.Complexity.to_dict`; None if the row was not counted.
        error (str | None): Why it failed, if it did.
    """

    row: Row
    ours: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: str | None = None

    def difference(self, column: str) -> float | None:
        """Ours against the paper's figure in percent of it; None where one is absent."""
        paper, ours = self.row.paper.get(column), self.ours.get(column)
        return None if not paper or ours is None else 100 * (ours / paper - 1)


def count(
    tables: Sequence[Table], jobs: int | None = None, progress: bool = True, names: Iterable[str] | None = None
) -> dict[str, list[Cost]]:
    """Count rows of tables, each distinct network once, in several processes.

    Rows whose config needs an optional package that is not installed wait for it; the others are counted.

    Args:
        tables (Sequence[Table]): The tables; those without a convention of counting are passed over.
        jobs (int, optional): Processes; 1 is this one. Defaults to None: one per core and per four networks, 8 at most.
        progress (bool): Whether a bar is shown on stderr. Defaults to True.
        names (Iterable[str], optional): The rows that are wanted; their baselines are counted too. Defaults to None:
            all of them.

    Returns:
        dict[str, list[Cost]]: By the table's name, one entry per row in the table's order. A row that fails has its
            error; the others are counted all the same.

    Raises:
        ValueError: If an override fits no field of its config, a row of ``names`` is unknown or cannot run, or all rows
            wait for a package; nothing has been counted then.
    """
    tables = [mark_waiting(table) for table in tables if table.counting]
    if names is not None:
        tables = [_only(table, names) for table in tables]
    require_some(tables)
    keys: dict[tuple[str, str], str] = {}
    networks: dict[str, tuple[dict, tuple[int, int]]] = {}
    for table in tables:
        for row in table.select():
            network = _network(count_config(table, row))
            key = repr((network, table.counting.input_size))
            keys[table.name, row.name] = key
            networks[key] = (network, table.counting.input_size)
    results = _count_all(networks, jobs, progress)
    return {
        table.name: _costs(table, {row.name: results[keys[table.name, row.name]] for row in table.select()})
        for table in tables
    }


def _only(table: Table, names: Iterable[str]) -> Table:
    """The table with the rows that are wanted and their baselines."""
    known = {name for row in table.select(names) for name in (row.name, row.baseline)}
    return replace(table, rows=tuple(row for row in table.rows if row.name in known))


def _network(cfg: Config) -> dict:
    """All of a config that its cost depends on."""
    kept = {key: cfg[key] for key in ('model', 'default_scope', 'custom_imports') if key in cfg}
    return Config(kept).to_dict()


def _count_all(networks: dict[str, tuple[dict, tuple[int, int]]], jobs: int | None, progress: bool) -> dict[str, Any]:
    jobs = min(jobs or min(os.cpu_count() or 1, 8, math.ceil(len(networks) / WORTH_A_PROCESS)), len(networks))
    results: dict[str, Any] = {}
    if jobs < 2:
        for key, network in tqdm(networks.items(), desc='Counting', unit='network', disable=not progress):
            try:
                results[key] = _count_one(*network)
            except Exception as error:
                results[key] = error
        return results
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context('spawn')  # a fork would carry torch's threads over
    with (
        ProcessPoolExecutor(jobs, spawn, initializer=_start_worker, initargs=(threads,)) as pool,
        tqdm(total=len(networks), desc='Counting', unit='network', disable=not progress) as bar,
    ):
        futures = {pool.submit(_count_one, *network): key for key, network in networks.items()}
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except Exception as error:
                results[futures[future]] = error
            bar.update()
    return results


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _count_one(network: dict, input_size: tuple[int, int]) -> dict[str, Any]:
    from mmscale.analysis.complexity import complexity

    return complexity(Config(network), input_size).to_dict()


def _costs(table: Table, results: dict[str, Any]) -> list[Cost]:
    costs = []
    for row in table.rows:
        result = results.get(row.name)
        if isinstance(result, Exception):
            costs.append(Cost(row, error=' '.join(f'{type(result).__name__}: {result}'.split())))
            continue
        ours = {}
        if result is not None:
            try:
                ours = _figures(table, row, result)
                base = results.get(row.baseline)
                if isinstance(base, dict):
                    ours |= {f'{name}_delta': ours[name] - value for name, value in _figures(table, row, base).items()}
            except ValueError as error:
                costs.append(Cost(row, error=f'ValueError: {error}'))
                continue
        costs.append(Cost(row, ours, result))
    return costs


def _figures(table: Table, row: Row, result: dict[str, Any]) -> dict[str, float]:
    """Cost in the table's units; of ``row``'s kinds of operators alone, where it names some."""
    macs = result['macs']
    if row.count_only:
        kinds = result['by_kind']
        if unknown := [kind for kind in row.count_only if kind not in kinds]:
            raise ValueError(f"count_only names '{unknown[0]}', but the network's operators are {', '.join(kinds)}")
        macs = sum(kinds[kind]['macs'] for kind in row.count_only)
    return dict(params=result['params'] / 1e6, flops=table.counting.scaled(macs) / 1e9)


def to_markdown(table: Table, costs: Sequence[Cost]) -> str:
    """A table's costs as Markdown, with what they mean and what was not counted."""
    counting = table.counting
    unit = 'GMACs' if counting.flops == 'macs' else 'GFLOPs'
    heads = dict(zip(COSTS, ('params (M)', unit, '+ params (M)', f'+ {unit}'), strict=True))
    columns = [column for column in COSTS if any(column in cost.row.paper for cost in costs)]
    columns = [
        *(column for column in COSTS[:2] if column in columns or any(cost.ours for cost in costs)),
        *(column for column in COSTS[2:] if column in columns),
    ]
    rows = [['row', *(text for column in columns for text in (heads[column], 'paper', 'difference'))]]
    for cost in costs:
        cells = [cost.row.label]
        for column in columns:
            ours, paper = cost.ours.get(column), cost.row.paper.get(column)
            digits = 5 if column.endswith('_delta') else 3
            cells += [
                '' if ours is None else f'{ours:.{digits}f}',
                '' if paper is None else as_printed(paper),
                _difference(cost, column, counting),
            ]
        rows.append(cells)
    height, width = counting.input_size
    convention = 'a multiply-add counts as one' if counting.flops == 'macs' else 'a multiply-add counts as two'
    lines = [
        f'## {table.name}: {table.title}',
        '',
        f'{table.source}. One image of {height}x{width} (height x width); {unit}: {convention}, attention is counted. '
        f'{MARKER} marks a difference of more than {counting.tolerance_params:g} % (parameters) or '
        f'{counting.tolerance_flops:g} % (operations).',
        '',
        markdown_table(rows, right=range(1, len(rows[0]))),
    ]
    notes = [*_notes(costs), *_unknown(costs)]
    return '\n'.join(lines + (['', *notes] if notes else []))


def _difference(cost: Cost, column: str, counting: Counting) -> str:
    difference = cost.difference(column)
    if difference is None:
        return ''
    tolerance = counting.tolerance_params if column.startswith('params') else counting.tolerance_flops
    shown = round(difference, 1) + 0.0  # no -0.0
    return f'{shown:+.1f} %' + (f' {MARKER}' if abs(difference) > tolerance else '')


def _notes(costs: Sequence[Cost]) -> list[str]:
    """A line per failure and note; rows that wait for the same share one."""
    notes = [f'- {cost.row.label}: failed: {cost.error}' for cost in costs if cost.error]
    notes += [f'- {cost.row.label}: quoted by the paper, no code here' for cost in costs if cost.row.quoted]
    for reason in dict.fromkeys(cost.row.waits_for for cost in costs if cost.row.waits_for):
        labels = [cost.row.label for cost in costs if cost.row.waits_for == reason]
        notes.append(f'- waits for {reason}: {"; ".join(labels)}')
    notes += [
        f'- {cost.row.label}: as in the paper, operations of {", ".join(cost.row.count_only)} alone'
        for cost in costs
        if cost.row.count_only and cost.row.runnable and not cost.error
    ]
    return notes + [f'- {cost.row.label}: {cost.row.note}' for cost in costs if cost.row.note]


def _unknown(costs: Sequence[Cost]) -> list[str]:
    """Operators without a formula, with their calls; rows that have the same operators share a line.

    A RoI extractor calls its operator once per level that has proposals, which depends on the random weights: a range.
    """
    groups: dict[tuple[str, ...], list[Cost]] = {}
    for cost in costs:
        if cost.result and cost.result['unknown']:
            groups.setdefault(tuple(sorted(cost.result['unknown'])), []).append(cost)
    lines = []
    for names, members in groups.items():
        calls = ', '.join(f'{name} ({_calls([cost.result["unknown"][name] for cost in members])})' for name in names)
        rows = '' if len(groups) == 1 else f': {"; ".join(cost.row.label for cost in members)}'
        lines.append(f'- Not counted: {calls}{rows}')
    return lines


def _calls(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return (f'{low}' if low == high else f'{low} to {high}') + (' call' if high == 1 else ' calls')


def to_json(table: Table, costs: Sequence[Cost]) -> dict[str, Any]:
    """The same for a program."""
    return dict(
        table=table.name,
        title=table.title,
        source=table.source,
        flops=table.counting.flops,
        input_size=list(table.counting.input_size),
        rows=[
            dict(
                name=cost.row.name,
                label=cost.row.label,
                paper={c: v for c, v in cost.row.paper.items() if c in COSTS},
                ours=cost.ours,
                difference_percent={c: cost.difference(c) for c in COSTS if cost.difference(c) is not None},
                waits_for=cost.row.waits_for,
                quoted=cost.row.quoted,
                error=cost.error,
                result=cost.result,
            )
            for cost in costs
        ],
    )
