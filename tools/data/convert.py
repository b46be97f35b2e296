"""Converts annotations to COCO json: ``python tools/data/convert.py visdrone``. docs/data.md has the details."""
import argparse
import sys
import warnings
from collections.abc import Iterator

from mmscale.datasets.convert import (
    BCCD_CLASSES,
    VOC_CLASSES,
    Summary,
    convert_micro_uav,
    convert_nwpu,
    convert_visdrone,
    convert_voc,
)


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

    uav = formats.add_parser('micro_uav', help='Micro RGB UAV videos with YOLO, VOC, text or JSON annotations')
    uav.add_argument('--root', default='data/micro_uav/source', help='folder with the videos and their annotations')
    uav.add_argument('--out', default='data/micro_uav', help='folder for annotations/ and images/')
    uav.add_argument('--layout', choices=['yolo', 'voc', 'lines', 'json'], help='which annotations, of several')
    uav.add_argument('--val-fraction', type=float, default=62 / 244,
                     help='share of videos for validation, where the source is not divided (default: 62 of 244)')
    uav.add_argument('--seed', type=int, default=0, help='seed of that split (default: 0)')
    uav.add_argument('--train-list', help='text file with the names of the training videos, instead of a drawn split')
    uav.add_argument('--val-list', help='text file with the names of the validation videos')
    uav.add_argument('--first-frame', type=int, choices=[0, 1], help='number of the first frame in the annotations')
    uav.add_argument('--label', help="the class in XML files or its number in YOLO text (default: 'UAV', '0')")
    uav.add_argument('--copy', action='store_true', help='copy the frames instead of linking to them')
    uav.add_argument('--overwrite', action='store_true', help='replace the images folder of an earlier run')

    voc = formats.add_parser('voc', help='PASCAL VOC XML files')
    voc.add_argument('--root', default='data/VOCdevkit/VOC2007', help='folder with Annotations, ImageSets, JPEGImages')
    voc.add_argument('--splits', nargs='+', required=True, help='names of lists in ImageSets/Main')
    voc.add_argument('--classes', nargs='+', default=['voc'],
                     help="class names in the order of their ids, or 'voc' (default) or 'bccd'")
    voc.add_argument('--out', help='folder for the json files (default: <root>/coco)')
    voc.add_argument('--inclusive', action='store_true', help='count the right and bottom corner pixels to a box')
    voc.add_argument('--skip-unknown', action='store_true', help='leave out objects of other classes (and count them)')

    for sub in (visdrone, nwpu, uav, voc):
        sub.add_argument('--decode', action='store_true', help='decode every image to prove that it is whole (slow)')
    return parser.parse_args()


def convert(args: argparse.Namespace) -> Iterator[Summary]:
    if args.format == 'visdrone':
        yield from convert_visdrone(args.root, args.splits, args.out, args.decode)
    elif args.format == 'nwpu':
        yield from convert_nwpu(args.root, args.train_ratio, args.seed, args.train_list, args.val_list, args.out,
                                args.decode)
    elif args.format == 'micro_uav':
        yield from convert_micro_uav(args.root, args.out, args.layout, args.val_fraction, args.seed, args.train_list,
                                     args.val_list, args.first_frame, args.label, args.copy, args.overwrite,
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
