"""Our RT-DETR beside Hugging Face transformers' with the same weights: agreement, latency and memory, side by side."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis import BenchmarkError, benchmark, benchmark_table, write_json
from mmscale.analysis.model import build_model, load_config, random_batch
from mmscale.convert.transformers_detector import config_of_peer, equal_queries
from mmscale.engine.cli import UsageError, command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='an RT-DETR, as configs/rtdetr/rtdetr_r18_8xb2-72e_coco.py')
    parser.add_argument('--shape', type=int, nargs='+', default=[640, 640], metavar='PIXELS', help='default: 640 640')
    parser.add_argument('--batch', type=int, default=1, help='images in a batch (default: 1)')
    parser.add_argument('--repeats', type=int, default=10, help='timed runs of each (default: 10)')
    parser.add_argument('--rounds', type=int, default=1, help='repeat all of it with new processes')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--threads', type=int, help="PyTorch's threads on the CPU (default: its own choice)")
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write everything to this file')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    ours = load_config(args.config)
    peer = config_of_peer(ours)
    models = [build_model(config) for config in (ours, peer)]
    inputs, _ = random_batch(models[0], args.shape)
    equal, queries = equal_queries(*models, inputs)
    del models
    print(f'on a random image {equal} of {queries} queries agree to 1e-4', flush=True)
    try:
        report = benchmark(
            [peer, ours],
            args.shape,
            batch_size=args.batch,
            repeats=args.repeats,
            rounds=args.rounds,
            device=args.device,
            threads=args.threads,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (BenchmarkError, ValueError) as error:
        raise UsageError(str(error)) from None
    report['equal_queries'] = dict(equal=equal, of=queries)
    print(benchmark_table(report))
    if args.json:
        write_json(args.json, report)


if __name__ == '__main__':
    main()
