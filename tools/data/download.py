"""Fetches a data set, verifies and unpacks it: ``python tools/data/download.py coco``. docs/data.md has the details."""
import argparse
import sys

from mmscale.datasets.download import CATALOGUE, describe, download


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Fetch a data set; what is there already is skipped.')
    parser.add_argument('dataset', nargs='?', choices=list(CATALOGUE), help='the data set')
    parser.add_argument('--root', default='data', help="the data folder (default: 'data')")
    parser.add_argument('--list', action='store_true', help='say what would be fetched, or done by hand, and stop')
    parser.add_argument('--only', nargs='+', default=[], metavar='ARCHIVE', help='only these archives (see --list)')
    parser.add_argument('--delete-archives', action='store_true', help='delete each archive once it is unpacked')
    parser.add_argument('--retries', type=int, default=5, help='failed connections in a row to bear (default: 5)')
    args = parser.parse_args()
    if args.dataset is None and not args.list:
        parser.error(f'name a data set ({", ".join(CATALOGUE)}) or give --list')
    return args


def main() -> int:
    args = parse_args()
    if args.list:
        for name in [args.dataset] if args.dataset else CATALOGUE:
            print(describe(name, args.root))
        return 0
    try:
        done = download(args.dataset, args.root, args.only, args.delete_archives, retries=args.retries)
    except (OSError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on where this one stopped', file=sys.stderr)
        return 130
    return 0 if done else 2


if __name__ == '__main__':
    sys.exit(main())
