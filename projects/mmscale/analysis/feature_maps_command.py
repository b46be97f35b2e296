"""The command line of :mod:`mmscale.analysis.feature_maps`."""

import argparse
from pathlib import Path

from tqdm import tqdm

from mmscale.engine.cli import command

from .detector import read_images
from .feature_maps import METHODS, RESIZE, draw_feature_maps, feature_maps
from .pictures import check_picture_path
from .subject import add_subject, load_subject
from .taps import parse_taps

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='feature_maps.py',
        description='Activation maps and EigenCAM of any modules of a detector, over images, in one figure.',
    )
    add_subject(parser)
    parser.add_argument('images', help='an image, or a folder of images')
    parser.add_argument(
        '--modules',
        nargs='+',
        required=True,
        metavar='MODULE',
        help='such as backbone.layer3, neck.fine.2:in0 (an input), neck:out1 (one of several outputs)',
    )
    parser.add_argument(
        '--method',
        choices=list(METHODS),
        default='abs',
        help='mean of |activation| over channels, plain mean, or EigenCAM (default: abs)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('feature_maps.png'),
        metavar='PICTURE',
        help='the figure (default: feature_maps.png)',
    )
    parser.add_argument(
        '--num-images', type=int, default=4, metavar='N', help='at most N of a folder, evenly spaced (default: 4)'
    )
    parser.add_argument(
        '--detections', type=float, metavar='SCORE', help='draw detections from this score on over the image'
    )
    parser.add_argument(
        '--strength', type=float, default=0.5, help='of the heat map over the image, 0 to 1 (default: 0.5)'
    )
    parser.add_argument(
        '--interpolation', choices=list(RESIZE), default='linear', help='nearest shows the cells of a map'
    )
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """Draw from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    check_picture_path(args.out)
    if not 0 <= args.strength <= 1:
        raise ValueError(f'--strength {args.strength:g} must be from 0 to 1')
    if args.num_images < 1:
        raise ValueError(f'--num-images {args.num_images} must be a whole number from 1')
    detector = load_subject(args)
    parse_taps(detector.model, args.modules)  # a wrong name is told before any image is read
    samples = tqdm(read_images(detector, args.images, args.num_images), desc='images', ncols=88, disable=None)
    results = feature_maps(detector, samples, args.modules, args.method, args.detections)
    draw_feature_maps(args.out, results, args.modules, detector.classes, args.strength, args.interpolation)
    print(f'{detector.name}, {detector.weights}; {args.method} of {len(results)} images: {args.out}')
