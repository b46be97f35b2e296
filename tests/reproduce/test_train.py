"""``reproduce.py train``: what is run, in which order, and what is left after any end; and the worker itself."""

import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.cli import UsageError
from mmscale.reproduce import conduct, process, train, worker
from mmscale.reproduce.config import Settings
from mmscale.reproduce.process import Job, RunProcess
from mmscale.reproduce.runs import Run
from mmscale.reproduce.spec import find
from tests.reproduce.test_executors import WORKER
from tests.trainings import forget_runs

FINISH = "finish(seconds=1.5)\nfolder.joinpath('failed.json').unlink(missing_ok=True)\n"
# Kills its own process at the second epoch's first step, as a machine does that is switched off.
KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class Die(Hook):
    def before_train_epoch(self, runner):
        if runner.epoch == 1 and not os.path.exists(runner.work_dir + '/died'):
            open(runner.work_dir + '/died', 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def fake_worker(monkeypatch):
    """Workers that take no time: a function that says what they do."""
    monkeypatch.setattr(conduct, 'POLL', 0.02)
    codes = {'code': FINISH}

    def fake(job: Job, argument: Path) -> list[str]:
        text = WORKER.replace("(folder / 'job' / 'config.py').read_text()", repr(codes['code']))
        return [sys.executable, '-c', text, str(argument)]

    monkeypatch.setattr(process, 'command', fake)
    return lambda code: codes.update(code=code)


def result(tmp_path, row: str = 'plain', seed: int = 0, experiment: str = 'own', name: str = 'run.json') -> dict | None:
    return Run('tiny', 'table1', experiment, row, seed, tmp_path / 'work').read(name)


def test_seeds_are_outermost_and_finished_runs_are_passed_over(command, fake_worker, tmp_path, capsys):
    assert command('--seeds', '2') == 0
    said = capsys.readouterr().out
    assert re.findall(r'(\w+) seed (\d): starts', said) == [
        ('plain', '0'),
        ('wide', '0'),
        ('plain', '1'),
        ('wide', '1'),
    ]
    assert '4 runs, 0 of them finished before' in said and '4 of 4 runs finished' in said
    assert f'report tiny/table1 --name own --work-root {tmp_path}/work' in said
    spaced = Run('tiny', 'table1', 'own', 'plain', 0, tmp_path / 'my work')
    assert conduct.report_command(spaced).endswith(f"--work-root '{tmp_path}/my work'")
    experiment = json.loads((tmp_path / 'work/tiny/table1/own/experiment.json').read_text())
    assert experiment['rows'] == ['plain', 'wide'] and experiment['seeds'] == 2
    assert experiment['settings']['auto_scale_lr'] is True
    fake_worker('raise SystemExit(1)')
    assert command('--seeds', '2') == 0
    said = capsys.readouterr().out
    assert '4 of them finished before' in said and 'starts' not in said


def test_failing_row_does_not_stop_the_others(command, fake_worker, tmp_path, capsys):
    fake_worker("print('CUDA out of memory')\nif job['row'] == 'plain': sys.exit(1)\n" + FINISH)
    assert command('--seeds', '2', '--jobs', '2') == 1
    said = capsys.readouterr().out
    assert '2 of 4 runs finished, 2 failed' in said
    log = tmp_path / 'work/tiny/table1/own/plain/seed1/log.txt'
    assert f'FAILED tiny/table1 plain seed 1: CUDA out of memory\n    log: {log}' in said
    assert result(tmp_path, name='failed.json')['error'] == 'CUDA out of memory'
    assert result(tmp_path) is None and result(tmp_path, 'wide', 1)['seed'] == 1
    fake_worker(FINISH)
    assert command('--seeds', '2') == 0
    assert '4 of 4 runs finished' in capsys.readouterr().out
    assert result(tmp_path)['attempts'] == 2 and result(tmp_path, name='failed.json') is None


def test_other_settings_are_another_experiment(command, fake_worker, tmp_path, capsys):
    assert command('--name', 'mine', '--rows', 'plain', '--batch-size', '2') == 0
    assert command('--name', 'mine', '--rows', 'wide', '--batch-size', '4') == 2
    line = capsys.readouterr().err
    assert line.startswith(
        "error: experiment 'mine' of tiny/table1 was made with other settings: batch_size was 2 and "
    )
    assert '--name' in line and '--redo' in line
    assert result(tmp_path, 'wide', experiment='mine') is None
    assert command('--name', 'mine', '--rows', 'wide', '--batch-size', '4', '--redo') == 0
    assert result(tmp_path, 'plain', experiment='mine') is None  # it was of the old settings
    assert result(tmp_path, 'wide', experiment='mine')['settings']['batch_size'] == 4


def test_changed_row_is_told_and_run_anew_only_when_asked(command, fake_worker, papers, tmp_path, capsys):
    assert command() == 0
    file = papers / 'tiny' / 'tables.yml'
    os.utime(file, (0, 0))
    file.write_text(file.read_text().replace('feat_channels: 32', 'feat_channels: 24'))
    from mmscale.reproduce import spec

    spec._load_paper.cache_clear()
    before = result(tmp_path, 'wide')
    assert command() == 0
    said = capsys.readouterr().out
    assert "tiny/table1 wide seed 0: finished, but the row's config has changed since" in said
    assert '1 of 2 runs finished, 1 of another config' in said and '--rows wide --redo' in said
    assert result(tmp_path, 'wide') == before
    assert command('--rows', 'wide', '--redo') == 0
    assert result(tmp_path, 'wide')['config_hash'] != before['config_hash']
    assert result(tmp_path, 'wide')['attempts'] == 1


def test_dry_run_says_what_would_be_done_and_leaves_nothing(command, fake_worker, tmp_path, capsys):
    assert command('--seeds', '2', '--dry-run') == 0
    assert not (tmp_path / 'work').exists()
    assert command('--rows', 'plain') == 0
    fake_worker('sys.exit(1)')
    assert command('--rows', 'wide') == 1
    cut = Run('tiny', 'table1', 'own', 'wide', 0, tmp_path / 'work')
    torch.save({}, cut.folder / 'epoch_1.pth')
    capsys.readouterr()
    lock = cut.lock()
    assert lock.acquire()
    assert command('--dry-run', '--seeds', '2') == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'tiny/table1 plain seed 0  finished'
    assert lines[1].startswith('tiny/table1 wide seed 0   resumes at epoch 2 of 2, failed before (process ')
    assert lines[2:] == ['tiny/table1 plain seed 1  new', 'tiny/table1 wide seed 1   new']
    assert command('--redo') == 2
    assert 'works on tiny/table1 wide seed 0' in capsys.readouterr().err
    assert result(tmp_path) is not None  # none is discarded if one is busy
    lock.release()


def test_busy_run_is_left_to_whoever_does_it(command, fake_worker, tmp_path, capsys):
    lock = Run('tiny', 'table1', 'own', 'plain', 0, tmp_path / 'work').lock()
    assert lock.acquire()
    assert command() == 0
    assert 'tiny/table1 plain seed 0: left alone, process' in capsys.readouterr().out
    assert result(tmp_path) is None and result(tmp_path, 'wide') is not None
    lock.release()


@pytest.mark.parametrize(
    'words, sentence',
    [
        (['--seeds', '0'], '--seeds 0 should be 1 or more'),
        (['--rows', 'plane'], "did you mean 'plain'?"),
        (['--rows', 'later'], 'it waits for an engineer'),
        (['--epochs', '-1'], '--epochs -1'),
        (['--image-scale', '0', '64'], '--image-scale 0 64'),
        (['--gpus-per-job', '1'], '0 GPUs are visible here'),
        (['--no-wait'], '--no-wait is for --executor slurm'),
        (['--partition', 'gpu'], '--partition is for --executor slurm'),
        (['--executor', 'slurm', '--runs-per-gpu', '2'], '--runs-per-gpu is for --executor local'),
        (['--name', 'a/b'], "--name 'a/b'"),
        (['--cfg-options', 'model.bbox_head.feat_chanels=8'], 'feat_chanels'),
        (['--cfg-options', 'epochs'], 'should be KEY=VALUE'),
        (['--dataset', 'bcd'], 'bcd'),
    ],
)
def test_mistakes_are_told_in_a_line(command, fake_worker, tmp_path, capsys, words, sentence):
    assert command(*words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in line and 'error: ' in line
    assert not (tmp_path / 'work').exists()


def test_command_line_reaches_the_config(table, papers, monkeypatch):
    import argparse

    parser = argparse.ArgumentParser()
    train.add_parser(parser.add_subparsers())
    words = (
        '--epochs 6 --batch-size 3 --image-scale 96 48 --no-auto-scale-lr --cfg-options optim_wrapper.optimizer.lr=1'
    )
    settings = train.read_settings(parser.parse_args(['train', 'tiny', *words.split()]))
    (item,) = train.plan([table], ['wide'], settings)
    assert item.epochs == item.cfg.train_cfg.max_epochs == 6
    assert item.cfg.train_dataloader.batch_size == 3 and item.cfg.optim_wrapper.optimizer.lr == 1
    assert item.cfg.test_dataloader.dataset.pipeline[1].scale == (96, 48)
    assert item.cfg.model.bbox_head.feat_channels == 32
    assert train.plan([table], ['wide'], settings)[0].hash == item.hash
    assert train.plan([table], ['plain'], settings)[0].hash != item.hash


@pytest.fixture
def make_job(table, tmp_path, monkeypatch):
    """A function that makes a job of the real worker: ``make_job('plain', **overrides)``."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')

    def make(row: str = 'plain', gpus: int = 0, keep_checkpoints: bool = False, **options) -> Job:
        from mmscale.reproduce.config import Settings

        (item,) = train.plan([table], [row], Settings(cfg_options=options))
        run = Run('tiny', 'table1', 'exp', row, 0, tmp_path / 'work')
        return train.make_jobs([(run, item)], gpus, Settings(cfg_options=options), keep_checkpoints)[0]

    return make


def test_worker_leaves_a_whole_record(make_job, own_process_state):
    job = make_job(**{'train_cfg.val_interval': 1})
    worker.main([str(job.write())])
    record = job.run.read('run.json')
    assert {key: record[key] for key in ('paper', 'table', 'row', 'seed', 'experiment', 'attempts')} == dict(
        paper='tiny', table='table1', row='plain', seed=0, experiment='exp', attempts=1
    )
    assert record['config_hash'] == job.config_hash and record['settings'] == json.loads(json.dumps(job.settings))
    assert [entry['epoch'] for entry in record['history']] == [1, 2]
    assert record['history'][1]['metrics'] == record['metrics']  # the data is the same
    assert set(record['metrics']) >= {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    assert 0 < record['seconds'] < 60 and record['peak_memory_of'] == 'resident set'
    assert 50e6 < record['peak_memory_bytes'] < 20e9
    assert record['environment']['torch'] == torch.__version__ and record['environment']['gpus'] == 0
    assert re.fullmatch('[0-9a-f]{40}', record['git']['revision']) if record['git'] else True
    assert sorted(path.name for path in job.run.folder.glob('*.pth')) == ['epoch_2.pth']
    assert load_checkpoint(job.run.folder / 'epoch_2.pth')['meta']['seed'] == 0
    progress = job.run.read('progress.json')
    assert (progress['epoch'], progress['epochs']) == (2, 2)
    assert progress['entries'][-1]['seconds'] == record['seconds'] > progress['entries'][0]['seconds'] > 0
    # a warm-up by iterations lasts a tenth of the run at most, and what was run can be run again by hand
    assert 'end=1,' in (job.run.folder / 'config.py').read_text()
    assert 'end=6,' in (job.run.folder / 'job' / 'config.py').read_text()


def test_killed_worker_resumes_at_the_epoch_after_its_last(make_job, tmp_path, repo, own_process_state):
    (tmp_path / 'killer.py').write_text(KILLER)
    job = make_job()
    path = os.pathsep.join([str(repo / 'projects'), str(tmp_path)])
    text = job.config + "\ncustom_imports['imports'].append('killer')\ncustom_hooks = [dict(type='Die')]\n"
    job = Job(**{**vars(job), 'config': text})
    outcome = RunProcess(job, {**os.environ, 'PYTHONPATH': path}).wait()
    assert outcome.error == 'killed by SIGKILL, as the system does when memory runs out', job.run.log.read_text()[
        -3000:
    ]
    assert job.run.state(job.config_hash, 2).text == 'resumes at epoch 2 of 2, failed before'
    first = job.run.read('progress.json')
    assert first['epoch'] == 1 and job.run.read('run.json') is None

    sys.path.insert(0, str(tmp_path))
    try:
        worker.main([str(job.write())])
    finally:
        sys.path.remove(str(tmp_path))
    record = job.run.read('run.json')
    assert record['attempts'] == 2 and job.run.read('failed.json') is None
    progress = job.run.read('progress.json')
    assert progress['entries'][0] == first['entries'][0]  # the first epoch's time is the first attempt's
    assert record['seconds'] > first['entries'][0]['seconds']
    resumed = load_checkpoint(job.run.folder / 'epoch_2.pth')
    assert resumed['meta']['iter'] == 4

    forget_runs()  # as another process would not have known the first runner
    whole = replace(make_job(), run=replace(job.run, experiment='whole'))
    worker.main([str(whole.write())])
    assert whole.run.read('run.json')['metrics'] == record['metrics']
    uninterrupted = load_checkpoint(whole.run.folder / 'epoch_2.pth')['state_dict']
    assert all(torch.equal(weight, resumed['state_dict'][name]) for name, weight in uninterrupted.items())


def test_trained_run_is_only_tested(make_job, own_process_state, monkeypatch):
    job = make_job(keep_checkpoints=True)
    test = worker.build_runner

    def cut(cfg):
        runner = test(cfg)
        runner.test = lambda: os.abort_now()  # ends it between training and test
        return runner

    monkeypatch.setattr(worker, 'build_runner', cut)
    with pytest.raises(AttributeError):
        worker.main([str(job.write())])
    assert (job.run.folder / 'job' / 'error.txt').read_text().startswith('AttributeError: module')
    assert job.run.state(job.config_hash, 2).kind == 'trained'
    before = {path.name: path.stat().st_mtime_ns for path in job.run.folder.glob('*.pth')}
    assert sorted(before) == ['epoch_1.pth', 'epoch_2.pth']  # all, as asked for
    seconds = job.run.read('progress.json')['entries'][-1]['seconds']

    forget_runs()  # as another process would not have known the first runner
    monkeypatch.setattr(worker, 'build_runner', test)
    worker.main([str(job.write())])
    record = job.run.read('run.json')
    assert record['seconds'] == seconds and record['attempts'] == 2 and len(record['history']) == 1
    assert {path.name: path.stat().st_mtime_ns for path in job.run.folder.glob('*.pth')} == before


def test_users_mistake_is_told_without_a_traceback(make_job, own_process_state, capfd):
    job = make_job(**{'train_dataloader.dataset.ann_file': 'none.json'})
    with pytest.raises(SystemExit) as stop:
        worker.main([str(job.write())])
    assert stop.value.code == 2 and 'none.json' in (job.run.folder / 'job' / 'error.txt').read_text()
    with pytest.raises(SystemExit):
        worker.main([str(job.run.folder / 'job' / 'other.json')])
    assert "error: job '" in capfd.readouterr().err


def test_two_processes_leave_one_record(make_job):
    job = make_job(gpus=2)
    env = {**os.environ, 'PYTHONPATH': process.python_path(), 'OMP_NUM_THREADS': '1'}
    outcome = RunProcess(job, env).wait()
    assert outcome.kind == 'finished', job.run.log.read_text()[-3000:]
    record = job.run.read('run.json')
    assert record['environment']['processes'] == 2
    assert load_checkpoint(job.run.folder / 'epoch_2.pth')['meta']['iter'] == 2  # four images, two by two, two epochs


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended_command_ends_its_runs_and_loses_nothing(command, fake_worker, tmp_path, capsys, monkeypatch, number):
    before = signal.signal(number, signal.SIG_DFL)  # as a terminal's shell leaves it
    fake_worker(f"os.kill(os.getppid(), {int(number)}) if job['row'] == 'wide' else None; time.sleep(60)")
    try:
        assert command('--jobs', '2', '--seeds', '2') == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    said = capsys.readouterr().out
    assert said.count('starts') == 2 and 'Ending 2 runs' in said and '0 of 4 runs finished' in said
    for row in ('plain', 'wide'):
        run = Run('tiny', 'table1', 'own', row, 0, tmp_path / 'work')
        assert run.lock().holder() is None  # the child, which would hold it, is gone
        assert run.read('failed.json') is None and run.read('run.json') is None
    fake_worker(FINISH)
    assert command('--jobs', '2') == 0 and result(tmp_path)['attempts'] == 2


def test_loop_by_iteration_keeps_time_and_resumes(papers, tmp_path, own_process_state):
    from mmscale.reproduce import spec
    from mmscale.reproduce.config import Settings

    (item,) = train.plan([spec.load_paper(papers / 'tiny' / 'tables.yml').tables['table2']], None, Settings(epochs=3))
    run = Run('tiny', 'table2', 'exp', 'steps', 0, tmp_path / 'work')
    (job,) = train.make_jobs([(run, item)], 0, Settings(epochs=3), False)
    worker.main([str(job.write())])  # three epochs of two steps
    record, progress = run.read('run.json'), run.read('progress.json')
    assert [(entry['epoch'], entry['iter']) for entry in progress['entries']] == [(2, 4), (3, 6)]
    assert [entry['epoch'] for entry in record['history']] == [2, 3] and progress['epochs'] == 3
    assert record['seconds'] == progress['entries'][-1]['seconds'] > progress['entries'][0]['seconds'] > 0
    assert [path.name for path in run.folder.glob('*.pth')] == ['iter_6.pth']
    assert run.state(job.config_hash, job.epochs).kind == 'finished'


def test_rows_of_another_kind_are_passed_over_where_several_tables_are_trained(capsys):
    detection, masks = find('fine/table6') + find('fine/table7-instance')
    items = train.plan([detection, masks], None, Settings(dataset='bccd'))
    assert [item.row.name for item in items] == ['dwconv', 'max', 'avg']
    assert capsys.readouterr().out.count('passed over: ') == 2
    with pytest.raises(UsageError, match="of masks, and the data layer 'bccd'"):
        train.plan([masks], None, Settings(dataset='bccd'))
