"""Random numbers of the data loaders' workers, drawn as transforms draw them."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mmscale.engine.reseed import seed_worker


class Draws(Dataset):
    """What Python, NumPy and PyTorch draw at a place."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return random.random(), np.random.rand(), torch.rand(()).item()


def epochs(rank=0, seed=3, count=2, start=7):
    """Each epoch's draws, image by image, of two workers that start anew."""
    torch.manual_seed(start)
    loader = DataLoader(
        Draws(),
        batch_size=None,
        num_workers=2,
        worker_init_fn=partial(seed_worker, num_workers=2, rank=rank, seed=seed),
    )
    return [list(loader) for _ in range(count)]


def test_epochs_and_workers_draw_differently():
    draws = [number for epoch in epochs() for image in epoch for number in image]
    assert len(set(draws)) == len(draws) == 24


def test_the_same_state_draws_the_same():
    first, second = epochs()
    assert epochs() == [first, second]
    assert epochs(start=8)[0] != first


@pytest.mark.parametrize('other', [dict(rank=1), dict(seed=4)])
def test_ranks_and_seeds_draw_differently(other):
    assert not {number for epoch in epochs(**other) for image in epoch for number in image} & {
        number for epoch in epochs() for image in epoch for number in image
    }


def test_the_runners_loaders_are_seeded_so():
    loader = Runner.build_dataloader(
        dict(batch_size=1, num_workers=2, dataset=Draws(), sampler=dict(type='DefaultSampler', shuffle=False)), seed=3
    )
    assert loader.worker_init_fn.func is seed_worker
    assert loader.worker_init_fn.keywords['seed'] == 3
