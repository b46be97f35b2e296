"""HSD-DETR learns on real images. The whole of this training, and what it reaches: docs/hsd_detr.md."""

import math

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from ..trainings import own_process_state


@pytest.fixture(autouse=True, name='own_process_state')
def fresh_process_state(monkeypatch):
    yield from own_process_state(monkeypatch)


def test_hsd_detr_learns_bccd_from_random_weights_in_one_epoch(repo, bccd_root, tmp_path):
    """192x144, 52 steps: AP50 above 0.05 (random weights: 0), and every loss of the run a number."""
    cfg = Config.fromfile(repo / 'configs' / 'hsd_detr' / 'hsd-detr_t_12e_bccd.py')
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = 'hsd-detr'
    cfg.randomness = dict(seed=0)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler[0].update(end=10)
    cfg.param_scheduler[1].update(end=1, T_max=1)
    cfg.optim_wrapper.optimizer.lr = 0.001
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{bccd_root}/'
        loader.update(num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if step['type'] == 'mmdet.Resize':
                step['scale'] = (192, 144)
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = [value for value, _ in zip(*runner.message_hub.get_scalar('train/loss').data, strict=True)]
    assert len(losses) == 52 and all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
    assert runner.message_hub.get_scalar('val/coco/AP50').current() > 0.05
