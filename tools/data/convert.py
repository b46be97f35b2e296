"""Converts annotations to COCO json: ``python tools/data/convert.py visdrone``. docs/data.md has the details."""
import argparse
import sys
import warnings
from collections.abc import Iterator

from mmscale.datasets.convert import BCCD_CLASSES, VOC_CLASSES, Summary, convert_nwpu, convert_visdrone, convert_voc


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Convert annotations to COCO json.')
    formats = parser.add_subparsers(dest='format', required=True)

    visdrone = formats.add_parser('visdrone', help='VisDrone-DET text files')
    visdrone.add_argument('--root', default='data/visdrone', help='folder with VisDrone2019-DET-<split>')
    visdrone.add_argument('--splits', nargs='+', default=['train', 'val'], choices=['train', 'val', 'test-dev'])
    visdrone.add_argument('--out', help='folder for the json files (default: <root>/annotations)')

    nwpu = formats.add_parser('nwpu', help='NWPU VHR-10 text files')
    nwpu.add_argument('--root', default='data/nwpu_vhr10', help="folder with 'positive image set' and 'ground truth'")
    nwpu.add_argument('--train-ratio', type=float, default=0.7, help='share of images for training (default: 0.7)')
    nwpu.add_argument('--seed', type=int, default=0, help='seed of the split (default: 0)')
    nwpu.add_argument('--train-list', help='text file with the names of the training images, instead of a drawn split')
    nwpu.add_argument('--val-list', help='text file with the names of the validation images')
    nwpu.add_argument('--out', help='folder for the json files (default: <root>/annotations)')

    voc = formats.add_parser('voc', help='PASCAL VOC XML files')
    voc.add_argument('--root', default='data/VOCdevkit/VOC2007', help='folder with Annotations, ImageSets, JPEGImages')
    voc.add_argument('--splits', nargs='+', required=True, help='names of lists in ImageSets/Main')
    voc.add_argument('--classes', nargs='+', default=['voc'],
                     help="class names in the order of their ids, or 'voc' (default) or 'bccd'")
    voc.add_argument('--out', help='folder for the json files (default: <root>/coco)')
    voc.add_argument('--inclusive', action='store_true', help='count the right and bottom corner pixels to a box')
    voc.add_argument('--skip-unknown', action='store_true', help='leave out objects of other classes (and count them)')

    for sub in (visdrone, nwpu, voc):
        sub.add_argument('--decode', action='store_true', help='decode every image to prove that it is whole (slow)')
    return parser.parse_args()


def convert(args: argparse.Namespace) -> Iterator[Summary]:
    if args.format == 'visdrone':
        yield from convert_visdrone(args.root, args.splits, args.out, args.decode)
    elif args.format == 'nwpu':
        yield from convert_nwpu(args.root, args.train_ratio, args.seed, args.train_list, args.val_list, args.out,
                                args.decode)
    else:
        classes = {('voc', ): VOC_CLASSES, ('bccd', ): BCCD_CLASSES}.get(tuple(args.classes), args.classes)
        for split in args.splits:
            out = f'{args.out}/{split}.json' if args.out else None
            yield convert_voc(args.root, split, classes, out, args.inclusive, args.skip_unknown, args.decode)


def main() -> int:
    args = parse_args()
    warnings.showwarning = lambda message, *_, **__: print(f'warning: {message}', file=sys.stderr)
    try:
        for summary in convert(args):
            print(summary)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
