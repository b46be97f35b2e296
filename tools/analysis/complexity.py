"""Parameters and multiply-adds of one or more configs: a table with differences to the first, and JSON."""
import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

from mmscale.analysis import complexity, complexity_table, write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='config',
                        help="config file, or 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'")
    parser.add_argument('--shape', type=int, nargs='+', default=[800, 800], metavar='PIXELS',
                        help='height and width of the image; one number for a square (default: 800 800)')
    parser.add_argument('--seed', type=int, default=0, help='of random weights and pixels (default: 0)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results to this file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='overrides, applied to every config')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        results = [complexity(config, args.shape, cfg_options=args.cfg_options, seed=args.seed)
                   for config in args.configs]
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        print(f'complexity: {error}', file=sys.stderr)
        return 1
    print(complexity_table(results))
    if args.json:
        write_json(args.json, [result.to_dict() for result in results])
    return 0


if __name__ == '__main__':
    sys.exit(main())
