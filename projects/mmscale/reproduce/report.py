"""``reproduce.py report``: what has finished so far beside the paper's figures, as Markdown, CSV, JSON and pictures."""

import argparse
import csv
import io
from collections.abc import Iterable
from pathlib import Path

from .results import Results, gather
from .spec import Table, find

__all__ = ['add_parser', 'collect', 'rows_csv', 'runs_csv', 'write']

EXAMPLE = 'python tools/reproduce.py train {table}{dataset} --epochs 12 --seeds 3'


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``report`` to ``reproduce.py``."""
    from .runs import WORK_ROOT

    parser = subparsers.add_parser(
        'report',
        help='results so far beside the paper, with differences paired over seeds',
        description='Prints the report of an experiment and leaves report.md, runs.csv (a line per run), rows.csv (a '
        'line per row), bars.png and curves.png (validation over the epochs) beside its runs.',
    )
    parser.add_argument('target', metavar='PAPER[/TABLE]', help='fine/table4, or fine for every table that has runs')
    parser.add_argument(
        '--name', metavar='EXPERIMENT', help='which experiment, as `train` named it (default: the only one there is)'
    )
    parser.add_argument(
        '--work-root',
        type=Path,
        default=Path(WORK_ROOT),
        metavar='DIR',
        help='where `train` left its runs (default: %(default)s)',
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help="where the report goes (default: the experiment's folder)"
    )
    parser.add_argument('--min-seeds', type=int, default=3, metavar='N', help='mark rows with fewer runs (default: 3)')
    parser.add_argument('--confidence', type=float, default=0.95, metavar='C', help='of the intervals (default: 0.95)')
    parser.add_argument('--metric', metavar='COLUMN', help="the pictures' figure (default: the table's first)")
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything to this file')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command.

    Args:
        args (argparse.Namespace): As :func:`add_parser` describes.
    """
    from mmscale.files import write_json

    from .runs import experiment_folder

    tables, reports = find(args.target), []
    chosen = _choose(tables, args.name, args.work_root, args.target)
    for table, experiment in chosen:
        results = collect(table, experiment, args.work_root, args.min_seeds, args.confidence)
        folder = args.out or experiment_folder(table, experiment, args.work_root)
        if args.out and len(tables) > 1:
            folder = args.out / table.key
        print(write(results, folder, args.metric))
        print(f'Written to {folder}\n')
        reports.append(results.to_dict())
    if args.json:
        write_json(args.json, reports)


def collect(
    table: Table, experiment: str, work_root: str | Path, min_seeds: int = 3, confidence: float = 0.95
) -> Results:
    """Read an experiment's runs and make sense of them.

    Args:
        table (Table): The table.
        experiment (str): The experiment's name.
        work_root (str | Path): Where ``train`` left its runs.
        min_seeds (int): Fewer runs than this mark a row. Defaults to 3.
        confidence (float): Of the intervals. Defaults to 0.95.
    """
    from .runs import load_experiment, load_failures, load_runs

    return gather(
        table,
        experiment,
        load_runs(table, experiment, work_root),
        failures=load_failures(table, experiment, work_root),
        settings=(load_experiment(table, experiment, work_root) or {}).get('settings'),
        min_seeds=min_seeds,
        confidence=confidence,
    )


def write(results: Results, folder: str | Path, metric: str | None = None) -> str:
    """Leave a report in a folder.

    Args:
        results (Results): What the runs say.
        folder (str | Path): It gets report.md, runs.csv, rows.csv and the pictures; a picture for which there are no
            runs (any more) is removed.
        metric (str, optional): The pictures' column. Defaults to None: the table's first.

    Returns:
        str: The Markdown.

    Raises:
        ValueError: If the table has no such column.
    """
    from mmscale.files import write_text

    from .markdown import to_markdown
    from .plot import bars, curves

    folder, pictures = Path(folder), []
    for name, draw in (('bars.png', bars), ('curves.png', curves)):
        if draw(results, folder / name, metric):
            pictures.append(name)
        else:
            (folder / name).unlink(missing_ok=True)
    text = to_markdown(results, pictures)
    for name, content in (('report.md', text), ('runs.csv', runs_csv(results)), ('rows.csv', rows_csv(results))):
        write_text(folder / name, content)
    return text


def runs_csv(results: Results) -> str:
    """One line per finished run, values in the paper's unit and unrounded."""
    names = [column.name for column in results.columns]
    lines = [
        [
            'table',
            'experiment',
            'row',
            'label',
            'seed',
            *names,
            'seconds',
            'peak_memory_bytes',
            'peak_memory_of',
            'attempts',
            'config_hash',
            'revision',
            'dirty',
            'finished',
        ]
    ]
    for row in results.rows:
        for run in row.runs:
            git = run.get('git') or {}
            lines.append(
                [
                    results.table.name,
                    results.experiment,
                    row.name,
                    row.label,
                    run['seed'],
                    *(row.cells[name].values.get(run['seed']) for name in names),
                    run['seconds'],
                    run.get('peak_memory_bytes'),
                    run.get('peak_memory_of'),
                    run.get('attempts'),
                    run['config_hash'],
                    git.get('revision'),
                    git.get('dirty'),
                    run['finished'],
                ]
            )
    return _csv(lines)


def rows_csv(results: Results) -> str:
    """One line per row of the table: per figure n, mean, deviation, difference with interval and p, the paper's."""
    statistics = ('n', 'mean', 'std', 'pairs', 'difference', 'low', 'high', 'p', 'p_holm', 'paper', 'paper_difference')
    lines = [
        [
            'table',
            'experiment',
            'row',
            'label',
            'baseline',
            'state',
            'seeds',
            'confidence',
            *(f'{column.name} {name}' for column in results.columns for name in statistics),
            'seconds',
            'seconds_ratio',
            'peak_memory_bytes',
            'peak_memory_ratio',
        ]
    ]
    for row in results.rows:
        line = [
            results.table.name,
            results.experiment,
            row.name,
            row.label,
            row.baseline,
            row.state,
            len(row.seeds),
            results.confidence,
        ]
        for column in results.columns:
            cell = row.cells[column.name]
            found = cell.difference
            line += [cell.summary.n, cell.summary.mean, cell.summary.std]
            line += [None] * 5 if found is None else [found.n, found.mean, found.low, found.high, found.p]
            line += [cell.p_holm, cell.paper, cell.paper_difference]
        lines.append([*line, row.seconds, row.seconds_ratio, row.memory, row.memory_ratio])
    return _csv(lines)


def _choose(tables: list[Table], name: str | None, work_root: Path, target: str) -> list[tuple[Table, str]]:
    """The experiment of every table that has one."""
    from .runs import experiments

    chosen, there = [], {}
    for table in tables:
        there[table.name] = names = experiments(table, work_root)
        if name is None and len(names) > 1:
            raise ValueError(
                f"{table.name} has several experiments under '{work_root}', choose one with --name: " + ', '.join(names)
            )
        if name in names or (name is None and names):
            chosen.append((table, name or names[0]))
    if chosen:
        return chosen
    dataset = ' --dataset bccd' if tables[0].task == 'detection' else ''  # which has boxes only
    example = EXAMPLE.format(table=tables[0].name, dataset=dataset)
    if name is None:
        raise ValueError(f"{target} has no experiment under '{work_root}'; `{example}` makes one")
    others = sorted({other for names in there.values() for other in names})
    raise ValueError(
        f"{target} has no experiment '{name}' under '{work_root}'; "
        + (f'there is {", ".join(others)}' if others else f'`{example} --name {name}` makes it')
    )


def _csv(lines: Iterable[list]) -> str:
    """RFC 4180 but for the line ends; nothing where there is no value."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator='\n').writerows(lines)
    return buffer.getvalue()
