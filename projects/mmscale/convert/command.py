"""The command line of :mod:`mmscale.convert`."""

import argparse
from pathlib import Path

from torch import Tensor

from mmscale.analysis.model import load_config
from mmscale.engine.cli import Options, UsageError, apply_options, command, say

from .checkpoint import check_output, read_checkpoint, write_checkpoint
from .convert import convert

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='rtdetr.py',
        description="Convert checkpoints of RT-DETR: the official code's, Hugging Face's, ours.",
    )
    parser.add_argument(
        'input', metavar='INPUT', type=Path, help="a .pth or .safetensors file, or Hugging Face's folder"
    )
    parser.add_argument('output', metavar='OUTPUT', type=Path, help='a .pth file; a folder for --to hf')
    parser.add_argument(
        '--from',
        dest='source',
        choices=('official', 'hf', 'mmscale'),
        help='format of INPUT (default: by the names of its weights)',
    )
    parser.add_argument(
        '--to',
        choices=('mmscale', 'official', 'official-v2', 'hf'),
        default='mmscale',
        help='format of OUTPUT (default: mmscale)',
    )
    parser.add_argument(
        '--config', help="the weights must be those of this config's model (default: of the one that their shapes say)"
    )
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='change the config')
    parser.add_argument(
        '--no-ema', action='store_true', help="of a training's checkpoint take the weights that are not averaged"
    )
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """Convert from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.

    Raises:
        UsageError: For a mistake in the arguments.
    """
    args = build_parser().parse_args(argv)
    if args.cfg_options and not args.config:
        raise UsageError('--cfg-options changes a config: --config is missing')
    check_output(args.output, args.to)
    config = load_config(args.config) if args.config else None
    if config is not None:
        apply_options(config, args.cfg_options)
    source = read_checkpoint(args.input, args.source, ema=not args.no_ema)
    converted, architecture = convert(source, args.to, config)
    write_checkpoint(args.output, converted)
    say(f'{source.form} -> {args.to}: {architecture}')
    say(
        f'{len(converted.state)} tensors, {count_parameters(source.state) / 1e6:.3f} M parameters'
        f'{", averaged (EMA)" if source.ema else ""}'
        f'{", norms of the backbone frozen" if converted.frozen_norms else ""}; classes: {describe(converted.classes)}'
    )
    say(f'written to {args.output}')


def count_parameters(state: dict[str, Tensor]) -> int:
    """Numbers in a state that a training could change."""
    buffers = ('running_mean', 'running_var', 'num_batches_tracked', 'anchors', 'valid_mask', 'points_scale')
    return sum(value.numel() for name, value in state.items() if not name.endswith(buffers))


def describe(classes: tuple[str, ...] | None) -> str:
    """The classes' names, or the first of them."""
    return ', '.join((*classes[:3], *['...'] * (len(classes) > 3))) if classes else 'not named'
