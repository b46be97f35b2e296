"""Test a detector: MMDetection's ``tools/test.py``, which never evaluates weights of another model in silence."""
import argparse
from copy import deepcopy
from pathlib import Path

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader

from .checkpoint import compare, load_checkpoint
from .cli import UsageError, add_common, build_runner, command, load_config, say

__all__ = ['build_parser', 'main', 'prepare', 'test']


def build_parser() -> argparse.ArgumentParser:
    """The command line of testing."""
    parser = argparse.ArgumentParser(prog='test.py', description='Test a detector and evaluate it')
    parser.add_argument('config', help='config file, or mmscale::fine/... for one that came with the package')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions, for evaluation without the model')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='write images of the predictions below work_dir/<time>/SHOW_DIR')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows an image')
    parser.add_argument('--tta', action='store_true',
                        help="test-time augmentation: the config's own tta_model and tta_pipeline, else the image and "
                             'its mirror image')
    parser.add_argument('--allow-partial', action='store_true',
                        help='evaluate although weights are missing, unexpected or of another shape')
    add_common(parser)
    return parser


def prepare(args: argparse.Namespace) -> Config:
    """Make the config that the runner is built from.

    Args:
        args (argparse.Namespace): As :func:`build_parser` makes it.

    Raises:
        UsageError: If the command line and the config do not fit together.
    """
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        raise UsageError(f"--out '{args.out}' should end in .pkl or .pickle")
    cfg = load_config(args)
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise UsageError(f"config '{args.config}' has no '{key}', so there is nothing to test")
    if args.show or args.show_dir:
        if 'visualization' not in (cfg.get('default_hooks') or {}):
            raise UsageError("--show and --show-dir need default_hooks.visualization=dict(type='DetVisualizationHook') "
                             'in the config')
        cfg = trigger_visualization_hook(cfg, args)
    if args.tta:
        add_tta(cfg)
    cfg.load_from, cfg.resume = args.checkpoint, False
    return cfg


def add_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation, with MMDetection's defaults for what the config does not say."""
    if 'tta_model' not in cfg:
        say('--tta: the config has no tta_model; boxes of the views are merged by NMS at IoU 0.5, 100 per image.')
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in cfg:
        if not dataset.get('pipeline') or 'Pack' not in dataset.pipeline[-1].type:
            raise UsageError('--tta: the config has no tta_pipeline, and its test pipeline does not end in packing the '
                             'inputs, so none can be derived from it')
        say('--tta: the config has no tta_pipeline; the views are the image and its mirror image.')
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        # DetTTAModel hands on the first view's ground truth, so that one is the image as it is
        views = dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [dict(type='PackDetInputs', meta_keys=keys)]])
        cfg.tta_pipeline = [*deepcopy(dataset.pipeline[:-1]), views]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def test(cfg: Config, out: str | None = None, allow_partial: bool = False) -> dict:
    """Test as a prepared config says.

    Args:
        cfg (Config): As :func:`prepare` makes it; ``load_from`` is the checkpoint.
        out (str, optional): File for the predictions. Defaults to None: they are not kept.
        allow_partial (bool): Whether to go on if the weights do not fit the model. Defaults to False.

    Returns:
        dict: The metrics.

    Raises:
        ValueError: If the checkpoint is damaged, refused, or belongs to another model.
    """
    name = cfg.load_from
    local = '://' not in name
    checkpoint = load_checkpoint(name, 'cpu', mmap=True) if local else CheckpointLoader.load_checkpoint(name, 'cpu')
    runner = build_runner(cfg)
    if misfit := compare(runner.model, checkpoint):
        if not allow_partial:
            raise UsageError(f"checkpoint '{name}' belongs to another model than config '{cfg.filename}': {misfit}; "
                             '--allow-partial evaluates it all the same')
        say(f'--allow-partial: {misfit}')
    del checkpoint
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=out))
    return runner.test()


@command
def main(argv: list[str] | None = None) -> None:
    """Test from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    test(prepare(args), args.out, args.allow_partial)


if __name__ == '__main__':
    main()
