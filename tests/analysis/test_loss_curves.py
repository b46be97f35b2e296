"""Losses of trainings: logs that were cut and resumed, curves computed by hand, and the command line."""

import csv
import json
import math
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmscale.analysis.loss_curves import crossing, lr_drops, smooth
from mmscale.analysis.loss_curves_command import main, name_runs, runs_of
from mmscale.analysis.training_log import log_files, read_training_log
from mmscale.engine.train import main as train
from tests.engine.conftest import draw_images, fill_config, own_process_state  # noqa: F401 (a fixture)
from tests.trainings import forget_runs

LENGTH = 4  # iterations of an epoch, in logs that are written here


def write_part(work_dir, losses, start=0, stamp=0, tail='', facts=True, batch=4, loop='', by_epoch=True, **values):
    """What a training by epochs of 4 iterations writes: losses of consecutive iterations, a validation after each."""
    folder = Path(work_dir) / f'20260101_00000{stamp}'
    (folder / 'vis_data').mkdir(parents=True)
    lines = []
    for index, loss in enumerate(losses, start + 1):
        line = dict(loss=loss, lr=0.1, time=0.5, iter=index, step=index)
        line.update({key: value(index) if callable(value) else value for key, value in values.items()})
        if by_epoch:
            line['epoch'] = math.ceil(index / LENGTH)
        lines.append(json.dumps(line))
        if by_epoch and index % LENGTH == 0:
            lines.append(json.dumps({'coco/AP': stamp + index / 100, 'time': 0.1, 'step': index // LENGTH}))
    text = '\n'.join(lines) + '\n' + tail
    (folder / 'vis_data' / 'scalars.json').write_text(text)
    if facts:
        epoch, inner = start // LENGTH + 1, start % LENGTH + 1
        log = f'    GPU number: 2\n... Epoch(train)  [{epoch}][{inner}/{LENGTH}]  lr: 1.0000e-01\n'
        (folder / f'{folder.name}.log').write_text(log)
        config = f"train_dataloader = dict(batch_size={batch}, dataset=dict(type='X'))\ntrain_cfg = dict({loop})\n"
        (folder / 'vis_data' / 'config.py').write_text(config)
    return folder / 'vis_data' / 'scalars.json'


def positions(records) -> list[float]:
    return [record.position for record in records]


def run(capsys, *argv) -> str:
    main([str(argument) for argument in argv])
    return capsys.readouterr().out


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith('error: ') and '\n' not in line
    return line


def cells(out: str, first: str) -> list[str]:
    """The cells of a table's row, of all tables behind one another."""
    rows = [line for line in out.splitlines() if line.startswith(f'| {first} ')]
    return [cell.strip() for row in rows for cell in row.strip('|').split('|')[1:]]


def test_moving_average_by_hand():
    x, y = np.arange(6) / 2, np.array([6.0, 3.0, 0.0, 9.0, 3.0, 3.0])
    # half a width is 0.5: one neighbour on either side, and at the ends what there is
    np.testing.assert_allclose(smooth(x, y, 1.0), [4.5, 3, 4, 4, 5, 3])
    np.testing.assert_array_equal(smooth(x, y, 0.9), y)
    np.testing.assert_allclose(smooth(x, np.full(6, 7.0), 100), 7)  # nothing is padded
    line = 10 - 3 * np.linspace(0, 10, 101)
    np.testing.assert_allclose(smooth(np.linspace(0, 10, 101), line, 1)[5:-5], line[5:-5])  # no lag
    gap = smooth(x, np.array([6.0, np.nan, 0.0, np.inf, 3.0, 5.0]), 1.0)
    np.testing.assert_allclose(gap, [6, np.nan, 0, np.nan, 4, 4])
    assert smooth(x, np.array([1e30, 3, 3, 3, 3, 3]), 0.1)[5] == 3
    assert smooth(x, np.array([1e30, 3, 3, 1, 3, 3]), 1)[4] == pytest.approx(7 / 3)
    for width in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f'smoothing is {width:g} and should be above 0'):
            smooth(x, y, width)


def test_crossing_by_hand():
    x = np.array([1.0, 2.0, 4.0, 5.0, 6.0])
    y = np.array([8.0, 6.0, 2.0, 7.0, 1.0])
    assert crossing(x, y, 5.0) == 2.5  # a quarter of the way from 6 to 2; that it rises again does not matter
    assert crossing(x, y, 2.0) == 4 and crossing(x, y, 1.5) == pytest.approx(5 + 5.5 / 6)
    assert crossing(x, y, 8.0) == 1 and crossing(x, y, 20.0) == 1 and crossing(x, y, 0.5) is None
    assert crossing(x, -y, -5.0, falling=False) == 2.5
    assert crossing(x, np.array([8.0, np.nan, 2.0, 1.0, 1.0]), 5.0) == 4  # no line over what is not known


def test_resumed_run_is_one_curve(tmp_path):
    # Killed in epoch 3 after iteration 10, checkpoint of epoch 2; killed again in epoch 4, checkpoint of epoch 3.
    write_part(tmp_path, [9, 8, 7, 6, 5, 4, 3, 2, 100, 100], tail='{"loss": 100, "lr": 0.1, "ti')
    second = write_part(tmp_path, [1.9, 1.8, 1.7, 1.6, 200], start=8, stamp=1)
    third = write_part(tmp_path, [1.5, 1.4], start=12, stamp=2)
    test = tmp_path / '20260101_000003' / 'vis_data'  # tools/test.py leaves a config and no scalars
    test.mkdir(parents=True)
    (test / 'config.py').write_text('')
    log = read_training_log(tmp_path)
    assert positions(log.train) == [index / 4 for index in range(1, 15)]
    assert [r.values['loss'] for r in log.train] == [9, 8, 7, 6, 5, 4, 3, 2, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4]
    assert positions(log.val) == [1, 2, 3] and [r.values['coco/AP'] for r in log.val] == [0.04, 0.08, 1.12]
    assert log.by_epoch and log.batch_size == 8
    hours = log.coordinate(log.train, 'time')
    np.testing.assert_allclose(hours * 3600, 0.5 * np.arange(1, 15))
    np.testing.assert_allclose(log.coordinate(log.val, 'time') * 3600, [2, 4, 6])
    np.testing.assert_allclose(log.coordinate(log.val, 'iter'), [4, 8, 12])
    cut, *joined = log.notes
    assert '20260101_000000' in cut and 'line 13 of 13 is cut short and left out, as a killed run' in cut
    assert joined == [
        f"'{second}' goes on at epoch 2.25, 2 lines of training before it are repeated or lost",
        f"'{third}' goes on at epoch 3.25, 1 lines of training before it are repeated or lost",
    ]


def test_run_that_begins_anew_replaces_the_older(tmp_path):
    write_part(tmp_path, [9, 8, 7, 6, 5, 4])
    write_part(tmp_path, [5, 4], stamp=1)
    log = read_training_log(tmp_path)
    assert [r.values['loss'] for r in log.train] == [5, 4] and not log.val
    assert 'begins anew: 6 older lines' in log.notes[0]
    assert len(read_training_log(tmp_path / '20260101_000000').train) == 6  # each part can still be asked for


def test_epochs_that_a_resume_made_longer(tmp_path):
    # From 2 GPUs to 1 after epoch 1: mmengine counts its iterations on, and an epoch now has 8 of them.
    write_part(tmp_path, [9, 8, 7, 6, 5, 4])
    file = write_part(tmp_path, [3, 2, 1, 1, 1], start=4, stamp=1)
    lines = [dict(json.loads(line), epoch=2) for line in file.read_text().splitlines() if 'iter' in line]
    lines.append({'coco/AP': 0.5, 'step': 2})
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (tmp_path / '20260101_000001' / '20260101_000001.log').write_text('GPU number: 1\nEpoch(train) [2][1/8]\n')
    log = read_training_log(tmp_path)
    assert positions(log.train) == [0.25, 0.5, 0.75, 1, 1.125, 1.25, 1.375, 1.5, 1.625]
    assert [record.iteration for record in log.train] == list(range(1, 10))
    assert log.batch_size == 4
    # 4 iterations of epoch 1, then 5 more, of half a second
    assert log.coordinate(log.train, 'time')[-1] * 3600 == pytest.approx(4.5)
    assert (positions(log.val), log.val[-1].iteration) == ([1, 2], 12)


def test_length_of_epochs_without_the_text_log(tmp_path):
    # every 3rd of 4 iterations, as LoggerHook(interval=3) writes
    values = [dict(loss=1.0, iter=i, epoch=e) for e, i in ((1, 3), (2, 7), (3, 11))]
    (tmp_path / 'scalars.json').write_text('\n'.join(map(json.dumps, values)))
    assert positions(read_training_log(tmp_path).train) == [0.75, 1.75, 2.75]
    assert read_training_log(tmp_path / 'scalars.json').batch_size is None


@pytest.mark.parametrize('by_epoch, loop, step', [(False, '', 6), (True, "type='IterBasedTrainLoop'", 0)])
def test_run_by_iteration(tmp_path, by_epoch, loop, step):
    # the second: its logger counts epochs and finds 1, or the validations' epoch 0
    file = write_part(tmp_path, [6, 5, 4, 3, 2, 1], loop=loop, by_epoch=by_epoch)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [line for line in lines if 'iter' in line] + [{'coco/AP': 0.5, 'step': step}]
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    log = read_training_log(tmp_path)
    assert not log.by_epoch and positions(log.train) == [1, 2, 3, 4, 5, 6] and positions(log.val) == [6]
    assert log.coordinate(log.train, 'time')[-1] * 3600 == 3
    with pytest.raises(ValueError, match="counts iterations: it has no axis 'epoch'"):
        log.coordinate(log.train, 'epoch')


def test_hierarchy_of_names(tmp_path):
    line = {'train/loss': 3.0, 'train/lr': 0.1, 'train/time': 1.0, 'iter': 4, 'epoch': 1, 'step': 4}
    (tmp_path / 'scalars.json').write_text(json.dumps(line) + '\n' + '{"val/coco/AP": 0.3, "step": 1}\n')
    log = read_training_log(tmp_path)
    assert log.keys('train') == ['epoch', 'iter', 'loss', 'lr', 'step', 'time'] and 'coco/AP' in log.keys('val')


def test_steps_of_the_learning_rate(tmp_path):
    def rate(index):  # a warm-up, a plateau, a step after 2 epochs, one after 3.5, and a last line far below
        return 0.1 * min(index / 3, 1) if index <= 8 else 0.01 if index <= 14 else 0.005

    write_part(tmp_path / 'steps', [1.0] * 18, lr=rate)
    found = [(drop.position, round(drop.factor, 9)) for drop in lr_drops(read_training_log(tmp_path / 'steps'))]
    assert found == [(2.0, 0.1), (3.5, 0.5)]
    write_part(tmp_path / 'cosine', [1.0] * 20, lr=lambda index: 0.5 + 0.5001 * math.cos(math.pi * index / 20))
    assert lr_drops(read_training_log(tmp_path / 'cosine')) == []


def test_table_by_hand(tmp_path, capsys):
    write_part(tmp_path / 'base', [10.0, 8, 6, 4, 4, 4, 3, 2])
    write_part(tmp_path / 'fast', [9.0, 5, 3, 2, 1, 1, 1, 1])
    write_part(tmp_path / 'slow', [10.0, 9, 8, 7, 6, 5, 4, 3])
    work_dirs = [tmp_path / name for name in ('base', 'fast', 'slow')]
    out = run(capsys, *work_dirs, '--smooth', 0.001)
    # Levels: 10 - 0.9 * 8 = 2.8 and 2. base comes to 2.8 at 1.75 + 0.2 / 4; fast at 0.75 + 0.2 / 4.
    assert cells(out, 'base') == ['1', '2.00', '10', '2', '1.000', '2', '1.000', '2.00'] + ['1.80', '1.000',
                                                                                           '2.00', '1.000']  # fmt: skip
    assert cells(out, 'fast') == [
        '1',
        '2.00',
        '9',
        '1',
        '0.500',
        '1',
        '0.500',
        '1.25',
        '0.80',
        '0.444',
        '1.00',
        '0.500',
    ]
    assert cells(out, 'slow')[3:5] + cells(out, 'slow')[-4:] == ['3', '1.500'] + ['not reached', '-'] * 2
    assert 'warning' not in out and 'note' not in out

    # one epoch: two lines on either side. The last values: (4 + 3 + 2) / 3 = 3, and 1
    out = run(capsys, *work_dirs[:2], '--reach', 6, 20, '--x', 'iter')
    assert cells(out, 'base')[1:5] == ['8', '10', '3', '1.000'] and cells(out, 'fast')[3:5] == ['1', '0.333']
    # smoothed base: 8, 7, 6.4 (of 10 8 6 4 4), 5.2; so 6 lies at 3 + 0.4 / 1.2 iterations
    assert cells(out, 'base')[-4:] == ['3', '1.000', '<= 1', '1.000']


def test_seeds_of_one_model(tmp_path, capsys):
    write_part(tmp_path / 'base' / 'seed0', [8.0, 6, 4, 2])
    write_part(tmp_path / 'base' / 'seed1', [8.0, 4, 2, 0])
    for seed, losses in enumerate(([8.0, 2, 1, 0], [8.0, 6, 6, 5, 5])):
        write_part(tmp_path / f'new_s{seed}', losses)
    out = run(capsys, tmp_path / 'base', f'new={tmp_path}/new_s*', '--smooth', 0.01, '--reach', 4, '--out', tmp_path)
    # final 2 and 0; level 4 after 3 and 2 iterations of 4
    assert cells(out, 'base') == [
        '2',
        '1.00',
        '8',
        '1 ± 1.4',
        '1.000',
        '1 ± 1.4',
        '1.000',
        '1.00',
        '0.62 ± 0.18',
        '1.000',
    ]
    # 4 is 2 thirds of the way from 8 to 2, so reached after 1.667 iterations of 4, by one run
    assert cells(out, 'new')[-2:] == ['0.42 (1 of 2 runs)', '-']
    assert "warning: the runs of 'new' end at 1.00 to 1.25 epochs" in out
    report = json.loads((tmp_path / 'loss.json').read_text())
    assert [model['label'] for model in report['models']] == ['base', 'new']
    assert report['models'][1]['reached'] == [dict(level=4.0, at=[pytest.approx(5 / 12), None])]
    rows = list(csv.DictReader((tmp_path / 'loss.csv').open()))
    assert len(rows) == 4 * 3 + 5 and rows[4]['model'] == 'base' and rows[4]['run'].endswith('seed1')
    assert (rows[-1]['epoch'], rows[-1]['iteration'], rows[-1]['value']) == ('1.25', '5', '5')
    assert cv2.imread(str(tmp_path / 'loss.png')).std() > 5

    again = run(capsys, '--group', 'base', tmp_path / 'base/seed0', tmp_path / 'base/seed1',
                '--group', 'new', tmp_path / 'new_s0', tmp_path / 'new_s1', '--smooth', 0.01, '--reach', 4)  # fmt: skip
    assert again == out.split('\nwritten')[0]


def test_names_of_runs(tmp_path):
    for name in ('a/ssd/seed0', 'a/ssd/seed10', 'a/ssd/seed9', 'b/ssd', 'lr=1'):
        write_part(tmp_path / name, [1.0])
    (tmp_path / 'a' / 'ssd' / 'seed11').mkdir()  # not begun
    runs = runs_of([f'{tmp_path}/a/ssd/', f'{tmp_path}/b/ssd', f'{tmp_path}/lr=1'])
    named = {label: [path.name for path in paths] for label, paths in name_runs(runs).items()}
    assert named == {'a/ssd': ['seed0', 'seed9', 'seed10'], 'b/ssd': ['ssd'], 'lr=1': ['lr=1']}


def test_not_finite_values_are_told(tmp_path, capsys):
    write_part(tmp_path / 'ok', [4.0, 3, 2, 1])
    write_part(tmp_path / 'gone', [4.0, math.inf, 2, math.nan])  # written as Infinity and NaN
    out = run(capsys, tmp_path / 'ok', tmp_path / 'gone', '--smooth', 0.01, '--reach', 3, '--out', tmp_path / 'out')
    assert cells(out, 'gone') == ['1', '1.00', '4', 'nan', 'nan', '2', '2.000', '0.75', '0.75', '1.500']
    assert "gone': 2 of 4 values are not finite, the first at 0.50 epochs, the last one too" in out
    assert json.loads((tmp_path / 'out/loss.json').read_text())['models'][1]['final'] == [None]
    assert [row['value'] for row in csv.DictReader((tmp_path / 'out/loss.csv').open())][-4:] == ['4', 'inf', '2', '']
    assert 'until the smoothed' not in run(capsys, tmp_path / 'gone')  # no level to be derived


def test_metrics_of_validations_rise(tmp_path, capsys):
    write_part(tmp_path / 'one', [1.0] * 12)  # AP 0.04, 0.08, 0.12
    out = run(capsys, tmp_path / 'one', '--key', 'coco/AP', '--reach', 0.1, '--out', tmp_path / 'out')
    assert cells(out, 'one') == ['1', '3.00', '0.04', '0.12', '1.000', '0.12', '1.000', '3.00', '2.50', '1.000']
    assert 'first at or above' in out and (tmp_path / 'out' / 'coco_AP.png').is_file()
    assert cells(run(capsys, tmp_path / 'one', '--key', 'val/time'), 'one')[3] == '0.1'
    assert cells(run(capsys, tmp_path / 'one', '--key', 'time'), 'one')[3] == '0.5'


def test_what_is_not_comparable_is_told(tmp_path, capsys):
    write_part(tmp_path / 'a', [2.0, 1], loss_cls=1.0, loss_bbox=1.0)
    write_part(tmp_path / 'b', [2.0, 1], loss_cls=1.0, batch=8)
    out = run(capsys, tmp_path / 'a', tmp_path / 'b')
    assert 'batches of different sizes (a: 8, b: 16)' in out
    assert 'sums of different terms (beyond the common ones, a: loss_bbox, b: none)' in out
    assert 'terms' not in run(capsys, tmp_path / 'a', tmp_path / 'b', '--key', 'loss_cls')


def test_users_mistakes(tmp_path, capsys):
    write_part(tmp_path / 'run', [2.0, 1])
    write_part(tmp_path / 'empty', [], stamp=1)
    (tmp_path / 'none').mkdir()
    (tmp_path / 'text.txt').write_text('Epoch 1: 3.5\n')
    path = tmp_path / 'run'
    line = refused(capsys, tmp_path / 'none')
    assert 'none/<timestamp>/vis_data/scalars.json' in line and 'seed<k>' in line
    assert 'has no line of training yet' in refused(capsys, tmp_path / 'empty')
    assert "text.txt' is no log of scalars: line 1 should be a JSON object" in refused(capsys, tmp_path / 'text.txt')
    assert 'does not exist' in refused(capsys, tmp_path / 'nowhere')
    assert "no run logs 'los': there is loss, lr, time" in refused(capsys, path, '--key', 'los')
    write_part(tmp_path / 'other', [2.0, 1], loss_x=1.0)
    line = refused(capsys, tmp_path / 'other', path, '--key', 'loss_x')
    assert f"'{path}' does not log 'loss_x', as other runs do: there is loss" in line
    assert '--smooth 0 should be above 0' in refused(capsys, path, '--smooth', 0)
    assert '--reach nan' in refused(capsys, path, '--reach', 'nan')
    assert 'given twice' in refused(capsys, path, f'x={path}')
    assert 'no work dir matches' in refused(capsys, f'x={tmp_path}/q*')
    assert 'no work dir is given' in refused(capsys)
    assert "--group 'x' should be a label and" in refused(capsys, '--group', 'x')
    assert 'is a file and should be a folder' in refused(capsys, path, '--out', tmp_path / 'text.txt')
    file = write_part(tmp_path / 'twice', [2.0, 1])
    file.write_text(file.read_text() * 2)  # trained in one process, whose visualizer keeps its first file
    assert 'holds several trainings: its iterations go from 2 back to 1' in refused(capsys, tmp_path / 'twice')
    write_part(tmp_path / 'zero', [2.0, 0])
    assert "--log needs values above 0, but '" in refused(capsys, tmp_path / 'zero', '--log', '--smooth', 0.01)
    write_part(tmp_path / 'nan', [math.nan] * 2)
    assert "none of its 2 values of 'loss' is finite" in refused(capsys, tmp_path / 'nan')


def test_real_run_killed_and_resumed(tmp_path, capsys):
    draw_images(tmp_path / 'data', number=8)
    config, work_dir = tmp_path / 'tiny.py', tmp_path / 'run'
    config.write_text(fill_config(tmp_path / 'data', epochs=2, extra="train_cfg['val_interval'] = 1"))
    train([str(config), '--work-dir', str(work_dir)])
    (first,) = log_files(work_dir)
    # As a kill in epoch 2 leaves it: a half line of iteration 7 of 8, no checkpoint of epoch 2.
    lines = first.read_text().splitlines()
    assert 'AP' in lines[4] and len(lines) == 10
    first.write_text('\n'.join([*lines[:7], lines[7][:40]]))
    (work_dir / 'epoch_2.pth').unlink()
    (work_dir / 'last_checkpoint').unlink()
    forget_runs()  # the runner's visualizer lives on in this process and would write to its old file
    train([str(config), '--work-dir', str(work_dir), '--resume', '--cfg-options', 'train_cfg.max_epochs=3'])
    first, second = log_files(work_dir)
    log = read_training_log(work_dir)
    assert positions(log.train) == [index / 4 for index in range(1, 13)] and positions(log.val) == [1, 2, 3]
    assert log.batch_size == 2
    wanted = [json.loads(line) for line in lines[:4]]
    wanted += [line for line in map(json.loads, second.read_text().splitlines()) if 'loss' in line]
    assert [record.values['loss'] for record in log.train] == [line['loss'] for line in wanted]
    assert [drop.position for drop in lr_drops(log)] == [2.0]  # milestones=[2]
    capsys.readouterr()
    out = run(capsys, work_dir, '--out', tmp_path / 'out')
    assert cells(out, 'run')[:2] == ['1', '3.00'] and 'steps of the learning rate (epochs): x0.1 at 2.00' in out
    assert 'is cut short and left out' in out and 'goes on at epoch 1.25, 2 lines of training' in out


def test_tool(repo, tmp_path, monkeypatch, capsys):
    write_part(tmp_path / 'one', [2.0, 1])
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr(sys, 'argv', ['plot_loss.py', str(tmp_path / 'one')])
    runpy.run_path(str(repo / 'tools' / 'analysis' / 'plot_loss.py'), run_name='__main__')
    assert '| one ' in capsys.readouterr().out
