"""The options of a command line that say which detector is looked at."""

import argparse

from mmscale.engine.cli import Options

from .detector import Detector, load_detector

__all__ = ['add_subject', 'load_subject']


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument('config', help="config file, or 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    parser.add_argument('--checkpoint', metavar='FILE', help='its weights; without one they are random, and it says so')
    parser.add_argument('--pretrained', action='store_true', help="weights by the config's own init_cfg (may download)")
    parser.add_argument(
        '--allow-partial', action='store_true', help='go on although the checkpoint does not fit the model'
    )
    parser.add_argument('--seed', type=int, default=0, help='of random weights and pixels (default: 0)')
    parser.add_argument('--device', default='cpu', help='where to compute, cpu or cuda (default: cpu)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides of the config')
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'


def load_subject(args: argparse.Namespace) -> Detector:
    """The detector that the options name."""
    return load_detector(
        args.config,
        args.checkpoint,
        pretrained=args.pretrained,
        cfg_options=args.cfg_options,
        allow_partial=args.allow_partial,
        device=args.device,
        seed=args.seed,
    )
