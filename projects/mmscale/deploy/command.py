"""The command line of the export."""

import argparse
import warnings
from pathlib import Path

from mmscale.analysis.detector import Detector, load_detector
from mmscale.engine.cli import Options, UsageError, command, say
from mmscale.files import markdown_table

from . import check
from .export import build_file, write_file
from .pipeline import own_size

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='export_onnx.py',
        description='Write a detector to one ONNX file: pixels in; boxes, scores and labels out.',
    )
    parser.add_argument('config', help='config file, or mmscale::fine/... for one that came with the package')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', type=Path, metavar='FILE.onnx', help='the file (default: <config>.onnx)')
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--size', type=int, nargs='+', metavar='PIXELS', help='fix height and width; one number for a square'
    )
    sizes.add_argument('--dynamic-size', action='store_true', help='leave height and width open')
    parser.add_argument('--opset', type=int, default=17, help="version of ONNX's operators (default: 17)")
    parser.add_argument(
        '--check', type=Path, metavar='IMAGE|FOLDER', help='compare on real images (default: random pixels)'
    )
    parser.add_argument('--device', default='cpu', help='where PyTorch computes, cpu or cuda (default: cpu)')
    parser.add_argument(
        '--allow-partial', action='store_true', help='go on although the checkpoint does not fit the model'
    )
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='change the config')
    parser.epilog = (
        'Without --size and --dynamic-size, the size is fixed if the test pipeline gives all images one size, and else '
        'open. MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    )
    return parser


def choose_size(args: argparse.Namespace, detector: Detector) -> tuple[int, int] | None:
    """Height and width of the input; None where they stay open."""
    if args.dynamic_size:
        return None
    if args.size is not None:
        size = args.size * 2 if len(args.size) == 1 else args.size
        if len(size) != 2 or min(size) < 1:
            raise UsageError(
                f'--size {" ".join(map(str, args.size))} should be height and width, two positive numbers, or one'
            )
        return tuple(size)
    return own_size(detector)


def summarize(path: Path, model, agreement: check.Agreement | None) -> str:
    """What was written, as a table."""
    rows = [['', 'name', 'type', 'shape']]
    for side, values in (('input', model.graph.input), ('output', model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = ' x '.join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
            rows.append([side, value.name, {1: 'float32', 7: 'int64'}[tensor.elem_type], shape])
    operators = sum(node.op_type != 'Constant' for node in model.graph.node)
    lines = [markdown_table(rows), f'{path}: {path.stat().st_size / 1e6:.1f} MB, {operators} operators']
    if agreement is not None:
        lines.append(
            f'onnxruntime and PyTorch on {agreement.images} images: {agreement.pairs} detections agree, '
            f'{agreement.unpaired} have no counterpart; largest difference {agreement.scores:.1e} of scores, '
            f'{agreement.boxes:.1e} pixels of boxes'
        )
        if not agreement.pairs:
            lines.append('Nothing was detected, so that says little: compare on real images with --check.')
    return '\n'.join(lines)


@command
def main(argv: list[str] | None = None) -> None:
    """Export from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.

    Raises:
        UsageError: For a mistake in the arguments.
    """
    args = build_parser().parse_args(argv)
    warnings.filterwarnings('ignore', 'torch.meshgrid')  # of MMDetection's point generator, on every run
    if args.out is not None and args.out.suffix != '.onnx':
        raise UsageError(f"--out '{args.out}' should end in .onnx")
    if args.check is not None and not args.check.exists():
        raise UsageError(f"--check '{args.check}' does not exist")
    detector = load_detector(
        args.config,
        args.checkpoint,
        cfg_options=args.cfg_options,
        allow_partial=args.allow_partial,
        device=args.device,
    )
    size = choose_size(args, detector)
    model = build_file(detector, size, args.opset)
    agreement = None
    if check.onnxruntime is None:
        say('onnxruntime is not installed, so the file was not compared with PyTorch: pip install onnxruntime')
    else:
        batches = check.image_batches(detector, args.check, size) if args.check else check.random_batches(size)
        agreement = check.check_batches(detector.model, model.SerializeToString(), batches)
        if not agreement:
            raise UsageError(
                f'the exported graph and PyTorch disagree on {agreement.unpaired} of '
                f'{2 * agreement.pairs + agreement.unpaired} detections, so nothing was written: {detector.name} does '
                'something that a graph cannot follow, or its numbers lie on a threshold (untrained weights do)'
            )
    path = args.out or Path(f'{detector.name}.onnx')
    write_file(model, path)
    say(summarize(path, model, agreement))
