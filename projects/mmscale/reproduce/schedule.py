"""A row's schedule at another length: what happens at two thirds of the paper's run happens at two thirds of ours."""

import math
from typing import Any

from mmengine.config import Config, ConfigDict

__all__ = ['fit_schedule', 'save_every_epoch', 'set_epochs']

WARM_UP_SHARE = 10  # a warm-up by iterations lasts a tenth of the run at most; our choice
HOOK_EPOCHS = ('max_epochs', 'switch_epoch', 'num_last_epochs', 'warmup_epochs')  # of MMYOLO's and MMDetection's hooks
POINTS = ('begin', 'end', 'T_max', 'step_size', 'total_iters')


def set_epochs(cfg: Config, epochs: int) -> None:
    """Stretch or shrink the schedule to a number of epochs.

    Learning-rate steps keep their place relative to the run's length, rounded to whole epochs. A loop by iterations is
    fitted by :func:`fit_schedule`, once the length of an epoch is known.

    Args:
        cfg (Config): Changed in place.
        epochs (int): From 1.

    Raises:
        ValueError: If epochs is no whole number from 1.
    """
    if type(epochs) is not int or epochs < 1:
        raise ValueError(f'epochs={epochs!r} must be a whole number from 1')
    cfg.reproduce_epochs = epochs
    loop = cfg.train_cfg
    if 'max_epochs' not in loop:
        return
    ratio = epochs / loop.max_epochs
    for entry in _schedulers(cfg):
        if entry.get('by_epoch', True):
            _scale(entry, ratio)
    for hook in _hooks(cfg):
        for key in HOOK_EPOCHS:
            if isinstance(hook.get(key), int) and hook[key] > 0:
                hook[key] = min(_round(hook[key] * ratio), epochs)
    loop.max_epochs = epochs
    loop.val_interval = max(1, min(loop.get('val_interval', 1), epochs))
    loop.pop('dynamic_intervals', None)


def fit_schedule(cfg: Config, iterations_per_epoch: int) -> None:
    """Fit what is counted in iterations to the run's real length.

    Args:
        cfg (Config): After :func:`set_epochs`, if that is called. A loop by iterations then lasts the epochs asked for,
            its schedule shrinks with it, and it is validated at its end if it is shorter than from one validation to
            the next. In any loop a warm-up by iterations lasts at most a
            tenth of the run: a detector's usual 500 iterations may be all of it on a small data set.
        iterations_per_epoch (int): Batches per epoch, of all processes together one each.
    """
    loop, epochs = cfg.train_cfg, cfg.get('reproduce_epochs')
    if 'max_iters' in loop:
        total = loop.max_iters
        if epochs is not None:
            total = epochs * iterations_per_epoch
            for entry in _schedulers(cfg):
                _scale(entry, total / loop.max_iters)
            loop.max_iters = total
        interval = cfg.default_hooks.checkpoint
        interval.update(
            by_epoch=False,
            interval=min(interval.get('interval', -1), iterations_per_epoch)
            if interval.get('interval', -1) > 0
            else iterations_per_epoch,
        )
        loop.val_interval = max(1, min(loop.get('val_interval', total), total))
    else:
        total = loop.max_epochs * iterations_per_epoch
    for entry in _schedulers(cfg):
        warm_up = str(entry.type).endswith(('LinearLR', 'ConstantLR', 'LinearMomentum')) and not entry.get('begin', 0)
        if warm_up and not entry.get('by_epoch', True) and 'end' in entry:
            entry.end = min(entry.end, max(1, total // WARM_UP_SHARE))
    for hook in _hooks(cfg):
        if 'warmup_mim_iter' in hook:  # so MMYOLO's hook calls the least number of iterations that its warm-up lasts
            hook.warmup_mim_iter = min(hook.warmup_mim_iter, max(1, total // WARM_UP_SHARE))


def save_every_epoch(cfg: Config) -> None:
    """Let a killed run lose one epoch at most; loops by iterations are seen to in :func:`fit_schedule`."""
    hook = cfg.setdefault('default_hooks', ConfigDict()).setdefault('checkpoint', ConfigDict(type='CheckpointHook'))
    if 'max_epochs' in cfg.train_cfg:
        hook.interval = 1
    hook.save_last = True
    hook.max_keep_ckpts = 2  # mmengine removes the oldest before it writes the newest
    hook.pop('save_best', None)  # a table's figure is the last epoch's


def _schedulers(cfg: Config) -> list[ConfigDict]:
    schedulers = cfg.get('param_scheduler') or []
    return list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]


def _hooks(cfg: Config) -> list[ConfigDict]:
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, dict)]


def _scale(entry: Any, ratio: float) -> None:
    for key in POINTS:
        if isinstance(entry.get(key), int) and entry[key] > 0:
            entry[key] = max(1, _round(entry[key] * ratio))
    if 'milestones' in entry:
        entry.milestones = [max(1, _round(milestone * ratio)) for milestone in entry.milestones]
    if entry.get('begin', 0) and entry.get('end') is not None and entry.begin >= entry.end:
        entry.begin = entry.end - 1


def _round(value: float) -> int:
    return math.floor(value + 0.5)
