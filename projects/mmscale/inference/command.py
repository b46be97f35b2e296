"""The command line of :mod:`mmscale.inference`."""

import argparse
import glob
from pathlib import Path

from mmscale.engine.cli import Options, UsageError, command

from .onnx_model import OnnxModel
from .run import run
from .sources import IMAGES, VIDEOS, find_sources
from .torch_model import TorchModel

__all__ = ['build_parser', 'load_model', 'main']

CONFIGS = ('.json', '.py', '.yaml', '.yml')


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='infer.py',
        usage='infer.py CONFIG CHECKPOINT INPUT [INPUT ...] [options]\n'
        '       infer.py MODEL.onnx INPUT [INPUT ...] [options]',
        description='Detect objects in images, folders, globs and videos: drawn pictures and a COCO-format JSON file.',
    )
    parser.add_argument(
        'model', metavar='MODEL', help='config and checkpoint, as for test.py; or a file of tools/deploy/export_onnx.py'
    )
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT', help="images, folders, videos, globs in quotes ('photos/**/*.jpg')"
    )
    parser.add_argument(
        '--out-dir', type=Path, default=Path('outputs'), metavar='DIR', help='results (default: outputs)'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest score that is drawn and written (default: 0.3)'
    )
    parser.add_argument('--device', help='cpu or cuda (default: a GPU where there is one)')
    parser.add_argument(
        '--batch-size', type=int, metavar='N', help="images at once (default: 1, or what an ONNX file's input fixes)"
    )
    parser.add_argument('--no-pictures', action='store_true', help='write the JSON file only')
    parser.add_argument('--recursive', action='store_true', help='look into folders inside folders')
    parser.add_argument(
        '--allow-partial', action='store_true', help='go on although the checkpoint does not fit the model'
    )
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='change the config')
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


def split_inputs(model: str, rest: list[str]) -> tuple[str | None, list[str]]:
    """Tell the checkpoint, which follows a config, from the inputs.

    Args:
        model (str): The first argument.
        rest (list[str]): What follows.

    Returns:
        tuple[str | None, list[str]]: The checkpoint, None with an ONNX file, and the inputs.

    Raises:
        UsageError: If they cannot be told apart, or one of them is not there.
    """
    suffix = Path(model).suffix.lower()
    if suffix == '.onnx':
        return None, rest
    if suffix not in CONFIGS:
        raise UsageError(f"MODEL '{model}' should be a config ({', '.join(CONFIGS)}) or an .onnx file")
    checkpoint, *inputs = rest
    looks_like_input = (
        Path(checkpoint).is_dir() or Path(checkpoint).suffix.lower() in IMAGES + VIDEOS or glob.has_magic(checkpoint)
    )
    if not inputs or (looks_like_input and not Path(checkpoint).is_file()):
        raise UsageError(
            f"after the config '{model}' come its checkpoint and then the inputs, but what comes is {' '.join(rest)}"
        )
    return checkpoint, inputs


def load_model(args: argparse.Namespace, checkpoint: str | None) -> TorchModel | OnnxModel:
    """The detector that the options name.

    Raises:
        UsageError: If options of a config come with an ONNX file.
    """
    if checkpoint is not None:
        return TorchModel(args.model, checkpoint, args.device, args.cfg_options, args.allow_partial)
    if args.cfg_options or args.allow_partial:
        name = '--cfg-options' if args.cfg_options else '--allow-partial'
        raise UsageError(f"{name} is for a config with a checkpoint; the ONNX file '{args.model}' is what it is")
    return OnnxModel(args.model, args.device)


@command
def main(argv: list[str] | None = None) -> None:
    """Detect from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_intermixed_args(argv)
    if not 0 <= args.score_thr <= 1:
        raise UsageError(f'--score-thr {args.score_thr:g} should be from 0 to 1')
    if args.batch_size is not None and args.batch_size < 1:
        raise UsageError(f'--batch-size {args.batch_size} should be a whole number from 1')
    if args.out_dir.exists() and not args.out_dir.is_dir():
        raise UsageError(f"--out-dir '{args.out_dir}' is a file; it should be a folder")
    checkpoint, inputs = split_inputs(args.model, args.inputs)
    sources = find_sources(inputs, args.recursive, None if args.no_pictures else args.out_dir / 'pictures')
    model = load_model(args, checkpoint)
    if model.fixed_batch and args.batch_size not in (None, model.fixed_batch):
        raise UsageError(
            f"--batch-size {args.batch_size}: the ONNX file '{args.model}' takes {model.fixed_batch} at once; export "
            'it with a dynamic batch for another number'
        )
    batch_size = model.fixed_batch or args.batch_size or 1
    summary = run(model, sources, args.out_dir, args.score_thr, batch_size, pictures=not args.no_pictures)
    written = [str(args.out_dir / 'detections.json')] + [str(args.out_dir / 'pictures')] * (not args.no_pictures)
    print(f'{summary}: {", ".join(written)}')
