"""``reproduce.py speed``: frames per second, latency and peak memory of a table's rows beside the paper's.

The rows run in turn (:mod:`mmscale.analysis.benchmark`), each in a process of its own, with random weights. Frames per
second belong to the machine that made them. What can be compared with the paper is a row's time over its baseline's.

One run is by default the network without the last post-processing, as the benchmark has it (mode ``'tensor'``). An
untrained SSD300 hands its NMS thousands of boxes, another seed or neck another number: in mode ``'predict'`` that
chance would be part of the comparison. A detector without an NMS, as RT-DETR, does the same work whatever its weights
are; its table may state ``mode: predict``.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .spec import MODES, Row, Table, find

if TYPE_CHECKING:  # these need torch, and the parser is built for `list` too
    from mmengine.config import Config

    from mmscale.analysis.statistics import Ratio

__all__ = ['Speeds', 'Timing', 'add_parser', 'measure', 'run']

DEFAULTS = dict(device='cpu', threads=None, batch_size=1, repeats=10, warmup=2, rounds=1)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``speed`` to ``reproduce.py``."""
    parser = subparsers.add_parser(
        'speed',
        help="frames per second, latency and peak memory of a table's rows beside the paper's",
        description='Measures the rows of one table side by side, with random weights. Compare the time to the '
        "baseline with the paper's: frames per second of two machines are not comparable.",
    )
    parser.add_argument('target', metavar='PAPER/TABLE', help='one table, for instance fine/table4')
    parser.add_argument(
        '--rows', nargs='+', metavar='ROW', help='only these and their baselines (`show` has the names)'
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: %(default)s)')
    parser.add_argument(
        '--threads', type=int, metavar='N', help="PyTorch's threads on the CPU (default: its own choice)"
    )
    parser.add_argument('--batch-size', type=int, metavar='B', help='images in a batch (default: %(default)s)')
    parser.add_argument('--repeats', type=int, metavar='N', help='timed runs of each row (default: %(default)s)')
    parser.add_argument('--warmup', type=int, metavar='N', help='runs before those (default: %(default)s)')
    parser.add_argument(
        '--rounds',
        type=int,
        metavar='N',
        help='repeat all of it with new processes; the intervals are then over rounds (default: %(default)s)',
    )
    parser.add_argument(
        '--mode',
        choices=MODES,
        help="the network, the whole way to boxes, or feature extraction alone (default: the table's, else tensor)",
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help="height and width of the images; one number for a square (default: the table's input_size)",
    )
    parser.add_argument('--amp', action='store_true', help='autocast to float16 (CUDA) or bfloat16 (CPU)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything to this file')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='also write the table to this file')
    parser.set_defaults(run=run, **DEFAULTS)


def run(args: argparse.Namespace) -> None:
    """The command; ends with code 1 if a row cannot be measured.

    Args:
        args (argparse.Namespace): As :func:`add_parser` describes.
    """
    from mmscale.analysis.benchmark import BenchmarkError
    from mmscale.files import write_json, write_text

    from .speed_table import to_json, to_markdown

    _check_machine(args.device, args.threads)
    tables = find(args.target)
    if len(tables) > 1:
        names = ', '.join(table.name for table in tables)
        raise ValueError(f"speed measures one table at a time, and '{args.target}' is {names}")
    try:
        speeds = measure(
            tables[0],
            args.rows,
            shape=args.shape,
            mode=args.mode,
            progress=sys.stderr.isatty(),
            amp=args.amp,
            **{name: getattr(args, name) for name in DEFAULTS},
        )
    except BenchmarkError as error:
        print(f'{error.traceback}error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('error: interrupted', file=sys.stderr)
        sys.exit(130)
    text = to_markdown(speeds)
    print(text)
    if args.out:
        write_text(args.out, f"# {args.target}: speed beside the paper's\n\nMade by `{_command(args)}`.\n\n{text}\n")
    if args.json:
        write_json(args.json, to_json(speeds))


@dataclass(frozen=True)
class Timing:
    """One row.

    Attributes:
        row (Row): The row.
        against (str | None): The row whose time divides this one's; None for a baseline.
        paper (float | None): The paper's frames per second.
        paper_ratio (float | None): The paper's time over that of its baseline.
        result (dict | None): What the benchmark found; None for a row that was not measured.
        ratio (Ratio | None): Time over that of ``against``; None where either was not measured.
        cpu_ratio (Ratio | None): The same of the processes' CPU time.
    """

    row: Row
    against: str | None
    paper: float | None = None
    paper_ratio: float | None = None
    result: dict[str, Any] | None = None
    ratio: 'Ratio | None' = None
    cpu_ratio: 'Ratio | None' = None


@dataclass(frozen=True)
class Speeds:
    """What was measured of one table.

    Attributes:
        table (Table): The table.
        timings (list[Timing]): The rows in the table's order; unless rows were chosen, those that only the paper
            measured as well.
        report (dict): What :func:`mmscale.analysis.benchmark` returned; its names are those of the rows.
    """

    table: Table
    timings: list[Timing]
    report: dict[str, Any]


def measure(
    table: Table,
    names: Iterable[str] | None = None,
    *,
    shape: int | Sequence[int] | None = None,
    mode: str | None = None,
    progress: bool = False,
    **options: Any,
) -> Speeds:
    """Measure the rows of a table in turn; those wait whose config needs an optional package that is not installed.

    Args:
        table (Table): The table.
        names (Iterable[str], optional): The rows that are wanted; their baselines are measured too. Defaults to None:
            all that can run.
        shape (int | Sequence[int], optional): Height and width of the images. Defaults to None: the table's.
        mode (str, optional): What one run is. Defaults to None: what the table states, else ``'tensor'``.
        progress (bool): Whether a bar is shown on stderr. Defaults to False.
        **options: Further arguments of :func:`mmscale.analysis.benchmark`.

    Raises:
        BenchmarkError: If a row cannot be measured.
        ValueError: If there are not two rows to compare, a row is unknown or cannot run, the table states no size and
            ``shape`` is None, or an option makes no sense.
    """
    from tqdm import tqdm

    from mmscale.analysis.benchmark import benchmark

    from .optional import mark_waiting, require_some

    table = mark_waiting(table)
    require_some([table])
    rows = _choose(table, names)
    size = shape or (table.counting.input_size if table.counting else None)
    if size is None:
        raise ValueError(f"{table.name} states no 'input_size', so height and width are needed: --shape 640 640")
    mode = mode or (table.speed.mode if table.speed else 'tensor')
    first = [row for row in rows if any(other.baseline == row.name for other in rows)]  # baselines, if there are any
    order = [*first, *(row for row in rows if row not in first)]
    networks, settings = [_network(table, row) for row in order], {**DEFAULTS, **options}
    steps = settings['rounds'] * len(order) * (1 + settings['warmup'] + settings['repeats'])
    with tqdm(total=steps, desc='Measuring', unit='step', disable=not progress) as bar:
        report = benchmark(
            networks, size, mode=mode, progress=lambda line: (bar.set_postfix_str(line), bar.update()), **settings
        )
    for row, result in zip(order, report['results'], strict=True):
        result['config'] = row.config if '::' in row.config else Path(row.config).name
    return Speeds(table, _timings(table, rows, report, shown=rows if names else table.rows), report)


def _choose(table: Table, names: Iterable[str] | None) -> list[Row]:
    """The rows that are wanted and their baselines; two at least."""
    wanted = table.select(names)
    known = {name for row in wanted for name in (row.name, row.baseline)}
    rows = [row for row in table.select() if row.name in known]
    if len(rows) < 2:
        which = f"only '{rows[0].name}' of {table.name}" if rows else f'no row of {table.name}'
        able = 'is to be measured' if names else 'can run'
        raise ValueError(f'speed compares two rows or more, but {which} {able}')
    return rows


def _network(table: Table, row: Row) -> 'Config':
    """All of the trained row's config that its speed depends on, under the row's name."""
    from mmengine.config import Config

    from .config import row_config

    cfg = row_config(table, row)  # not count_config: what is set for the count alone is not what runs
    kept = {key: cfg[key] for key in ('model', 'default_scope', 'custom_imports') if key in cfg}
    return Config(Config(kept).to_dict(), cfg_text=f'# {table.name} {row.name}', filename=f'{row.name}.py')


def _timings(table: Table, rows: list[Row], report: dict[str, Any], shown: Iterable[Row]) -> list[Timing]:
    from mmscale.analysis.statistics import paired_ratio

    results = {result['name']: result for result in report['results']}
    against = {row.name: row.baseline for row in table.rows}
    if not any(row.baseline in results for row in rows):  # a table without baselines: the first row serves for all
        against = {row.name: rows[0].name for row in table.rows if row is not rows[0]}
    column = table.speed.column if table.speed else None
    timings = []
    for row in shown:
        base, result, ratios = against.get(row.name), results.get(row.name), ()
        if result and base in results:
            ratios = [
                paired_ratio(result[time]['compared'], results[base][time]['compared'])
                for time in ('latency', 'cpu_time')
            ]
        paper = row.paper.get(column)
        if result or paper is not None or (row.waits_for and row.config):  # for a package
            timings.append(Timing(row, base, paper, _paper_ratio(table, row, base, column), result, *ratios))
    return timings


def _paper_ratio(table: Table, row: Row, base: str | None, column: str | None) -> float | None:
    """A row's time over its baseline's, by the paper's frames per second."""
    own = row.paper.get(column)
    if base is None or not own:
        return None
    theirs = table.row(base).paper.get(column)
    if base == row.baseline:
        theirs = row.paper_baseline.get(column, theirs)
    return theirs / own if theirs else None


def _check_machine(device: str, threads: int | None) -> None:
    """Refuse a device that is not there before anything is built."""
    if not re.fullmatch(r'cpu|cuda(:\d+)?', device):
        raise ValueError(f'--device {device} should be cpu, cuda or cuda:N')
    if threads is not None and threads < 1:
        raise ValueError(f'--threads {threads} should be 1 or more')
    if device != 'cpu':
        import torch

        count = torch.cuda.device_count()
        if int(device.partition(':')[2] or 0) >= count:
            raise ValueError(f'--device {device} is not there: PyTorch can use {count or "no"} GPUs here')


def _command(args: argparse.Namespace) -> str:
    """What was typed, without the options that have their defaults."""
    words = [args.target]
    for name in ('rows', 'shape', 'mode', *DEFAULTS, 'out'):
        if (value := getattr(args, name)) != DEFAULTS.get(name):
            words += [f'--{name.replace("_", "-")}', *map(str, value if isinstance(value, list) else [value])]
    return 'python tools/reproduce.py speed ' + shlex.join([*words, *(['--amp'] if args.amp else [])])
