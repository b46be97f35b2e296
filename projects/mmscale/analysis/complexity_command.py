"""The command line of :mod:`mmscale.analysis.complexity`."""

import argparse
from pathlib import Path

from mmscale.engine.cli import Options, command
from mmscale.files import write_json

from .complexity import complexity, complexity_table

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='complexity.py',
        description='Parameters and multiply-adds of one or more configs: a table with differences to the first.',
    )
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='config',
        help="config file, or 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'",
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        default=[800, 800],
        metavar='PIXELS',
        help='height and width of the image; one number for a square (default: 800 800)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of random weights and pixels (default: 0)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results to this file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides, applied to every config'
    )
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """Count from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    results = [complexity(config, args.shape, cfg_options=args.cfg_options, seed=args.seed) for config in args.configs]
    print(complexity_table(results))
    if args.json:
        write_json(args.json, [result.to_dict() for result in results])
