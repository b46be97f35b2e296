"""Train a detector: MMDetection's ``tools/train.py``, with its mistakes found before they cost time.

A checkpoint to resume from is looked at first: whole, loadable under torch's protection, with an optimizer's state, and
of this model. ``--resume`` finds the newest whole one even after a kill during a write.
"""
import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from .checkpoint import compare, latest_checkpoint, load_checkpoint, remove_partial
from .cli import UsageError, add_common, build_runner, command, load_config, say

__all__ = ['build_parser', 'main', 'prepare', 'train']


def build_parser() -> argparse.ArgumentParser:
    """The command line of training."""
    parser = argparse.ArgumentParser(prog='train.py', description='Train a detector')
    parser.add_argument('config', help='config file, or mmscale::fine/... for one that came with the package')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; without one, or with "auto", from the newest of the work folder')
    add_common(parser)
    return parser


def prepare(args: argparse.Namespace) -> Config:
    """Make the config that the runner is built from.

    Args:
        args (argparse.Namespace): As :func:`build_parser` makes it.

    Raises:
        UsageError: If the command line and the config do not fit together.
    """
    cfg = load_config(args)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise UsageError(f"config '{args.config}' has no '{key}', so there is nothing to train")
    if args.amp:
        if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UsageError(f"--amp needs optim_wrapper.type 'OptimWrapper', but the config has "
                             f"'{cfg.optim_wrapper.type}'")
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UsageError("--auto-scale-lr needs 'auto_scale_lr = dict(base_batch_size=...)' in the config, the "
                             'batch size that its learning rate was chosen for')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    hooks = cfg.setdefault('custom_hooks', []) or []
    if not any(hook.get('type') == 'mmscale.EpochSeedHook' for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = [*hooks, dict(type='mmscale.EpochSeedHook')]
    keep = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if keep.get('max_keep_ckpts') == 1:
        say('max_keep_ckpts=1: mmengine removes the old checkpoint before it writes the new one, and a kill in between '
            'leaves none; 2 is safe.')
    return cfg


def find_resume(cfg: Config) -> dict | None:
    """Settle which checkpoint the run resumes from and look at it; start afresh if there is none to be found.

    Args:
        cfg (Config): ``resume`` and ``load_from`` are set to what was found; so is the random seed.

    Returns:
        dict | None: The checkpoint, its weights mapped rather than read; None for a fresh start.

    Raises:
        ValueError: If the checkpoint is damaged, refused, or holds no training state.
    """
    remove_partial(cfg.work_dir)
    if not cfg.get('resume'):
        return None
    if cfg.get('load_from') is None:
        path, damaged = latest_checkpoint(cfg.work_dir)
        if damaged:
            say(f'Passed over half-written in {cfg.work_dir}: {", ".join(damaged)}')
        if path is None:
            say(f'No checkpoint to resume from in {cfg.work_dir}: training starts afresh.')
            cfg.resume = False
            return None
        say(f'Resuming from {path}')
        cfg.load_from = str(path)
    name = cfg.load_from
    if Path(name).is_dir():  # DeepSpeed's own format: its strategy reads it
        return None
    local = '://' not in name
    checkpoint = load_checkpoint(name, 'cpu', mmap=True) if local else CheckpointLoader.load_checkpoint(name, 'cpu')
    absent = [key for key in ('meta', 'state_dict', 'message_hub', 'optimizer') if key not in checkpoint]
    if absent:
        raise UsageError(f"checkpoint '{name}' has no {', '.join(absent)}, so training cannot resume from it; "
                         f'--cfg-options load_from={name} starts from its weights instead')
    if not isinstance(checkpoint['meta'], dict):
        raise UsageError(f"checkpoint '{name}' has a {type(checkpoint['meta']).__name__} as its 'meta'; it should be a "
                         'dict')
    if (cfg.get('randomness') or {}).get('seed') is None and checkpoint['meta'].get('seed') is not None:
        # mmengine restores a random seed only after the data loader was built with another one.
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=checkpoint['meta']['seed'])
    return checkpoint


def train(cfg: Config) -> Runner:
    """Train as a prepared config says.

    Args:
        cfg (Config): As :func:`prepare` makes it.

    Returns:
        Runner: The runner after training.

    Raises:
        ValueError: If the checkpoint to resume from does not belong to the model.
    """
    checkpoint = find_resume(cfg)
    runner = build_runner(cfg)
    if checkpoint is not None:
        if misfit := compare(runner.model, checkpoint):
            raise UsageError(f"checkpoint '{cfg.load_from}' belongs to another model than config '{cfg.filename}': "
                             f'{misfit}')
        epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
        if epochs is not None and checkpoint['meta'].get('epoch', 0) >= epochs:
            say(f'All {epochs} epochs are done: there is nothing left to train.')
        del checkpoint
    runner.train()
    return runner


@command
def main(argv: list[str] | None = None) -> None:
    """Train from the command line.

    Args:
        argv (list[str], optional): Arguments after the program's name. Defaults to None: those of the process.
    """
    args = build_parser().parse_args(argv)
    train(prepare(args))


if __name__ == '__main__':
    main()
