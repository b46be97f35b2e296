"""Where runs come from, and what makes them incomparable: other configs, settings, code or software."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import Column, RowResult

__all__ = ['environments', 'faults', 'revisions']

UNIMPORTANT = ('hostname',)  # of an environment: another machine of the same kind is no other experiment


def faults(rows: Sequence['RowResult'], columns: Sequence['Column'], settings: Mapping) -> list[str]:
    """What a reader must know before comparing, one sentence each.

    Args:
        rows (Sequence[RowResult]): The table's rows with their runs.
        columns (Sequence[Column]): The table's figures.
        settings (Mapping): The experiment's.
    """
    used = [run for row in rows for run in row.runs]
    return [*_of_rows(rows, columns, settings), *_of_scales(rows, columns), *_of_code(used)]


def _of_rows(rows: Sequence['RowResult'], columns: Sequence['Column'], settings: Mapping) -> Iterator[str]:
    """Runs of one row that are not of one kind, or lack a figure."""
    for row in rows:
        hashes: dict[str, list[int]] = {}
        for run in row.runs:
            hashes.setdefault(run['config_hash'], []).append(run['seed'])
        if len(hashes) > 1:
            groups = ', '.join(f'{key[:8]}: {_seeds(seeds)}' for key, seeds in hashes.items())
            yield (
                f'{row.label}: its runs come from {len(hashes)} different configs ({groups}), so that some are stale; '
                '`train` with --redo makes them anew'
            )
        if other := [run['seed'] for run in row.runs if run['settings'] != dict(settings)]:
            yield f"{row.label}: {_seeds(other)} had other settings than the experiment's"
        for column in columns:
            values = row.cells[column.name].values
            if row.runs and not values:
                yield f"{row.label}: no run has a figure for {column.name} (metric '{column.metric}')"
            elif absent := [run['seed'] for run in row.runs if run['seed'] not in values]:
                yield f"{row.label}: {_seeds(absent)} without a figure for {column.name} (metric '{column.metric}')"


def _of_scales(rows: Sequence['RowResult'], columns: Sequence['Column']) -> Iterator[str]:
    """A column of fractions beside the paper's percent."""
    for column in columns:
        cells = [row.cells[column.name] for row in rows]
        ours = [abs(value) for cell in cells for value in cell.values.values()]
        papers = [abs(cell.paper) for cell in cells if cell.paper is not None]
        if ours and papers and max(ours) <= 1 < min(papers) and column.scale == 1:
            yield (
                f"{column.name}: ours are at most {max(ours):.3g} and the paper's at least {min(papers):g}; "
                f"'scale: {{{column.name}: 100}}' may be missing in tables.yml"
            )


def _of_code(runs: Sequence[dict]) -> Iterator[str]:
    """More than one state of the code or of the software."""
    states = revisions(runs)
    if len(states) > 1:
        counts = ', '.join(f'{name} ({count} run{"s" if count > 1 else ""})' for name, count in states.items())
        yield f'the runs come from {len(states)} states of the code: {counts}'
    elif any((run.get('git') or {}).get('dirty') for run in runs):
        yield 'the code had changes that were not committed'
    for key, values in environments(runs).items():
        if len(values) > 1:
            yield f'the runs were made with more than one {key}: {", ".join(map(str, values))}'


def revisions(runs: Iterable[dict]) -> dict[str, int]:
    """Number of runs by git revision; 'with changes' for a checkout that had some, 'unknown' without a checkout."""
    counts: dict[str, int] = {}
    for run in runs:
        git = run.get('git')
        name = 'unknown' if git is None else git['revision'][:12] + (' with changes' if git['dirty'] else '')
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def environments(runs: Iterable[dict]) -> dict[str, list]:
    """The values that were seen of every entry of the environment that matters."""
    seen: dict[str, dict[str, Any]] = {}
    for run in runs:
        for key, value in (run.get('environment') or {}).items():
            if key not in UNIMPORTANT:
                seen.setdefault(key, {})[json.dumps(value, sort_keys=True)] = value
    return {key: [value for _, value in sorted(values.items())] for key, values in seen.items()}


def _seeds(seeds: Sequence[int]) -> str:
    return ('seed ' if len(seeds) == 1 else 'seeds ') + ', '.join(map(str, seeds))
