"""The command line of :mod:`mmscale.analysis.loss_curves`."""

import argparse
import csv
import io
import math
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from mmscale.engine.cli import UsageError, command
from mmscale.files import write_json, write_text

from .loss_curves import Model, curve_of, default_levels, kind_of
from .loss_curves_pictures import check_log_axis, draw_curves, drop_places
from .loss_curves_tables import describe, doubts, reach_table, show_place, summary_table, unit_of
from .training_log import TrainingLog, log_files, read_training_log

__all__ = ['build_parser', 'main', 'name_runs', 'runs_of']

SEED = re.compile(r'seed(\d+)')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='plot_loss.py',
        description='Losses of several trainings over the epochs, smoothed, and the epochs that each needs to a given '
        'loss. Needs no config and no data, only what tools/train.py or tools/reproduce.py left.',
    )
    parser.add_argument(
        'runs',
        nargs='*',
        metavar='[LABEL=]WORK_DIR',
        help='work dirs, or folders of seed0, seed1, ...; the first model is the reference, and runs with the same '
        'label are one model',
    )
    parser.add_argument(
        '--group',
        nargs='+',
        action='append',
        default=[],
        metavar=('LABEL', 'WORK_DIR'),
        help='several runs of one model, after those above; may be repeated',
    )
    parser.add_argument(
        '--key',
        default='loss',
        help='any scalar: loss_cls, grad_norm, or a metric of the validation (default: loss)',
    )
    parser.add_argument(
        '--x', choices=['epoch', 'iter', 'time'], help='default: epoch, or iter if a run counts iterations'
    )
    parser.add_argument(
        '--smooth',
        type=float,
        metavar='WIDTH',
        help='of the centred moving average, in epochs (default: 1), or in iterations if a run counts those (default: '
        '2 %% of the longest run)',
    )
    parser.add_argument(
        '--reach',
        type=float,
        nargs='+',
        metavar='LEVEL',
        help="values to reach (default: the first model's last one, and where 9 tenths of its way there lie)",
    )
    parser.add_argument(
        '--best', choices=['lowest', 'highest'], help='default: highest for metrics and accuracies, else lowest'
    )
    parser.add_argument('--log', action='store_true', help='logarithmic axis of the values')
    parser.add_argument('--out', type=Path, metavar='DIR', help='write KEY.png, KEY.csv (curves), KEY.json (figures)')
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


def runs_of(words: Sequence[str], groups: Sequence[Sequence[str]] = ()) -> list[tuple[str | None, Path]]:
    """Labels and work dirs that the command line names.

    Args:
        words (Sequence[str]): ``PATH`` or ``LABEL=PATH``; the path may be a pattern, and a folder of seeds stands
            for all of them that have begun.
        groups (Sequence[Sequence[str]]): A label and its paths.

    Raises:
        UsageError: If one is no work dir, or is there twice.
    """
    named: list[tuple[str | None, str]] = []
    for word in words:
        label, separator, path = word.partition('=')
        named.append((None, word) if not separator or Path(word).exists() else (label, path))
    for label, *paths in groups:
        if not paths:
            raise UsageError(f"--group '{label}' should be a label and one work dir or more")
        named += [(label, path) for path in paths]
    found: list[tuple[str | None, Path]] = []
    for label, path in named:
        if label is not None and not (label.strip() and path):
            raise UsageError(f"'{label}={path}' should be a label and a work dir, such as SSD300=work_dirs/ssd300")
        found += [(label, run) for place in _expand(path) for run in _seeds_of(place)]
    seen = set()
    for _, run in found:
        if run.resolve() in seen:
            raise UsageError(f"work dir '{run}' is given twice: runs of one model should be different ones")
        seen.add(run.resolve())
    return found


def _expand(path: str) -> list[Path]:
    """Paths of a pattern that the shell left, as it does after ``LABEL=``."""
    if Path(path).exists() or not re.search(r'[*?[]', path):
        return [Path(path)]
    if not (found := sorted(glob(path))):
        raise UsageError(f"no work dir matches '{path}'")
    return [Path(place) for place in found]


def _seeds_of(path: Path) -> list[Path]:
    """A work dir itself, or the seeds' in a row's folder of ``tools/reproduce.py``."""
    if not path.exists():
        raise UsageError(f"work dir '{path}' does not exist")
    if log_files(path):
        return [path]
    seeds = [(int(match[1]), seed) for seed in path.glob('seed*') if (match := SEED.fullmatch(seed.name))]
    if found := [seed for _, seed in sorted(seeds) if log_files(seed)]:
        return found
    raise UsageError(
        f"work dir '{path}' has no training log: looked for {path}/<timestamp>/vis_data/scalars.json, which mmengine's "
        f'LocalVisBackend writes, and for {path}/seed<k>/ with the same'
    )


def name_runs(runs: Sequence[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    """Runs by label, in the order of the first of each.

    One without a label has its folder's name, or for ``seed<k>`` the one above: seeds of a row are one model. Two
    folders of the same name keep as much of their paths as tells them apart.

    Example:
        >>> runs = [(None, 'a/ssd/seed0'), (None, 'a/ssd/seed1'), (None, 'b/ssd'), ('CFSAM', 'c'), ('CFSAM', 'd')]
        >>> {label: len(paths) for label, paths in name_runs([(label, Path(path)) for label, path in runs]).items()}
        {'a/ssd': 2, 'b/ssd': 1, 'CFSAM': 2}
    """
    homes = {path: path.absolute() for label, path in runs if label is None}
    homes = {path: home.parent if SEED.fullmatch(home.name) else home for path, home in homes.items()}
    names = {home: home.name for home in homes.values()}
    for depth in range(2, max((len(home.parts) for home in names), default=0) + 1):
        shared = [home for home in names if list(names.values()).count(names[home]) > 1]
        names.update({home: '/'.join(home.parts[-depth:]) for home in shared})
    models: dict[str, list[Path]] = {}
    for label, path in runs:
        models.setdefault(names[homes[path]] if label is None else label, []).append(path)
    return models


def read_models(args: argparse.Namespace, runs: dict[str, list[Path]]) -> tuple[list[Model], dict]:
    """Read the runs, and settle what the command line left open.

    Returns:
        tuple[list[Model], dict]: The models; the settings of key, axis, smoothing and levels.
    """
    logs = {label: [read_training_log(path) for path in paths] for label, paths in runs.items()}
    every = [log for group in logs.values() for log in group]
    kind, key = kind_of(every, args.key)
    unit = 'epoch' if all(log.by_epoch for log in every) else 'iter'
    axis, width = args.x or unit, args.smooth
    if width is None:
        width = 1.0 if unit == 'epoch' else max(1.0, 0.02 * max(log.train[-1].iteration for log in every))
    lower = 'loss' in key or 'time' in key or (kind == 'train' and 'acc' not in key)
    falling = args.best == 'lowest' if args.best else lower
    models = [
        Model(label, [curve_of(log, kind, key, axis, width, unit) for log in group], falling)
        for label, group in logs.items()
    ]
    levels = default_levels(models[0]) if args.reach is None else args.reach
    return models, dict(key=key, kind=kind, axis=axis, smooth=width, smooth_unit=unit_of(unit), best='lowest' if falling
                        else 'highest', levels=levels)  # fmt: skip


@command
def main(argv: list[str] | None = None) -> None:
    """Compare from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    if args.smooth is not None and not 0 < args.smooth < math.inf:
        raise UsageError(
            f'--smooth {args.smooth:g} should be above 0: it is the width of the mean; one below the distance of two '
            'lines of the log, such as 0.001, leaves the curve as it was logged'
        )
    if bad := [level for level in args.reach or () if not math.isfinite(level)]:
        raise UsageError(f'--reach {bad[0]:g} should be a finite number')
    if not args.runs and not args.group:
        raise UsageError('no work dir is given; name one or several, such as SSD300=work_dirs/ssd300_voc0712')
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out '{args.out}' is a file and should be a folder")
    models, settings = read_models(args, name_runs(runs_of(args.runs, args.group)))
    if args.log:
        check_log_axis(models, settings['key'])
    notes = report(models, settings)
    if args.out:
        name = args.out / args.key.replace('/', '_')
        write_text(f'{name}.csv', curves_csv(models))
        levels = settings['levels']
        write_json(f'{name}.json', dict(settings, **notes, models=[describe(model, levels) for model in models]))
        draw_curves(f'{name}.png', models, levels, settings['key'], settings['axis'], smoothing_of(settings), args.log)
        print(f'\nwritten: {name}.png, .csv, .json')


def smoothing_of(settings: dict) -> str:
    """What was done to the curves."""
    unit = settings['smooth_unit'].removesuffix('s') if settings['smooth'] == 1 else settings['smooth_unit']
    return f'centred moving average over {settings["smooth"]:g} {unit}'


def report(models: Sequence[Model], settings: dict) -> dict[str, list[str]]:
    """Print the tables and what a reader must know beside them; return the latter."""
    axis, levels = settings['axis'], settings['levels']
    several = '; ± one standard deviation' if any(len(model.curves) > 1 for model in models) else ''
    print(f'{settings["key"]}: {smoothing_of(settings)}; ratios to {models[0].label!r}{several}\n')
    print(summary_table(models, axis))
    if levels:
        side = 'at or below' if models[0].falling else 'at or above'
        print(f'\n{unit_of(axis)} until the smoothed curve is first {side} a value\n')
        print(reach_table(models, levels, axis))
    drops = {model.label: drop_places(model.curves[0], axis) for model in models}
    told = {
        label: ', '.join(f'x{factor:.3g} at {show_place(axis)(place)}' for place, factor in steps)
        for label, steps in drops.items()
    }
    if any(told.values()):
        same = len(set(told.values())) == 1
        text = (
            told[models[0].label] if same else '; '.join(f'{label}: {steps or "none"}' for label, steps in told.items())
        )
        print(f'\nsteps of the learning rate ({unit_of(axis)}): {text}')
    logs = [curve.log for model in models for curve in model.curves]
    warnings, notes = doubts(models, settings['key']), [note for log in logs for note in log.notes]
    warnings += [line for model in models for line in unequal(model, axis)]
    for kind, lines in (('warning', warnings), ('note', notes)):
        if lines:
            print()
        for line in lines:
            print(f'{kind}: {line}')
    return dict(warnings=warnings, notes=notes)


def unequal(model: Model, axis: str) -> list[str]:
    """What is wrong with a model's runs: values that are not finite, or ends that differ."""
    found, show = [], show_place(axis)
    for curve in model.curves:
        bad = [place for place, value in zip(curve.x, curve.values, strict=True) if not math.isfinite(value)]
        if bad:
            last = ', the last one too' if not math.isfinite(curve.values[-1]) else ''
            found.append(
                f"'{curve.log.path}': {len(bad)} of {len(curve.x)} values are not finite, the first at "
                f'{show(bad[0])} {unit_of(axis)}{last}'
            )
    short, long = min(model.end), max(model.end)
    if axis != 'time' and short < 0.99 * long:
        found.append(
            f"the runs of '{model.label}' end at {show(short)} to {show(long)} {unit_of(axis)}; their mean is drawn as "
            'far as all of them go'
        )
    return found


def curves_csv(models: Sequence[Model]) -> str:
    """All curves, a line per point; what a run does not have is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['model', 'run', 'epoch', 'iteration', 'hours', 'value', 'smoothed'])
    for model in models:
        for curve in model.curves:
            hours = _hours(curve.log, curve.records)
            for record, hour, value, smoothed in zip(curve.records, hours, curve.values, curve.smoothed, strict=True):
                epoch = f'{record.position:.6g}' if curve.log.by_epoch else ''
                numbers = (f'{number:.8g}' for number in (record.iteration, hour, value, smoothed))
                writer.writerow([model.label, curve.log.path, epoch, *(n.replace('nan', '') for n in numbers)])
    return file.getvalue()


def _hours(log: TrainingLog, records: Sequence) -> Sequence[float]:
    try:
        return log.coordinate(records, 'time')
    except ValueError:
        return [math.nan] * len(records)
