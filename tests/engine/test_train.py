"""Training from the command line: what it does, and in which words it refuses."""
from pathlib import Path

import pytest
import torch

from mmscale.engine import cli
from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import main


def refused(argv, capfd) -> str:
    """Run training, expect it to refuse, and return the one line that it says."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    return line


def test_trains_in_mixed_precision_with_scaled_rate(write_config, tmp_path):
    config = write_config(extra='auto_scale_lr = dict(enable=False, base_batch_size=4)')
    main([config, '--work-dir', str(tmp_path / 'run'), '--amp', '--auto-scale-lr', '--cfg-options',
          'param_scheduler=None', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'])
    checkpoint = load_checkpoint(tmp_path / 'run' / 'epoch_1.pth')
    assert checkpoint['meta']['iter'] == 4 and checkpoint['meta']['seed'] == 7
    assert checkpoint['optimizer']['param_groups'][0]['lr'] == pytest.approx(0.01 * 2 / 4)  # batch of 2 for one of 4
    assert 'loss_scaler' in checkpoint['optimizer']
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['epoch_1.pth']
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())


@pytest.mark.parametrize('options, words', [
    (['--cfg-options', 'optim_wraper.type=A'], "the config has no 'optim_wraper', did you mean 'optim_wrapper'?"),
    (['--cfg-options', 'param_scheduler.7.end=1'], '--cfg-options param_scheduler.7.end does not fit into the config'),
    (['--cfg-options', 'model.type=FCOSS'], 'FCOSS is not in the mmdet::model registry'),
    (['--auto-scale-lr'], '--auto-scale-lr needs'),
    (['--resume', 'nowhere.pth'], "checkpoint 'nowhere.pth' does not exist"),
    (['--cfg-options', 'train_dataloader.dataset.ann_file=none.json'], 'none.json'),
    (['--cfg-options', 'optim_wrapper.type=OtherWrapper', '--amp'], "but the config has 'OtherWrapper'"),
    (['--cfg-options', 'train_cfg=None'], "has no 'train_cfg', so there is nothing to train"),
])
def test_mistakes_are_told_in_a_line(write_config, tmp_path, capfd, options, words):
    assert words in refused([write_config(), '--work-dir', tmp_path / 'run', *options], capfd)


def test_config_that_does_not_exist(tmp_path, capfd):
    assert refused([tmp_path / 'none.py'], capfd) == f"error: config '{tmp_path}/none.py' does not exist"
    assert "'mmscale::fine/none.py' does not exist" in refused(['mmscale::fine/none.py'], capfd)
    assert 'names no installed package' in refused(['nobody::fine/none.py'], capfd)


def test_value_that_cannot_be_parsed(write_config, capfd):
    with pytest.raises(SystemExit) as stop:
        main([write_config(), '--cfg-options', "custom_hooks=[dict(type='A',b=1)]"])
    assert stop.value.code == 2 and 'should be KEY=VALUE' in capfd.readouterr().err


def test_own_checks_are_mistakes_and_bugs_are_not(monkeypatch, capfd):
    def check(argv):
        exec('raise ValueError("level is 9, but there are 4")', {'__name__': 'mmscale.fine.fpn'})

    def bug(argv):
        exec('None + 1', {'__name__': 'mmscale.fine.fpn'})

    def foreign(argv):
        raise ValueError('not enough values to unpack')

    with pytest.raises(SystemExit):
        cli.command(check)([])
    assert capfd.readouterr().err == 'error: level is 9, but there are 4\n'
    with pytest.raises(TypeError):
        cli.command(bug)([])
    with pytest.raises(ValueError, match='not enough values'):
        cli.command(foreign)([])
    monkeypatch.setenv('MMSCALE_DEBUG', '1')
    with pytest.raises(ValueError, match='level is 9'):
        cli.command(check)([])


def test_work_dir_is_named_after_the_config(write_config, monkeypatch, tmp_path):
    from mmscale.engine.train import build_parser, prepare
    assert Path(prepare(build_parser().parse_args([write_config(name='mine.py')])).work_dir) == Path('work_dirs/mine')
    cfg = prepare(build_parser().parse_args([write_config(extra="work_dir = 'there'")]))
    assert cfg.work_dir == 'there'
    assert [hook.type for hook in cfg.custom_hooks] == ['mmscale.EpochSeedHook']
