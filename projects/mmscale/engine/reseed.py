"""Random numbers that a resumed run repeats.

mmengine saves weights, optimizer, schedules and counters, but not the state of the random generators. A run that was
killed and resumed would draw other samples and other flips than it would have without the kill.
"""
import random
import warnings

import numpy as np
import torch
from mmengine.hooks import Hook

from ..registry import HOOKS

__all__ = ['EpochSeedHook', 'seed_worker']


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Start every epoch from a state of the random generators that follows from the seed and the epoch alone.

    A run that resumes at the end of an epoch then goes on exactly as if nothing had happened: on one machine's CPU to
    the last bit, as long as the data loader starts its workers anew every epoch (``persistent_workers=False``) or has
    none. Runs by iteration go on with the right data, but not to the last bit.
    """
    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner) -> None:
        """Seed the generators of Python, numpy and torch."""
        # runner.seed differs between ranks if the config says so (diff_rank_seed), and only then.
        seed = int(np.random.SeedSequence([runner.seed, runner.epoch]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def seed_worker(
    worker_id: int, num_workers: int, rank: int, seed: int, disable_subprocess_warning: bool = False
) -> None:
    """Seed a data loader's worker when it starts, in the place of mmengine's ``worker_init_fn``.

    Args:
        worker_id (int): The worker's number.
        num_workers (int): Not used; PyTorch's seed differs between workers.
        rank (int): The process's.
        seed (int): The run's.
        disable_subprocess_warning (bool): Whether only the first worker warns. Defaults to False.
    """
    drawn = [seed, rank, torch.utils.data.get_worker_info().seed]  # PyTorch's is drawn anew for every start
    own = int(np.random.SeedSequence(drawn).generate_state(1)[0])
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    if disable_subprocess_warning and worker_id:
        warnings.simplefilter('ignore')
