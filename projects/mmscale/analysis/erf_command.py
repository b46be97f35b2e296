"""The command line of :mod:`mmscale.analysis.erf`."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from mmscale.engine.cli import command
from mmscale.files import write_json

from .detector import Detector, Sample, read_images, read_random, read_test_set
from .erf import RESPONSES, LayerERF, measure_erf, stage_ratios
from .erf_pictures import draw_erf
from .erf_tables import erf_table, pair_table
from .model import check_input_size
from .pictures import check_picture_path
from .subject import add_subject, load_subject
from .taps import Tap, parse_taps, resolve_outputs

__all__ = ['build_parser', 'main', 'pair_layers']


ESTIMATOR = 'sigma = sqrt((var_x + var_y) / 2) of sum over channels |gradient|'


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='erf.py',
        description='Effective receptive fields of any layers of a detector: sigma, the ratio of adjacent layers, heat '
        'pictures.',
    )
    add_subject(parser)
    parser.add_argument(
        '--layers',
        nargs='+',
        metavar='LAYER',
        help='such as backbone.layer3, neck.fine.2:in0 (an input), backbone:out1 (one of several outputs), '
        'backbone.layer3/2 (after 2x2 average pooling); default: all outputs of the backbone',
    )
    parser.add_argument(
        '--pair',
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help="FINE's fig. 6 instead: tokens of two layers, sampled with the kernels r*k and k",
    )
    parser.add_argument('--ratios', type=int, nargs='+', default=[1, 2, 4], help='r of --pair (default: 1 2 4)')
    parser.add_argument('--kernel', type=int, default=1, help='k of --pair (default: 1)')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--images', metavar='PATH', help="image or folder, through the config's test pipeline")
    source.add_argument('--test-set', action='store_true', help="the config's test set")
    parser.add_argument(
        '--num-images', type=int, metavar='N', help='at most N, evenly spaced (default: 8 random images, else all)'
    )
    parser.add_argument(
        '--shape', type=int, nargs='+', default=[512], metavar='PIXELS', help='of random images (default: 512 512)'
    )
    parser.add_argument(
        '--position',
        type=float,
        nargs=2,
        default=[0.5, 0.5],
        metavar=('X', 'Y'),
        help='the token, as shares of width and height (default: 0.5 0.5, the centre)',
    )
    parser.add_argument(
        '--response',
        choices=RESPONSES,
        default='sum',
        help='of a token: the sum over its channels (default), or with random signs, for layers behind a LayerNorm',
    )
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results to this file')
    parser.add_argument('--out', type=Path, metavar='PICTURE', help='heat pictures, such as erf.png')
    return parser


def pair_layers(pair: Sequence[str], ratios: Sequence[int], kernel: int) -> tuple[list[str], str]:
    """Layers of fig. 6: the low one pooled by r * k for every r, and the high one pooled by k.

    Example:
        >>> pair_layers(['neck.fine.2:in0', 'neck.fine.2:in1'], [1, 2], 2)
        (['neck.fine.2:in0/2', 'neck.fine.2:in0/4'], 'neck.fine.2:in1/2')
    """
    for name, values in (('ratios', ratios), ('kernel', [kernel])):
        if min(values) < 1:
            raise ValueError(f'--{name} {" ".join(map(str, values))} must be whole numbers from 1')
    for name in pair:
        if Tap.parse(name).pool != 1:
            raise ValueError(f"--pair '{name}' must not pool: --ratios and --kernel do")
    low, high = pair
    return [f'{low}/{ratio * kernel}' for ratio in ratios], f'{high}/{kernel}'


def samples_of(args: argparse.Namespace, detector: Detector) -> tuple[Iterator[Sample], str]:
    """The images that the command line names, and what to call them."""
    if args.num_images is not None and args.num_images < 1:
        raise ValueError(f'--num-images {args.num_images} must be a whole number from 1')
    if args.images:
        return read_images(detector, args.images, args.num_images), f"of '{args.images}'"
    if args.test_set:
        return read_test_set(detector, args.num_images), "of the config's test set"
    size = check_input_size(args.shape)
    return read_random(detector, size, args.num_images or 8, args.seed), 'of random pixels'


@command
def main(argv: list[str] | None = None) -> None:
    """Measure from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    if args.pair and args.layers:
        raise ValueError(f'--pair {" ".join(args.pair)} takes the place of --layers {" ".join(args.layers)}: give one')
    if args.out:
        check_picture_path(args.out)
    lows, high = pair_layers(args.pair, args.ratios, args.kernel) if args.pair else ([], '')
    layers = [*lows, high] if args.pair else args.layers
    detector = load_subject(args)
    parse_taps(detector.model, layers or ['backbone'])  # a wrong name is told before any image is read

    def run(sample: Sample):
        return sample.inputs, lambda inputs: detector.model(inputs, sample.data_samples, mode='predict')

    if not layers:
        inputs, forward = run(next(read_random(detector, (128, 128), 1)))
        layers = resolve_outputs(detector.model, 'backbone', lambda: forward(inputs))
    samples, source = samples_of(args, detector)
    samples = tqdm(samples, desc='images', ncols=88, disable=None)
    results = measure_erf(detector.model, map(run, samples), layers, args.position, args.response)
    summary = describe(args, detector, results, source)
    print(f'{detector.name}, {summary["weights"]}; images: {summary["images"]}')
    signs = ', channels with random signs' if args.response == 'signs' else ''
    print(f'token at ({args.position[0]:g}, {args.position[1]:g}) of {summary["input"]} pixels; {ESTIMATOR}{signs}\n')
    report(args, results)
    if args.json:
        write_json(args.json, summary)


def report(args: argparse.Namespace, results: list[LayerERF]) -> None:
    """Print the table and draw the picture."""
    if not args.pair:
        print(erf_table(results))
        if len(results) > 1:
            print(f'\nmean ratio of adjacent layers: {mean(stage_ratios(results)):.2f}')
        rows, titles = [results], [[result.layer for result in results]]
    else:
        *lows, high = results
        print(pair_table(args.ratios, lows, high))
        rows = [lows, [high] * len(lows)]
        titles = [[f'r = {ratio}: {low.layer}' for ratio, low in zip(args.ratios, lows, strict=True)]]
        titles.append([high.layer] * len(lows))
    if any(result.cut for result in results):
        print("\n(cut): more than 1 % of the influence lies within 5 % of the border; sigma is smaller than a larger "
              "image's would be")  # fmt: skip
    for result in results:
        if result.dead:
            print(f'\n{result.layer}: no gradient in {result.dead} images, which are left out')
    if args.out:
        draw_erf(args.out, rows, titles)


def describe(args: argparse.Namespace, detector: Detector, results: Sequence[LayerERF], source: str) -> dict:
    """What was measured, and on what; ready for JSON."""
    height, width = results[0].heat.shape
    summary = dict(
        config=str(args.config),
        weights=detector.weights,
        images=f'{len(results[0].sigmas) + results[0].dead} {source}',
        input=f'{height}x{width}',
        position=args.position,
        response=args.response,
        estimator=ESTIMATOR,
        layers=[result.to_dict() for result in results],
    )
    if args.pair:
        return dict(summary, pair=args.pair, sampling_ratios=args.ratios, kernel=args.kernel)
    ratios = stage_ratios(results)
    return dict(summary, ratios=ratios, mean_ratio=mean(ratios) if ratios else None)
