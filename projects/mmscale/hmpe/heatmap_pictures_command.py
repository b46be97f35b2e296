"""The command line of :mod:`mmscale.hmpe.heatmap_pictures`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mmscale.analysis.detector import Detector, Sample, load_detector, read_images
from mmscale.analysis.pictures import check_picture_path
from mmscale.engine.cli import Options, UsageError, command

from .heatmap_pictures import (
    draw_heatmap_embedding,
    heat_table,
    heatmap_embedding,
    level_statistics,
    object_statistics,
    objects_with_queries,
    read_annotated,
    require_heatmaps,
)

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='heatmap_embedding.py',
        description="HMPE's heatmaps of images by a detector: one figure per image, in it a row per level with the "
        'image, the class, box and mixed heatmap, the mask and the kept positional encoding.',
        epilog='MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.',
    )
    add = parser.add_argument
    add('config', help='config file of an mmscale.HMPE')
    add('checkpoint', help='its weights')
    add('images', nargs='?', help='an image, or a folder of images')
    add(
        '--out',
        type=Path,
        default=Path('heatmap_embedding'),
        metavar='DIR',
        help='for the figures, one per image (default: heatmap_embedding)',
    )
    add(
        '--gradient',
        action='store_true',
        help="take the images of the config's test set instead, which have a ground "
        'truth, and draw beside each predicted map that of the gradients',
    )
    add('--levels', type=int, nargs='+', metavar='L', help='0 is the finest (default: all)')
    add('--max-images', type=int, metavar='N', help='at most N, evenly spaced (default: all)')
    add(
        '--stretch',
        action='store_true',
        help="a row's heatmaps from their smallest to their largest value instead of "
        'from 0 to 1: for a detector at the start of its training',
    )
    add('--strength', type=float, default=0.7, help='of the colours over the image, 0 to 1 (default: 0.7)')
    add('--format', default='png', help='of the figures, such as png, pdf or svg (default: png)')
    add('--device', default='cpu', help='where to compute, cpu or cuda (default: cpu)')
    add('--allow-partial', action='store_true', help='go on although the checkpoint does not fit the model')
    add('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides of the config')
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """Draw from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    _check(args)
    detector = load_detector(
        args.config,
        args.checkpoint,
        cfg_options=args.cfg_options,
        allow_partial=args.allow_partial,
        device=args.device,
    )
    require_heatmaps(detector, args.levels)  # before any image is read
    statistics, objects, hits, written = [], [], [], set()
    for sample in _read(detector, args):
        found = heatmap_embedding(detector, sample, args.levels, args.gradient)
        path = _new_path(args.out, sample.name, args.format, written)
        draw_heatmap_embedding(path, found, args.strength, args.stretch)
        statistics.append(level_statistics(found))
        if args.gradient:
            objects.append(object_statistics(found))
            if found.num_queries and args.levels is None:
                hits.append(objects_with_queries(found))
        print(path, flush=True)
    count = f'{len(statistics)} image{"s" * (len(statistics) > 1)}'
    print(f'\n{detector.name}, {detector.weights}; {count}, tau {found.tau:g}\n')
    print(heat_table(statistics))
    if objects:
        print(f'\nWithin objects and outside:\n\n{heat_table(objects)}')
    if hits:
        count, hit, would = map(sum, zip(*hits, strict=True))
        print(f'\n{hit} of {count} objects have a query at a position of theirs; by gradients {would} would')


def _check(args: argparse.Namespace) -> None:
    """Refuse what makes no sense, before anything is loaded."""
    if args.gradient and args.images is not None:
        raise UsageError(f"--gradient draws images of the config's test set: leave '{args.images}' out")
    if not args.gradient and args.images is None:
        raise UsageError('IMAGES is missing: give an image or a folder, or --gradient')
    if args.max_images is not None and args.max_images < 1:
        raise UsageError(f'--max-images {args.max_images} must be a whole number from 1')
    if not 0 <= args.strength <= 1:
        raise UsageError(f'--strength {args.strength:g} must be from 0 to 1')
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out '{args.out}' is a file; it should be a folder")
    check_picture_path(f'figure.{args.format}')


def _read(detector: Detector, args: argparse.Namespace) -> Iterator[Sample]:
    if args.gradient:
        return read_annotated(detector, args.max_images)
    return read_images(detector, args.images, args.max_images)


def _new_path(folder: Path, name: str, suffix: str, written: set[Path]) -> Path:
    """The image's figure; of two images that differ in their suffix only, the second one's name keeps it."""
    stem, count = Path(name).stem, 1
    path = folder / f'{stem}.{suffix}'
    while path in written:
        count += 1
        path = folder / f'{stem}-{count}.{suffix}'
    written.add(path)
    return path
