"""Makes the small-object set: ``python tools/data/generate.py``. docs/data.md has the details."""
import argparse
import sys
import time

from mmscale.datasets.generate import SmallObjects, generate


def parse_args() -> argparse.Namespace:
    default = SmallObjects()
    parser = argparse.ArgumentParser(description='Generate a small-object detection set in COCO format.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--root', default='data/small_objects', help='the folder to make')
    parser.add_argument('--images-train', type=int, default=default.images_train, help='training images')
    parser.add_argument('--images-val', type=int, default=default.images_val, help='validation images')
    parser.add_argument('--size', type=int, default=default.size, help='side of an image in pixels')
    parser.add_argument('--objects', type=int, nargs=2, default=default.objects, metavar=('FEWEST', 'MOST'),
                        help='objects in an image')
    parser.add_argument('--seed', type=int, default=default.seed, help='the same seed gives the same set')
    parser.add_argument('--overwrite', action='store_true', help='replace a generated set that is different or damaged')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    start = time.perf_counter()
    try:
        made = generate(args.root, images_train=args.images_train, images_val=args.images_val, size=args.size,
                        objects=tuple(args.objects), seed=args.seed, overwrite=args.overwrite)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.root}: {args.images_train} + {args.images_val} images ' +
          (f'made in {time.perf_counter() - start:.1f} s' if made else 'are there already'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
