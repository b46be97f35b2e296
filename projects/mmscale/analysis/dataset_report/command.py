"""The command line of :mod:`mmscale.analysis.dataset_report`."""

import argparse
from pathlib import Path

from mmscale.engine.cli import Options, command
from mmscale.files import write_json, write_text

from .loading import SPLITS
from .plots import draw_report
from .report import dataset_report
from .text import to_markdown

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='dataset_report.py',
        description='What to know of the data before training a detector on it: object sizes after the '
        "pipeline's resizing against the detector's strides, objects per image against its limits, classes, "
        'faulty boxes and images, and images that are in several splits.',
    )
    parser.add_argument('config', help="config file, or 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS, help='which data sets (default: all)')
    parser.add_argument('--strides', type=float, nargs='+', help="instead of the config's")
    parser.add_argument('--max-images', type=int, metavar='N', help='look at N images of each, drawn at random')
    parser.add_argument('--draws', type=int, default=3, metavar='N', help='how often an image passes a pipeline that '
                        'resizes at random (default: 3)')  # fmt: skip
    parser.add_argument('--no-files', action='store_true', help='do not read the image files: no check of their sizes, '
                        'no search for copies')  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='of all draws (default: 0)')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='write the text to this file instead')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything, faults in full, to this file')
    parser.add_argument('--plots', type=Path, metavar='DIR', help='also draw histograms into this folder')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides of the config')
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """Report from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    report = dataset_report(
        args.config,
        splits=args.splits,
        strides=args.strides,
        max_images=args.max_images,
        draws=args.draws,
        read_images=not args.no_files,
        seed=args.seed,
        cfg_options=args.cfg_options,
        progress=True,
    )
    text = to_markdown(report.content)
    if args.out:
        write_text(args.out, text)
    else:
        print(text)
    if args.json:
        write_json(args.json, report.content)
    if args.plots:
        draw_report(args.plots, report)


if __name__ == '__main__':
    main()
