"""The command line of :mod:`mmscale.analysis.error_analysis`."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmscale.engine.cli import Options, UsageError, command
from mmscale.evaluation.matching import check_iou, check_score
from mmscale.files import write_json

from .error_analysis import Run, check_comparable, match_file, predict, to_dict
from .error_analysis_tables import draw_errors, error_tables, sweep_table
from .model import load_config
from .pictures import check_picture_path

__all__ = ['build_parser', 'main', 'pair_sources']

CONFIG_SUFFIXES = ('.py', '.yml', '.yaml')
PREDICTIONS = ('.pkl', '.pickle', '.json')
SWEEP = tuple(step / 20 for step in range(1, 20))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='error_analysis.py',
        usage='%(prog)s CONFIG CHECKPOINT [CANDIDATE_CONFIG CANDIDATE_CHECKPOINT] [options]',
        description='TP, FP, FN, precision, recall and F1 of a detector, or of a baseline and a candidate, by size and '
        "class, and the false positives by cause. In a checkpoint's place may stand predictions: a pickle of "
        'test.py --out, or a JSON file of COCO results; with --ann-file the latter need no config.',
    )
    parser.add_argument(
        'sources',
        nargs='+',
        metavar='CONFIG CHECKPOINT',
        help='one or two configs, each followed by '
        'its weights or predictions; a second one without a config has the first',
    )
    parser.add_argument('--iou', type=float, default=0.5, help='from which a detection finds an object (default: 0.5)')
    parser.add_argument('--score', type=float, default=0.5, help='the lowest score that counts (default: 0.5)')
    parser.add_argument('--names', nargs='+', help='what to call the runs (default: the names of the configs)')
    parser.add_argument('--ann-file', metavar='FILE', help="COCO file of the ground truth (default: the config's)")
    parser.add_argument('--sweep', action='store_true', help='also precision, recall and F1 by score threshold')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the results to this file')
    parser.add_argument('--plot', type=Path, metavar='PICTURE', help='also draw them, such as errors.png')
    parser.add_argument(
        '--out-dir',
        type=Path,
        metavar='DIR',
        help='keep the predictions here as NAME.pkl, to be given instead of the checkpoint next time',
    )
    parser.add_argument('--verbose', action='store_true', help="show the runner's log")
    parser.add_argument('--allow-partial', action='store_true', help='go on although weights do not fit the model')
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='overrides of all configs'
    )
    parser.epilog = 'MMSCALE_DEBUG=1 shows the traceback of a mistake that is otherwise told in one line.'
    return parser


def pair_sources(sources: Sequence[str]) -> list[tuple[str | None, str]]:
    """Which config belongs to which weights or predictions.

    Raises:
        UsageError: There are more than two, or a config without anything.

    Example:
        >>> pair_sources(['a.py', 'a.pth', 'b.py', 'b.pth'])
        [('a.py', 'a.pth'), ('b.py', 'b.pth')]
        >>> pair_sources(['a.py', 'old.pkl', 'new.pkl'])
        [('a.py', 'old.pkl'), ('a.py', 'new.pkl')]
    """
    pairs, config, waiting = [], None, False
    for source in sources:
        if '::' in source or source.endswith(CONFIG_SUFFIXES):
            if waiting:
                raise UsageError(
                    f"config '{config}' should be followed by its checkpoint or predictions, not '{source}'"
                )
            config, waiting = source, True
        else:
            pairs.append((config, source))
            waiting = False
    if waiting:
        raise UsageError(f"config '{config}' should be followed by its checkpoint or predictions")
    if len(pairs) > 2:
        raise UsageError(f'{len(pairs)} runs were given: a baseline and one candidate can be compared')
    for config, source in pairs:
        if config is None and not source.endswith('.json'):
            raise UsageError(f"'{source}' needs a config before it")
    return pairs


def name_runs(pairs: Sequence[tuple[str | None, str]], names: Sequence[str] | None) -> list[str]:
    """Names of the runs: their configs', or their files' where the configs are the same."""
    if names:
        if len(names) != len(pairs):
            raise UsageError(f'--names {" ".join(names)} should be {len(pairs)}, one for each run')
        return list(names)
    own = [Path((config or source).split('::')[-1]).stem for config, source in pairs]
    if len(set(own)) < len(own):
        own = [Path(source).stem for _, source in pairs]
    if len(set(own)) < len(own):
        own = [f'{Path(source).resolve().parent.name}/{Path(source).stem}' for _, source in pairs]
    return own


def analyse(args: argparse.Namespace, name: str, config: str | None, source: str, folder: Path) -> Run:
    """One run, from its weights or its predictions."""
    cfg = None if config is None else load_test_config(config, args.cfg_options)
    if source.endswith(PREDICTIONS):
        predictions = source
    else:
        predictions = str((args.out_dir or folder) / f'{name.replace("/", "_")}.pkl')
        predict(config, source, Path(predictions), args.cfg_options, args.allow_partial, args.verbose)
    return Run(name, match_file(predictions, cfg, args.ann_file, args.iou))


def load_test_config(config: str, cfg_options: dict | None) -> Config:
    """A config that has a test set."""
    cfg = load_config(config, cfg_options)
    if not cfg.get('test_dataloader'):
        raise UsageError(f"config '{config}' has no 'test_dataloader', so there is nothing to test")
    return cfg


@command
def main(argv: list[str] | None = None) -> None:
    """Analyse from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    check_iou(args.iou)
    check_score(args.score)
    pairs = pair_sources(args.sources)
    names = name_runs(pairs, args.names)
    for _, source in pairs:
        if '://' not in source and not Path(source).is_file():
            raise UsageError(f"'{source}' does not exist")
    if args.plot:
        check_picture_path(args.plot)
    with tempfile.TemporaryDirectory() as folder:
        runs = [analyse(args, name, *pair, Path(folder)) for name, pair in zip(names, pairs, strict=True)]
    check_comparable(runs)
    print('\n' + error_tables(runs, args.score))
    if args.sweep:
        print('\n' + sweep_table(runs, SWEEP))
    if args.json:
        write_json(args.json, [to_dict(run, args.score, SWEEP if args.sweep else ()) for run in runs])
    if args.plot:
        draw_errors(args.plot, runs, args.score)


if __name__ == '__main__':
    main()
