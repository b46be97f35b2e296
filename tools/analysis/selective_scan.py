"""HSD-DETR's selective scan by its length: token by token, in chunks, and by mamba_ssm's kernel on a GPU."""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.engine.cli import command
from mmscale.files import write_json, write_text
from mmscale.hsd_detr.scan_benchmark import FORMS, MODES, benchmark_scan, scan_table

TOKENS = [1024, 4096, 6400, 16384, 25600, 65536]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add('--tokens', type=int, nargs='+', default=TOKENS, metavar='T', help='lengths of the sequence')
    add('--forms', nargs='+', choices=FORMS, default=['chunked', 'sequential'], help='the first is the reference')
    add('--modes', nargs='+', choices=MODES, default=list(MODES), help='forward, or forward and backward')
    add('--chunk', type=int, default=32, help='tokens of a chunk')
    add('--sequential-up-to', type=int, default=65536, metavar='T', help='longer ones are not scanned token by token')
    add('--heads', type=int, default=3, help='heads; 3 are those of HCSSNet-S at stride 4')
    add('--head-channels', type=int, default=32, help='channels of a head')
    add('--state-channels', type=int, default=16, help='width of the state')
    add('--batch-size', type=int, default=1, help='sequences in a batch')
    add('--repeats', type=int, default=6, help='timed runs of each')
    add('--warmup', type=int, default=1, help='runs before those')
    add('--device', default='cpu', help='cpu, cuda or cuda:N')
    add('--threads', type=int, help="PyTorch's threads on the CPU; without it, its own choice")
    add('--seed', type=int, default=0, help='of the inputs')
    add('--json', type=Path, metavar='FILE', help='also write everything to this file')
    add('--out', type=Path, metavar='FILE.md', help='also write the table to this file')
    add('--quiet', action='store_true', help='print the table only')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    options = vars(parse_args(argv))
    json, out, quiet = (options.pop(name) for name in ('json', 'out', 'quiet'))
    tell = None if quiet else lambda line: print(line, file=sys.stderr, flush=True)
    report = benchmark_scan(**options, progress=tell)
    text = scan_table(report)
    print(text)
    if out:
        typed = shlex.join(sys.argv[1:] if argv is None else argv)
        write_text(out, f'Made by `python tools/analysis/selective_scan.py {typed}`.\n\n{text}\n')
    if json:
        write_json(json, report)


if __name__ == '__main__':
    main()
