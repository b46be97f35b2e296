"""The command line of :mod:`mmscale.analysis.noise_robustness`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process

from mmscale.engine import test as engine
from mmscale.engine.cli import add_common, command, say
from mmscale.files import write_json

from .noise_robustness import check_sigmas, draw_curves, noise_curve, noise_table
from .pictures import check_picture_path

__all__ = ['build_parser', 'main', 'name_models']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noise_robustness.py',
        description='A metric of one or several detectors under Gaussian noise of growing sigma.',
    )
    parser.add_argument(
        'models', nargs='+', metavar='CONFIG CHECKPOINT', help='one or several models, each a config and its checkpoint'
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help="of the models (default: their configs')")
    parser.add_argument(
        '--sigmas',
        type=float,
        nargs='+',
        default=[0, 5, 10, 20, 40],
        help='of the noise, in grey levels of 0..255; clean images, 0, are always among them (default: 0 5 10 20 40)',
    )
    parser.add_argument(
        '--metric',
        nargs='+',
        default=[],
        help="names of the test evaluator's metrics (default: the first that it gives)",
    )
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: 0)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write all metrics to this file')
    parser.add_argument('--out', type=Path, metavar='PICTURE', help='a plot, such as noise.png')
    parser.add_argument('--verbose', action='store_true', help="show the runner's log")
    parser.add_argument(
        '--allow-partial', action='store_true', help='go on although a checkpoint does not fit its model'
    )
    add_common(parser)
    return parser


def name_models(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names that tell the models apart: the config's, with as much of the checkpoint's path as it needs.

    Example:
        >>> name_models([('a.py', 'run1/last.pth'), ('a.py', 'run2/last.pth'), ('b.py', 'x.pth')])
        ['a (run1/last)', 'a (run2/last)', 'b']
    """
    names = [Path(config).stem for config, _ in pairs]
    for depth in (1, 2, 3):
        shared = {name for name in names if names.count(name) > 1}
        for index, (config, checkpoint) in enumerate(pairs):
            if names[index] in shared:
                names[index] = f'{Path(config).stem} ({"/".join(Path(checkpoint).with_suffix("").parts[-depth:])})'
    return [name if names.count(name) == 1 else f'{name} #{index + 1}' for index, name in enumerate(names)]


@command
def main(argv: list[str] | None = None) -> None:
    """Test from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    if len(args.models) % 2:
        raise ValueError(f'models {" ".join(args.models)}: each needs a config and its checkpoint, in turn')
    pairs = list(zip(args.models[::2], args.models[1::2], strict=True))
    if args.names and len(args.names) != len(pairs):
        raise ValueError(f'--names {" ".join(args.names)} should name {len(pairs)} models')
    names, sigmas = args.names or name_models(pairs), check_sigmas(args.sigmas)
    if args.out:
        check_picture_path(args.out)
    curves, metrics = [], args.metric
    for name, (config, checkpoint) in zip(names, pairs, strict=True):
        subject = engine.build_parser().parse_args([config, checkpoint])
        for key in ('allow_partial', 'launcher', 'local_rank'):
            setattr(subject, key, getattr(args, key))
        root = Path(args.work_dir or 'work_dirs/noise_robustness')
        subject.work_dir = str(root / Path(config).stem)
        subject.cfg_options = dict(args.cfg_options or {})
        if not args.verbose:
            subject.cfg_options.setdefault('log_level', 'WARNING')
        curves.append(noise_curve(subject, sigmas, metrics, name, args.seed))
        metrics = metrics or list(curves[0].metrics[0])[:1]
    for metric in metrics:
        say('\n' + noise_table(curves, metric))
    say(f'\nnoise: Gaussian, seed {args.seed}, in grey levels, rounded and clipped to 0..255 after loading; '
        'in brackets the change relative to the clean images')  # fmt: skip
    if is_main_process():
        if args.json:
            write_json(args.json, dict(seed=args.seed, models=[curve.to_dict() for curve in curves]))
        if args.out:
            draw_curves(args.out, curves, metrics)
