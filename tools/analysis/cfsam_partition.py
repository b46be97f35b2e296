"""CFSAM's Partition at several P: time, peak memory and multiply-adds of attention over N tokens, side by side."""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.cfsam.partition_benchmark import KERNELS, MODES, benchmark_partition
from mmscale.cfsam.partition_benchmark_tables import partition_tables
from mmscale.engine.cli import command
from mmscale.files import write_json, write_text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--tokens',
        type=int,
        nargs='+',
        default=[1940, 20000],
        metavar='N',
        help='numbers of tokens (default: 1940 20000)',
    )
    parser.add_argument(
        '--parts',
        type=int,
        nargs='+',
        default=[1, 2, 4],
        metavar='P',
        help='the first is the reference (default: 1 2 4)',
    )
    parser.add_argument(
        '--modes', nargs='+', choices=MODES, default=MODES, help='forward, or forward and backward (default: both)'
    )
    parser.add_argument(
        '--kernels',
        nargs='+',
        choices=KERNELS,
        default=KERNELS,
        help="PyTorch's choice, or the N x N matrix written out (default: both)",
    )
    parser.add_argument('--batch', type=int, default=1, help='sequences in a batch (default: 1)')
    parser.add_argument('--repeats', type=int, default=10, help='timed runs of each (default: 10)')
    parser.add_argument('--warmup', type=int, default=1, help='runs before those (default: 1)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--threads', type=int, help="PyTorch's threads on the CPU (default: its own choice)")
    parser.add_argument('--seed', type=int, default=0, help='of weights and tokens (default: 0)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything to this file')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='also write the tables to this file')
    parser.add_argument('--quiet', action='store_true', help='print the tables only')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    report = benchmark_partition(
        args.tokens,
        args.parts,
        modes=args.modes,
        kernels=args.kernels,
        batch_size=args.batch,
        repeats=args.repeats,
        warmup=args.warmup,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        progress=None if args.quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )
    text = partition_tables(report)
    print(text)
    if args.out:
        typed = shlex.join(sys.argv[1:] if argv is None else argv)
        write_text(args.out, f'Made by `python tools/analysis/cfsam_partition.py {typed}`.\n\n{text}\n')
    if args.json:
        write_json(args.json, report)


if __name__ == '__main__':
    main()
