"""Where runs lie, what state they are in, and who holds them."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mmscale.reproduce import runs
from mmscale.reproduce.lock import RunLock
from mmscale.reproduce.runs import Run, differences


def leave(run: Run, /, epochs: int = 0, config_hash: str = 'a', **files) -> Run:
    """Leave checkpoints of so many epochs, what was asked for, and any JSON files."""
    (run.folder / 'job').mkdir(parents=True)
    (run.folder / 'job' / 'job.json').write_text(json.dumps(dict(config_hash=config_hash)))
    for epoch in range(1, epochs + 1):
        torch.save({}, run.folder / f'epoch_{epoch}.pth')
        (run.folder / 'last_checkpoint').write_text(f'/elsewhere/epoch_{epoch}.pth')
    for name, content in files.items():
        (run.folder / f'{name}.json').write_text(json.dumps(content))
    return run


@pytest.mark.parametrize(
    'left, kind, text',
    [
        (dict(), 'new', 'new'),
        (dict(failed={}), 'new', 'new, failed before'),
        (dict(config_hash='b'), 'new', 'new'),  # nothing was trained yet
        (dict(epochs=2), 'cut', 'resumes at epoch 3 of 3'),
        (dict(epochs=1, failed={}), 'cut', 'resumes at epoch 2 of 3, failed before'),
        (dict(epochs=2, config_hash='b'), 'stale', "cut after epoch_2.pth, and the row's config has changed since"),
        (dict(epochs=3), 'trained', 'trained, only the test is missing'),
        (dict(epochs=3, run=dict(config_hash='a')), 'finished', 'finished'),
        (dict(epochs=3, run=dict(config_hash='b')), 'stale', "finished, but the row's config has changed since"),
    ],
)
def test_state(tmp_path, left, kind, text):
    run = leave(Run('tiny', 'table1', 'exp', 'plain', 0, tmp_path), **left)
    assert run.state('a', 3) == runs.State(kind, text)


def test_state_of_nothing_and_of_a_half_written_checkpoint(tmp_path):
    assert Run('tiny', 'table1', 'exp', 'plain', 0, tmp_path).state('a', 3).kind == 'new'
    run = leave(Run('tiny', 'table1', 'exp', 'plain', 1, tmp_path), epochs=2)
    whole = (run.folder / 'epoch_2.pth').read_bytes()
    (run.folder / 'epoch_2.pth').write_bytes(whole[:-30])
    assert run.state('a', 3).text == 'resumes at epoch 2 of 3'


def test_loads_runs_in_the_tables_order(table, write_run, tmp_path):
    for row, seed in (('gone', 0), ('wide', 10), ('wide', 2), ('plain', 1)):
        write_run(row, seed)
    (tmp_path / 'work/tiny/table1/exp/plain/seed1x').mkdir()
    (tmp_path / 'work/tiny/table1/exp/plain/seed1x/run.json').write_text('{}')
    write_run('plain', 0, experiment='other')
    found = runs.load_runs(table, 'exp', tmp_path / 'work')
    assert [(run['row'], run['seed']) for run in found] == [('plain', 1), ('wide', 2), ('wide', 10), ('gone', 0)]
    assert runs.load_runs(table, 'none', tmp_path / 'work') == []
    assert runs.load_failures(table, 'exp', tmp_path / 'work') == []


def test_experiments(table, write_run, tmp_path):
    assert runs.experiments(table, tmp_path / 'work') == []
    for name in ('b', 'a', 'begun-by-hand'):
        run = write_run('plain', 0, experiment=name)
        if name != 'begun-by-hand':
            (run.folder.parents[1] / 'experiment.json').write_text('{"seeds": 3}')
    assert runs.experiments(table, tmp_path / 'work') == ['a', 'b']
    assert runs.load_experiment(table, 'a', tmp_path / 'work') == dict(seeds=3)
    assert runs.load_experiment(table, 'c', tmp_path / 'work') is None


@pytest.mark.parametrize('content', ['{"row": ', '[1]', ''])
def test_damaged_file_is_named(write_run, content):
    run = write_run('plain', 0)
    (run.folder / 'run.json').write_text(content)
    with pytest.raises(ValueError, match=r"seed0/run.json' is damaged") as caught:
        run.read('run.json')
    assert caught.value.__context__ is None  # or the command would tell the inner error


def test_names():
    def settings(**given):
        return SimpleNamespace(**{**dict(dataset=None, epochs=None, from_scratch=False), **given})

    assert runs.default_name(settings()) == 'own'
    assert runs.default_name(settings(from_scratch=True, epochs=3)) == 'own-3e-scratch'
    assert runs.default_name(settings(dataset='bccd', epochs=12)) == 'bccd-12e'
    with pytest.raises(ValueError, match="--name '../up'"):
        runs.check_name('../up')


def test_differences_know_that_json_has_no_tuples():
    now = dict(image_scale=(640, 480), epochs=12, cfg_options={})
    assert differences(json.loads(json.dumps(now)), now) == []
    told = differences(dict(image_scale=[320, 240], epochs=12, gone=1), now)
    assert told == [
        'image_scale was [320, 240] and is [640, 480]',
        'gone was 1 and is None',
        'cfg_options was None and is {}',
    ]


def test_discard_leaves_the_lock(tmp_path):
    run = leave(Run('tiny', 'table1', 'exp', 'plain', 0, tmp_path), epochs=1, run={}, failed={})
    assert run.lock().acquire()
    run.discard()
    assert [path.name for path in run.folder.iterdir()] == ['run.lock']


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])  # the module's own folder: the lock needs nothing of the package
from lock import RunLock
lock = RunLock(sys.argv[2])
print(lock.acquire(), flush=True)
time.sleep(60)
"""


def test_lock_goes_with_its_holder(tmp_path):
    lock, again = RunLock(tmp_path / 'a' / 'run.lock'), RunLock(tmp_path / 'a' / 'run.lock')
    assert lock.holder() is None and not (tmp_path / 'a').exists()
    assert lock.acquire() and not again.acquire()
    assert again.holder().startswith(f'process {os.getpid()} on ')
    lock.release()
    lock.release()
    folder = os.path.dirname(runs.__file__)
    other = subprocess.Popen([sys.executable, '-c', HOLD, folder, str(lock.path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'True\n'
    assert not lock.acquire() and f'process {other.pid} on ' in lock.holder()
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock.holder() is None and lock.acquire()
    lock.release()


def test_child_keeps_the_lock(tmp_path):
    lock = RunLock(tmp_path / 'run.lock')
    assert lock.acquire()
    child = subprocess.Popen(['sleep', '60'], pass_fds=[lock.fd])
    lock.release()
    assert lock.holder() is not None and not lock.acquire()
    child.kill()
    child.wait()
    assert lock.acquire()
    lock.release()
