"""Latency, throughput and peak memory of configs side by side, and their ratios to the first: tables and JSON."""
import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis import BenchmarkError, benchmark, benchmark_table, write_json
from mmscale.analysis.benchmark_worker import MODES


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='config',
                        help="file, or 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'; the first is the reference")
    parser.add_argument('--shape', type=int, nargs='+', default=[800, 800], metavar='PIXELS',
                        help='height and width of the images; one number for a square (default: 800 800)')
    parser.add_argument('--batch', type=int, default=1, help='images in a batch (default: 1)')
    parser.add_argument('--repeats', type=int, default=10, help='timed runs of each config (default: 10)')
    parser.add_argument('--warmup', type=int, default=2, help='runs before those (default: 2)')
    parser.add_argument('--rounds', type=int, default=1,
                        help='repeat all of it with new processes; the ratios are then over rounds (default: 1)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--threads', type=int, help="PyTorch's threads on the CPU (default: its own choice)")
    parser.add_argument('--mode', choices=MODES, default='tensor',
                        help='the network, the whole way to boxes, feature extraction alone, or losses and '
                             'backward pass in training (default: tensor)')
    parser.add_argument('--compile', action='store_true', help='torch.compile backbone, neck and heads')
    parser.add_argument('--amp', action='store_true', help='autocast to float16 (CUDA) or bfloat16 (CPU)')
    parser.add_argument('--own-proposals', action='store_true',
                        help="let two-stage detectors use their random RPN's proposals instead of the same fixed ones")
    parser.add_argument('--seed', type=int, default=0, help='of weights, pixels and proposals (default: 0)')
    parser.add_argument('--timeout', type=float, default=1800, help='seconds that one step may take (default: 1800)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything to this file')
    parser.add_argument('--quiet', action='store_true', help='print the tables only')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='overrides, applied to every config')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        report = benchmark(
            args.configs, args.shape, batch_size=args.batch, repeats=args.repeats, warmup=args.warmup,
            rounds=args.rounds, device=args.device, threads=args.threads, mode=args.mode, compile=args.compile,
            amp=args.amp, pin_proposals=not args.own_proposals, cfg_options=args.cfg_options, seed=args.seed,
            timeout=args.timeout,
            progress=None if args.quiet else lambda line: print(line, file=sys.stderr, flush=True))
    except (BenchmarkError, FileNotFoundError, ValueError) as error:
        if traceback := getattr(error, 'traceback', ''):
            print(traceback, file=sys.stderr)
        print(f'benchmark: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('benchmark: interrupted', file=sys.stderr)
        return 130
    print(benchmark_table(report))
    if args.json:
        write_json(args.json, report)
    return 0


if __name__ == '__main__':
    sys.exit(main())
