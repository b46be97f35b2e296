"""Where the time of a config's forward goes: milliseconds by module and by class."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.module_times import measure_module_times, module_times_table
from mmscale.engine.cli import Options, command
from mmscale.files import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add('config', help="file, or 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'")
    add('--shape', type=int, nargs=2, default=[640, 640], metavar=('HEIGHT', 'WIDTH'), help='of the image')
    add('--batch-size', type=int, default=1, help='images in a batch')
    add('--repeats', type=int, default=5, help='timed runs')
    add('--warmup', type=int, default=1, help='runs before those')
    add('--device', default='cpu', help='cpu, cuda or cuda:N')
    add('--threads', type=int, help="PyTorch's threads on the CPU; without it, its own choice")
    add('--trained-form', action='store_true', help='leave blocks unfolded, as they are trained')
    add('--depth', type=int, default=2, help='parts of a name, in the table of modules')
    add('--least', type=float, default=0.01, metavar='SHARE', help='what takes a smaller share is left out')
    add('--seed', type=int, default=0, help='of weights and pixels')
    add('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides of the config')
    add('--json', type=Path, metavar='FILE', help='also write everything to this file')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    options = vars(parse_args(argv))
    depth, least, json = (options.pop(name) for name in ('depth', 'least', 'json'))
    times = measure_module_times(reparam=not options.pop('trained_form'), **options)
    print(module_times_table(times, depth, least))
    if json:
        write_json(json, asdict(times))


if __name__ == '__main__':
    main()
