"""FINE learns on real images."""

import math

import pytest
from mmengine.config import Config
from mmengine.runner import Runner


@pytest.mark.parametrize('name', ['fcos_r18_fpn-fine_2e_bccd'])
def test_fcos_with_fine_learns_bccd_from_random_weights_in_two_epochs(name, repo, bccd_root, tmp_path):
    """320x240, 205 images, two epochs: AP50 above 0.3, and every loss of the run a number."""
    cfg = Config.fromfile(repo / 'configs' / 'fine' / f'{name}.py')
    cfg.work_dir = str(tmp_path)
    cfg.randomness = dict(seed=0)
    cfg.default_scope = 'mmdet'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{bccd_root}/'
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = [value for value, _ in zip(*runner.message_hub.get_scalar('train/loss').data, strict=True)]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    metrics = runner.val_loop.run()
    assert metrics['coco/AP50'] > 0.3
