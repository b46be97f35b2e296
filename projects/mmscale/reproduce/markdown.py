"""A report as Markdown: what was run, then one table per figure with a sentence per comparison, then the runs."""

from collections.abc import Mapping, Sequence

from mmscale.files import markdown_table

from .results import Cell, Column, Results, RowResult

__all__ = ['describe', 'to_markdown']

STATES = {
    'quoted': 'quoted by the paper, no code here',
    'waits': 'waits for {why}',
    'failed': 'failed: {why}',
    'not run': 'not run',
    'too few seeds': 'too few seeds: {n} of {wanted}',
    'complete': 'complete',
}

HOW_TO_READ = """\
- Values are mean ± standard deviation over the seeds that finished; `*` marks fewer than {min_seeds} seeds.
- A difference is the row minus its baseline, paired over the seeds that both have: the mean of the pairs' differences
  and its {confidence} interval by Student's t, which takes the differences for normally distributed. One pair has no
  interval.
- The intervals are of each comparison by itself. p is the paired t test's; Holm's p is adjusted for all comparisons of
  that figure in this table.
- The paper's difference is to the baseline that the paper compares with, and has no spread. Its values come from its
  own data and recipe: where the settings above are others, compare differences, not values.
- Seconds are of training and memory is its peak, as the runs found them; with several runs on one machine at a time
  they are no benchmark."""


def to_markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """The whole report.

    Args:
        results (Results): What the runs say.
        pictures (Sequence[str]): Files to show, relative to the report. Defaults to ().
    """
    parts = [f'# {results.table.name}: {results.table.title}', _header(results)]
    if results.faults:
        parts.append('**Before comparing:**\n\n' + '\n'.join(f'- {_end(fault)}' for fault in results.faults))
    for column in results.columns:
        parts.append(_figure(results, column))
    parts += [f'![{picture.partition(".")[0]}]({picture})' for picture in pictures]
    parts += [_runs(results), _notes(results)]
    how = HOW_TO_READ.format(min_seeds=results.min_seeds, confidence=_percent(results.confidence))
    parts.append(f'## How to read it\n\n{how}')
    return '\n\n'.join(part for part in parts if part) + '\n'


def describe(row: RowResult, min_seeds: int) -> str:
    """A row's state in words."""
    return STATES[row.state].format(why=row.why, n=len(row.seeds), wanted=min_seeds)


def _header(results: Results) -> str:
    table = results.table
    count = sum(len(row.runs) for row in results.rows)
    rows = sum(bool(row.runs) for row in results.rows)
    entries = {
        'source': table.source,
        "the paper's recipe": table.recipe_paper,
        'our recipe': table.recipe_ours,
        'experiment': f'`{results.experiment}`' + _settings(results.settings),
        'finished': f'{_plural(count, "run")} of {_plural(rows, "row")}'
        + (f', {results.dates[0]} to {results.dates[1]}' if results.dates else ''),
        'code': ', '.join(results.revisions),
        'environment': '; '.join(
            f'{key} {" and ".join(map(str, values))}' for key, values in results.environment.items()
        ),
    }
    lines = [f'| {key} | {_cell(value)} |' for key, value in entries.items() if value]
    return '\n'.join(['| | |', '|---|---|', *lines])


def _settings(settings: Mapping) -> str:
    words = {True: 'yes', False: 'no'}
    given = [
        f'{key} {words[value] if isinstance(value, bool) else value}'
        for key, value in settings.items()
        if value is not None and value != {}
    ]
    return ': ' + ', '.join(given) if given else ''


def _figure(results: Results, column: Column) -> str:
    """The table of one figure, and what its differences show."""
    lines = []
    for row in results.rows:
        cell = row.cells[column.name]
        against = '' if row.baseline is None else _cell(results.row(row.baseline).label)
        line = dict(row=_cell(row.label), against=against, n=_count(row, cell, results.min_seeds))
        line['ours'] = _value(cell, column)
        line.update(_difference(cell, column, results.confidence))
        line['paper'] = _number(cell.paper, column.decimals)
        line["paper's difference"] = _number(cell.paper_difference, column.decimals, '+')
        lines.append(line)
    heads = list(lines[0])
    if len({row.baseline for row in results.rows} - {None}) < 2:
        heads.remove('against')
    if not any(line['paper'] for line in lines):
        heads = heads[:-2]
    below = [_sentence(results, row, column) for row in results.rows if row.cells[column.name].difference]
    title = f'## {column.name}' + (' (lower is better)' if column.lower_is_better else '')
    cells = [heads, *([line[head] for head in heads] for line in lines)]
    table = markdown_table(cells, right=range(heads.index('n'), len(heads)))
    return '\n\n'.join([title, table, *(['\n'.join(below)] if below else [])])


def _count(row: RowResult, cell: Cell, min_seeds: int) -> str:
    if not row.seeds:
        return ''
    return f'{cell.summary.n}' + ('*' if cell.summary.n < min_seeds else '')


def _value(cell: Cell, column: Column) -> str:
    if cell.summary.mean is None:
        return ''
    spread = '' if cell.summary.std is None else f' ± {cell.summary.std:.{column.decimals}f}'
    return f'{cell.summary.mean:.{column.decimals}f}{spread}'


def _difference(cell: Cell, column: Column, confidence: float) -> dict[str, str]:
    found, digits = cell.difference, column.decimals + 1
    interval = ''
    if found is not None:
        interval = 'none' if found.low is None else _interval(found.low, found.high, digits)
    return {
        'difference': _number(found and found.mean, digits, '+'),
        f'{_percent(confidence)} interval': interval,
        'p': _p(found and found.p),
        'Holm p': _p(cell.p_holm),
    }


def _sentence(results: Results, row: RowResult, column: Column) -> str:
    cell, digits = row.cells[column.name], column.decimals + 1
    difference, baseline = cell.difference, results.row(row.baseline)
    seeds = ('seeds ' if difference.n > 1 else 'seed ') + ', '.join(map(str, difference.seeds))
    interval = (
        ''
        if difference.low is None
        else (f'{_percent(difference.confidence)} interval {_interval(difference.low, difference.high, digits)}, ')
    )
    paper = (
        ''
        if cell.paper_difference is None
        else (f' The paper has {_number(cell.paper_difference, column.decimals, "+")}.')
    )
    return (
        f'- {_cell(row.label)} against {_cell(baseline.label)}: {_number(difference.mean, digits, "+")} '
        f'({interval}{seeds}): {cell.verdict}.{paper}'
    )


def _runs(results: Results) -> str:
    """State, time and memory of every row."""
    lines = [['row', 'seeds', 'state', 's per run', 'to baseline', 'peak memory (MB)', 'to baseline']]
    for row in results.rows:
        lines.append(
            [
                _cell(row.label),
                ', '.join(map(str, row.seeds)),
                _cell(describe(row, results.min_seeds)),
                _number(row.seconds, 1),
                _number(row.seconds_ratio, 3),
                _number(None if row.memory is None else row.memory / 1e6, 1),
                _number(row.memory_ratio, 3),
            ]
        )
    kinds = sorted({kind for row in results.rows for kind in row.memory_of})
    below = f'\n\nPeak memory is: {", ".join(kinds)}.' if kinds else ''
    return f'## Runs\n\n{markdown_table(lines, right=range(3, 7))}{below}'


def _notes(results: Results) -> str:
    notes = [f'- {_cell(row.label)}: {_end(row.note)}' for row in results.rows if row.note]
    notes += [
        f'- {name} is in the paper and not measured here: {_end(why)}' for name, why in results.table.unmeasured.items()
    ]
    failed = [row for row in results.rows if row.state == 'complete' and row.why]
    notes += [f'- {_cell(row.label)}: a further run failed ({row.why}).' for row in failed]
    return '## Notes\n\n' + '\n'.join(notes) if notes else ''


def _number(value: float | None, decimals: int, sign: str = '') -> str:
    return '' if value is None else _no_minus_zero(f'{value:{sign}.{decimals}f}')


def _interval(low: float, high: float, decimals: int) -> str:
    return f'{_number(low, decimals, "+")} to {_number(high, decimals, "+")}'


def _no_minus_zero(text: str) -> str:
    return text.replace('-', '+', 1) if text.startswith('-') and float(text) == 0 else text


def _p(p: float | None) -> str:
    return '' if p is None else '< 0.001' if p < 0.001 else f'{p:.3f}'


def _percent(fraction: float) -> str:
    return f'{fraction * 100:g} %'


def _plural(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('' if count == 1 else 's')


def _end(sentence: str) -> str:
    return sentence if sentence.endswith(('.', '!', '?')) else sentence + '.'


def _cell(text: object) -> str:
    """Text that cannot break out of a table's cell."""
    return ' '.join(str(text).split()).replace('|', '\\|')
