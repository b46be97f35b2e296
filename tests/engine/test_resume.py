"""A killed run resumes as if nothing had happened, whatever the moment of the kill."""
import os
import subprocess
import sys

import pytest
import torch

from mmscale.engine.checkpoint import is_whole, latest_checkpoint, load_checkpoint
from mmscale.engine.train import main

# A plug-in of a stranger's project: kills its own process while the second checkpoint is being written.
KILLER = """
import os, signal
replace = os.replace
def replace_or_die(source, target):
    if str(target).endswith('epoch_2.pth'):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = replace_or_die
"""
NO_VAL = ['--cfg-options', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(write_config, tmp_path, repo, capsys):
    config = write_config(epochs=3, extra="custom_hooks = [dict(type='EMAHook')]")
    main([config, '--work-dir', str(tmp_path / 'whole'), *NO_VAL])

    (tmp_path / 'killer.py').write_text(KILLER)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(repo / 'projects')])}
    killed = subprocess.run(
        [sys.executable, str(repo / 'tools' / 'train.py'), config, '--work-dir', str(tmp_path / 'killed'), *NO_VAL,
         'custom_imports.imports=mmscale,killer'], env=env, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    assert [path.name for path in (tmp_path / 'killed').glob('*.pth')] == ['epoch_1.pth']
    assert len(list((tmp_path / 'killed').glob('.epoch_2.pth.*.partial'))) == 1

    main([config, '--work-dir', str(tmp_path / 'killed'), '--resume', *NO_VAL])
    assert f'Resuming from {tmp_path}/killed/epoch_1.pth' in capsys.readouterr().out
    assert not list((tmp_path / 'killed').glob('.*.partial'))
    whole, resumed = (load_checkpoint(tmp_path / run / 'epoch_3.pth') for run in ('whole', 'killed'))
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        different = [name for name in whole[part] if not torch.equal(whole[part][name], resumed[part][name])]
        assert not different
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 12


@pytest.fixture
def one_epoch(write_config, tmp_path):
    """A config and the folder of its run of one epoch, without a seed of its own."""
    config = write_config(extra='randomness = dict(seed=None)')
    main([config, '--work-dir', str(tmp_path / 'run'), *NO_VAL])
    return config, tmp_path / 'run'


def refused(argv, capfd) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 2
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_resumed(one_epoch, tmp_path, capfd):
    config, run = one_epoch
    wider = [*NO_VAL, 'model.bbox_head.feat_channels=32']
    line = refused([config, '--work-dir', run, '--resume', 'auto', *wider], capfd)
    assert f"error: checkpoint '{run}/epoch_1.pth' belongs to another model" in line and 'mismatched' in line
    checkpoint = load_checkpoint(run / 'epoch_1.pth')
    torch.save(checkpoint['state_dict'], tmp_path / 'weights.pth')
    line = refused([config, '--work-dir', run, '--resume', tmp_path / 'weights.pth', *NO_VAL], capfd)
    assert 'has no meta, state_dict, message_hub, optimizer, so training cannot resume' in line


def test_seed_of_a_resumed_run_is_its_first(one_epoch, capsys):
    config, run = one_epoch
    seed = load_checkpoint(run / 'epoch_1.pth')['meta']['seed']
    main([config, '--work-dir', str(run), '--resume', *NO_VAL, 'train_cfg.max_epochs=2'])
    assert load_checkpoint(run / 'epoch_2.pth')['meta']['seed'] == seed
    capsys.readouterr()
    main([config, '--work-dir', str(run), '--resume', *NO_VAL, 'train_cfg.max_epochs=2'])
    assert 'All 2 epochs are done' in capsys.readouterr().out


def test_nothing_to_resume_starts_afresh(write_config, tmp_path, capsys):
    main([write_config(), '--work-dir', str(tmp_path / 'run'), '--resume', *NO_VAL])
    assert f'No checkpoint to resume from in {tmp_path}/run: training starts afresh.' in capsys.readouterr().out
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


def test_latest_checkpoint(tmp_path):
    for age, number in enumerate((9, 3, 10)):
        path = tmp_path / f'epoch_{number}.pth'
        torch.save({}, path)
        os.utime(path, (1000 - age, 1000 - age))
    assert latest_checkpoint(tmp_path) == (tmp_path / 'epoch_9.pth', [])  # the youngest
    note = tmp_path / 'last_checkpoint'
    note.write_text('/moved/away/epoch_3.pth')
    assert latest_checkpoint(tmp_path) == (tmp_path / 'epoch_3.pth', [])  # the noted one, wherever it was
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_3.pth').read_bytes()[:-30])
    assert not is_whole(tmp_path / 'epoch_3.pth')
    assert latest_checkpoint(tmp_path) == (tmp_path / 'epoch_9.pth', ['epoch_3.pth'])
    note.write_text('')  # as a kill between opening and writing leaves it
    assert latest_checkpoint(tmp_path)[0] == tmp_path / 'epoch_9.pth'
    assert latest_checkpoint(tmp_path / 'nowhere') == (None, [])


def test_copied_run_resumes_from_its_own_checkpoint(tmp_path):
    for folder in ('original', 'copy'):
        (tmp_path / folder).mkdir()
        torch.save({}, tmp_path / folder / 'epoch_1.pth')
        (tmp_path / folder / 'last_checkpoint').write_text(f'{tmp_path}/original/epoch_1.pth')
    assert latest_checkpoint(tmp_path / 'copy') == (tmp_path / 'copy' / 'epoch_1.pth', [])
    (tmp_path / 'copy' / 'epoch_1.pth').unlink()  # as where the checkpoints lie outside the work folder
    assert latest_checkpoint(tmp_path / 'copy') == (tmp_path / 'original' / 'epoch_1.pth', [])


def test_meta_of_another_kind(write_config, tmp_path, capfd):
    torch.save(dict(meta=None, state_dict={}, message_hub={}, optimizer={}), tmp_path / 'odd.pth')
    line = refused([write_config(), '--work-dir', tmp_path / 'run', '--resume', tmp_path / 'odd.pth'], capfd)
    assert "odd.pth' has a NoneType as its 'meta'; it should be a dict" in line
