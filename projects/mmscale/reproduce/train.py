"""``reproduce.py train``: every row of a table with every seed, each a run of its own.

A run that is finished is not run again, one that was cut goes on, one that fails does not stop the others. The same
command can therefore be typed again until nothing is left to do, and two of them can share the work.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runs import WORK_ROOT, Run, check_name, default_name, differences, experiment_folder, load_experiment
from .spec import Row, Table, find

if TYPE_CHECKING:  # these need torch, and the parser is built for `list` too
    from mmengine.config import Config

    from .config import Settings
    from .executors import LocalExecutor, SubmititExecutor

__all__ = ['Item', 'add_parser', 'plan', 'run']

EXECUTORS = ('local', 'slurm')


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``train`` to ``reproduce.py``."""
    parser = subparsers.add_parser(
        'train',
        help='train and test the rows, with several seeds each',
        description='Trains and tests every row with every seed. Finished runs are passed over, cut ones go on.',
    )
    parser.add_argument('target', metavar='PAPER[/TABLE]', help='fine/table4, or fine for every table')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='only these (`show` has the names)')
    parser.add_argument('--seeds', type=int, default=1, metavar='K', help='seeds 0 to K-1 (default: 1)')
    parser.add_argument('--name', metavar='EXPERIMENT', help='default: data set and epochs, for instance bccd-12e')
    parser.add_argument('--work-root', type=Path, default=WORK_ROOT, metavar='DIR', help='default: %(default)s')
    parser.add_argument('--redo', action='store_true', help='discard what there is of these runs and run them anew')
    parser.add_argument('--dry-run', action='store_true', help='only say what would be done')
    parser.add_argument('--keep-checkpoints', action='store_true', help="every epoch's, not only the last one's")

    group = parser.add_argument_group('what changes the numbers')
    group.add_argument('--dataset', help="a data layer of configs/_base_/datasets, e.g. bccd (default: the row's own)")
    group.add_argument('--epochs', type=int, metavar='N', help="default: the row's own schedule")
    group.add_argument('--from-scratch', action='store_true', help='without pretrained weights')
    group.add_argument('--batch-size', type=int, metavar='B', help='images per GPU')
    group.add_argument('--image-scale', type=int, nargs=2, metavar=('W', 'H'), help='for every resize')
    group.add_argument('--amp', action='store_true', help='mixed precision')
    group.add_argument('--no-auto-scale-lr', action='store_true', help="the config's learning rate whatever the batch")
    group.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='change any field of every config')

    group = parser.add_argument_group('where it runs')
    group.add_argument('--executor', choices=EXECUTORS, default='local', help='default: %(default)s')
    group.add_argument('--jobs', type=int, metavar='J', help='runs at a time (default: as many as there are GPUs for)')
    group.add_argument('--gpus-per-job', type=int, metavar='G', help='0 for none (default: 1 if there is any)')
    group.add_argument('--runs-per-gpu', type=int, default=1, metavar='R', help='small models may share (default: 1)')
    group.add_argument('--partition', help="Slurm's partition")
    group.add_argument('--time-limit', metavar='TIME', help='of a job: minutes, HH:MM:SS or D-HH (default: 1-00)')
    group.add_argument('--slurm-options', nargs='+', metavar='KEY=VALUE', help="more of sbatch's, e.g. account=name")
    group.add_argument('--no-wait', action='store_true', help='submit to Slurm and return')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command: plans, runs, sums up; ends with code 1 if a run failed.

    Args:
        args (argparse.Namespace): As :func:`add_parser` describes.
    """
    from . import conduct
    from .optional import describe_waiting, mark_waiting, require_some

    check(args)
    tables, settings = [mark_waiting(table) for table in find(args.target)], read_settings(args)
    if args.rows and len(tables) > 1:
        raise ValueError(f"--rows needs one table: '{args.target}' has {', '.join(table.name for table in tables)}")
    require_some(tables)
    for sentence in [] if args.rows else [told for table in tables for told in describe_waiting(table)]:
        print(f'skipped: {sentence}')
    name = check_name(args.name) if args.name else default_name(settings)
    old = other_settings(tables, name, args, settings)
    items = plan(tables, args.rows, settings)
    runs = list_runs(items, name, args)
    if args.dry_run:
        return conduct.show(runs, args.redo)
    executor = make_executor(args, experiment_folder(items[0].table, name, args.work_root))
    jobs = make_jobs(runs, executor.gpus_per_job, settings, args.keep_checkpoints)
    require_weights(runs, args.redo)
    if args.redo:
        discard(runs, old, args.work_root)
    note_experiment(items, name, args, settings)
    sys.exit(conduct.conduct(jobs, executor, tables, wait=not args.no_wait))


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: It names the option.
    """
    for name, least in (('seeds', 1), ('epochs', 1), ('batch_size', 1), ('jobs', 1), ('gpus_per_job', 0),
                        ('runs_per_gpu', 1)):  # fmt: skip
        if (value := getattr(args, name)) is not None and value < least:
            raise ValueError(f'--{name.replace("_", "-")} {value} should be {least} or more')
    if args.image_scale and min(args.image_scale) < 1:
        raise ValueError(f'--image-scale {" ".join(map(str, args.image_scale))} should be width and height in pixels')
    if args.executor == 'local':
        for name in ('partition', 'time_limit', 'slurm_options', 'no_wait'):
            if getattr(args, name):
                raise ValueError(f'--{name.replace("_", "-")} is for --executor slurm')
    elif args.runs_per_gpu != 1:
        raise ValueError('--runs-per-gpu is for --executor local')


def read_settings(args: argparse.Namespace) -> 'Settings':
    """What of the command line changes the numbers."""
    from .config import Settings

    return Settings(
        dataset=args.dataset,
        epochs=args.epochs,
        from_scratch=args.from_scratch,
        batch_size=args.batch_size,
        image_scale=tuple(args.image_scale) if args.image_scale else None,
        amp=args.amp,
        auto_scale_lr=not args.no_auto_scale_lr,
        cfg_options=_options('--cfg-options', args.cfg_options),
    )


def _options(flag: str, words: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` words as tools/train.py reads them."""
    from mmscale.engine.cli import Options

    parser = argparse.ArgumentParser(prog='reproduce.py train', usage=argparse.SUPPRESS)
    parser.add_argument(flag, nargs='+', action=Options, dest='options')
    return (parser.parse_args([flag, *words]).options if words else None) or {}


@dataclass(frozen=True)
class Item:
    """A row that is going to be trained.

    Attributes:
        table (Table): Its table.
        row (Row): Itself.
        cfg (Config): Its config.
        hash (str): Of the config.
        epochs (int | None): How many it trains; None if it counts iterations.
    """

    table: Table
    row: Row
    cfg: 'Config'
    hash: str
    epochs: int | None


def plan(tables: list[Table], rows: list[str] | None, settings: 'Settings') -> list[Item]:
    """The rows, with configs that were checked; says what ``--from-scratch`` left out of them.

    Of several tables, rows that train on annotations which the data layer does not have (masks) are named and passed
    over: all of a paper on a data set of boxes is what its detectors reach there.

    Args:
        tables (list[Table]): The tables.
        rows (list[str] | None): Names of the rows; None for all that can run.
        settings (Settings): The experiment's.

    Raises:
        UsageError: If a row cannot be trained so, or there is none.
    """
    from mmscale.engine.cli import UsageError

    from .config import row_config
    from .dataset import WrongKindError

    items, dropped = [], {}
    for table in tables:
        for row in table.select(rows):
            try:
                cfg = row_config(table, row, settings)
            except ValueError as error:
                if len(tables) > 1 and isinstance(error.__cause__, WrongKindError):
                    print(f'passed over: {error}')
                    continue
                raise UsageError(str(error)) from error
            if lines := cfg.get('reproduce_from_scratch'):
                dropped.setdefault('; '.join(lines), []).append(row.name)
            text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
            epochs = cfg.train_cfg.get('max_epochs', cfg.get('reproduce_epochs'))
            items.append(Item(table, row, cfg, hashlib.sha256(text.encode()).hexdigest(), epochs))
    if not items:
        raise UsageError(f'{", ".join(table.name for table in tables)} has no row that can run yet')
    for lines, names in dropped.items():
        print(f'warning: --from-scratch: {lines} ({", ".join(dict.fromkeys(names))})')
    return items


def list_runs(items: list[Item], name: str, args: argparse.Namespace) -> list[tuple[Run, Item]]:
    """Every row with every seed; all rows of seed 0 come first, so that a report makes sense early."""
    return [
        (Run(item.table.paper, item.table.key, name, item.row.name, seed, args.work_root), item)
        for seed in range(args.seeds)
        for item in items
    ]


def make_jobs(runs: list[tuple[Run, Item]], gpus: int, settings: 'Settings', keep_checkpoints: bool) -> list:
    """The runs as jobs of an executor."""
    from .process import Job

    texts = {}
    for _, item in runs:
        if id(item) not in texts:
            texts[id(item)] = item.cfg.dump()
    return [
        Job(run, texts[id(item)], item.hash, asdict(settings), item.epochs, gpus, keep_checkpoints)
        for run, item in runs
    ]


def other_settings(tables: list[Table], name: str, args: argparse.Namespace, settings: 'Settings') -> list[Table]:
    """Tables whose experiment of this name was made with other settings.

    Raises:
        UsageError: If there is any and the user did not say ``--redo``.
    """
    from mmscale.engine.cli import UsageError

    changed = []
    for table in tables:
        known = load_experiment(table, name, args.work_root)
        if known and (differs := differences(known.get('settings', {}), asdict(settings))):
            if not args.redo:
                raise UsageError(
                    f"experiment '{name}' of {table.name} was made with other settings: {'; '.join(differs)}; give the "
                    "new one a name of its own with --name, or discard all of the old one's runs with --redo"
                )
            changed.append((table, name))
    return changed


def discard(runs: list[tuple[Run, Item]], experiments: list[tuple[Table, str]], work_root: Path) -> None:
    """Remove runs that shall be done anew, and all of an experiment whose settings changed.

    Raises:
        UsageError: If somebody works on one of them; then nothing is removed.
    """
    from mmscale.engine.cli import UsageError

    found = {run.folder: run for run, _ in runs if run.folder.is_dir()}
    for table, name in experiments:
        for folder in experiment_folder(table, name, work_root).glob('*/seed*'):
            if (seed := folder.name.removeprefix('seed')).isdecimal():
                found.setdefault(folder, Run(table.paper, table.key, name, folder.parent.name, int(seed), work_root))
    locks = []
    try:
        for run in found.values():
            locks.append(run.lock())
            if not locks[-1].acquire():
                raise UsageError(f'--redo: {locks[-1].holder() or "another process"} works on {run.title}')
        for run in found.values():
            run.discard()
    finally:
        for lock in locks:
            lock.release()


def require_weights(runs: list[tuple[Run, Item]], redo: bool) -> None:
    """Fetch pretrained weights once, here, and not in every run at the same time."""
    from mmscale.engine.cli import UsageError

    from .pretrained import require_pretrained

    needed = {id(item): item for run, item in runs if redo or run.state(item.hash).kind in ('new', 'cut')}
    for item in needed.values():
        try:
            require_pretrained(item.cfg)
        except ValueError as error:
            raise UsageError(f"row '{item.row.name}' of {item.table.name}: {error}") from error


def make_executor(args: argparse.Namespace, folder: Path) -> 'LocalExecutor | SubmititExecutor':
    """Where the command line wants the runs."""
    from .executors import LocalExecutor, SubmititExecutor, parse_minutes

    if args.executor == 'local':
        return LocalExecutor(args.jobs, args.gpus_per_job, args.runs_per_gpu)
    options = _options('--slurm-options', args.slurm_options)
    limit = parse_minutes(args.time_limit or '1-00')
    return SubmititExecutor(folder / 'queue', args.jobs, args.gpus_per_job, args.partition, limit, options)


def note_experiment(items: list[Item], name: str, args: argparse.Namespace, settings: 'Settings') -> None:
    """Leave ``experiment.json`` with the settings of all its runs, and the rows and number of seeds asked for now."""
    from mmscale.files import write_json

    for table in {item.table.name: item.table for item in items}.values():
        rows = [item.row.name for item in items if item.table is table]
        content = dict(settings=asdict(settings), rows=rows, seeds=args.seeds)
        write_json(experiment_folder(table, name, args.work_root) / 'experiment.json', content)
