"""SSD and SSD-CFSAM learn on real images. The whole of these trainings, and what they reach: docs/cfsam.md."""

import math

import pytest
from mmengine.config import Config
from mmengine.runner import Runner


@pytest.mark.parametrize('name', ['ssd_r18_12e_bccd', 'ssd_r18_cfsam_12e_bccd'])
def test_learns_bccd_from_random_weights_in_three_epochs(name, repo, bccd_root, tmp_path):
    """192x192, 75 steps: AP50 above 0.2 (random weights: 0), and every loss of the run a number."""
    cfg = Config.fromfile(repo / 'configs' / 'cfsam' / f'{name}.py')
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = name
    cfg.randomness = dict(seed=0)
    cfg.train_cfg.update(max_epochs=3, val_interval=3)
    cfg.param_scheduler[1].update(end=3, T_max=3)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{bccd_root}/'
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = [value for value, _ in zip(*runner.message_hub.get_scalar('train/loss').data, strict=True)]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert runner.message_hub.get_scalar('val/coco/AP50').current() > 0.2
