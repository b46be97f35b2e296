"""The command line of :mod:`mmscale.convert.ultralytics`."""

import argparse
from pathlib import Path

from mmscale.analysis.model import load_config
from mmscale.convert.checkpoint import check_output, write_checkpoint
from mmscale.convert.command import count_parameters, describe
from mmscale.engine.cli import Options, apply_options, command, say

from .convert import convert
from .file import read_state
from .names import dfl_name

__all__ = ['build_parser', 'main']


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='ultralytics.py',
        description='Convert official state dicts of YOLOv8, YOLOv10 and YOLOv12 into checkpoints of ours.',
    )
    parser.add_argument('input', metavar='INPUT', type=Path, help='a state dict: .pt, .pth or .safetensors')
    parser.add_argument('config', metavar='CONFIG', help="the weights must be those of this config's model")
    parser.add_argument('output', metavar='OUTPUT', type=Path, help='a .pth file')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='change the config')
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
    check_output(args.output, 'mmscale')
    config = load_config(args.config)
    apply_options(config, args.cfg_options)
    state = read_state(args.input)
    converted, layout = convert(state, config)
    write_checkpoint(args.output, converted)
    say(f'{layout}; classes: {describe(converted.classes)}')
    say(
        f'{len(state)} tensors, {count_parameters(converted.state) / 1e6:.3f} M parameters; all are used but '
        f'{dfl_name(layout.family)}, which is constant'
    )
    say(f'written to {args.output}')
