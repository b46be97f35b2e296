"""Training from the command line: what it does, and in which words it refuses."""
import importlib.util
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper, KeyErrorMessage

from mmscale.datasets.transforms import LoadImageFromFile
from mmscale.engine import cli
from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.train import build_parser, main, prepare


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


def load_in_worker(function) -> str | None:
    """What the user is told when the function fails in a worker, whose error is carried over as data loaders do it."""
    try:
        function()
    except Exception:
        carried = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(Exception, match='in DataLoader worker process 0') as caught:
        carried.reraise()
    return cli.is_mistake(caught.value)


def test_mistakes_in_a_worker(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'cut.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'cut.jpg').read_bytes()[:900])
    load = LoadImageFromFile()

    def read(name):
        return lambda: load(dict(img_path=str(tmp_path / name)))

    for name in ('cut.jpg', 'none.jpg'):
        with pytest.raises(Exception) as here:
            read(name)()
        assert load_in_worker(read(name)) == cli.is_mistake(here.value) != ''
        assert name in cli.is_mistake(here.value)
    opened = load_in_worker((tmp_path / 'none.txt').read_text)
    assert opened == f"[Errno 2] No such file or directory: '{tmp_path}/none.txt'"


def test_lines_and_keys_of_a_workers_sentence(monkeypatch):
    text = ('Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
            '  File "{1}", line 7, in parse\n    {2}\n    ^^^^^^^^\nKeyError: 3\n\n'
            'During handling of the above exception, another exception occurred:\n\n'
            'Traceback (most recent call last):\n'
            '  File "/lib/loader.py", line 5, in loop\n    data = fetch()\n           ^^^^^^^\n'
            '  File "{1}", line 9, in parse\n    {2}\n{0}: {3}\n')
    ours, theirs, check = str(Path(cli.__file__).parents[1] / 'datasets' / 'coco.py'), '/lib/coco.py', 'raise Error('
    assert cli.is_mistake(ValueError(text.format('ValueError', ours, check, 'two\n  lines'))) == 'two\n  lines'
    assert cli.is_mistake(KeyError(KeyErrorMessage(text.format('KeyError', ours, check, "'no such'")))) == 'no such'
    assert cli.is_mistake(ValueError(text.format('ValueError', theirs, check, 'theirs'))) is None
    assert cli.is_mistake(ValueError(text.format('ValueError', ours, 'x = int(y)', 'a bug'))) is None
    assert cli.is_mistake(RuntimeError(text.format('RuntimeError', ours, check, 'no check of ours'))) is None


def test_faults_in_a_worker():
    def foreign():
        raise ValueError('not enough values to unpack')

    assert load_in_worker(foreign) is None
    assert load_in_worker(lambda: None + 1) is None
    assert load_in_worker(lambda: subprocess.run(['no-such-program'])) is None


def test_missing_file_of_the_programs_own_is_a_fault(tmp_path):
    def told(function):
        with pytest.raises(OSError) as caught:
            function()
        return cli.is_mistake(caught.value)

    assert told(lambda: subprocess.run(['no-such-program'])) is None
    assert told(lambda: socket.socket(socket.AF_UNIX).connect(str(tmp_path / 'gone'))) is None
    assert told(lambda: (tmp_path / 'none.json').read_text()).endswith("none.json'")


def test_missing_image_is_told_by_real_workers(write_config, shapes, tmp_path, capfd):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    for image in (data / 'images').iterdir():
        image.unlink()
    run = ['--work-dir', tmp_path / 'run', '--cfg-options', 'train_dataloader.num_workers=1',
           f'train_dataloader.dataset.data_root={data}', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    line = refused([write_config(), *run], capfd)
    assert line.startswith(f"error: [Errno 2] No such file or directory: '{data}/images/") and 'Traceback' not in line


def test_work_dir_is_named_after_the_config(write_config, monkeypatch, tmp_path):
    from mmscale.engine.train import build_parser, prepare
    assert Path(prepare(build_parser().parse_args([write_config(name='mine.py')])).work_dir) == Path('work_dirs/mine')
    cfg = prepare(build_parser().parse_args([write_config(extra="work_dir = 'there'")]))
    assert cfg.work_dir == 'there'
    assert [hook.type for hook in cfg.custom_hooks] == ['mmscale.EpochSeedHook']


def test_a_changed_variable_of_the_config_file_is_told(write_config, capsys):
    """It made fields that keep their value, in MMDetection without a word."""
    cfg = prepare(build_parser().parse_args([write_config(), '--cfg-options', 'train_pipeline.2.prob=0.9']))
    assert cfg.train_dataloader.dataset.pipeline[2].prob == 0.5
    assert "'train_pipeline' is a variable of the config file" in capsys.readouterr().out
    prepare(build_parser().parse_args([write_config(), '--cfg-options', 'model.bbox_head.num_classes=3']))
    assert 'warning' not in capsys.readouterr().out


def test_a_config_of_an_absent_mmsegmentation(tmp_path, monkeypatch, capfd):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == 'mmseg' else find(name, *rest))
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: package != 'mmsegmentation')
    (tmp_path / 'dumped.py').write_text("default_scope = 'mmseg'\n")
    for config in ('mmscale::fine/semantic-fpn_r50_fpn_80k_cityscapes-512x1024.py', tmp_path / 'dumped.py'):
        assert refused([config], capfd) == ('error: mmsegmentation is optional, needed here and not installed; mend it '
                                            'with: pip install mmsegmentation==1.2.2 ftfy regex')
