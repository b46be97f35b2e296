"""Testing from the command line, and the checkpoints that it refuses."""
import pickle
import re

import pytest
import torch

from mmscale.engine.checkpoint import compare, load_checkpoint
from mmscale.engine.test import build_parser, main, prepare
from mmscale.engine.test import test as run_test
from mmscale.engine.train import main as train

from .conftest import fill_config


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes):
    """A checkpoint of the tiny detector as mmengine writes it: weights, optimizer, schedules, message hub."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'tiny.py').write_text(fill_config(shapes, extra="custom_hooks = [dict(type='EMAHook')]"))
    train([str(folder / 'tiny.py'), '--work-dir', str(folder / 'run'), '--cfg-options', 'val_cfg=None',
           'val_dataloader=None', 'val_evaluator=None'])
    return folder / 'run' / 'epoch_1.pth'


def refused(argv, capfd) -> str:
    """Run testing, expect it to refuse, and return the one line that it says."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith('error: ')
    return line


def test_evaluates_dumps_and_draws(write_config, tmp_path, trained):
    args = build_parser().parse_args([write_config(), str(trained), '--work-dir', str(tmp_path / 'run'), '--show-dir',
                                      'drawn', '--out', str(tmp_path / 'new' / 'out.pkl')])
    metrics = run_test(prepare(args), args.out)
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    predictions = pickle.loads((tmp_path / 'new' / 'out.pkl').read_bytes())
    assert sorted(prediction['img_id'] for prediction in predictions) == list(range(8))
    assert len(list((tmp_path / 'run').glob('*/drawn/*.png'))) == 8


def test_tta_without_its_own_config(write_config, tmp_path, trained, capsys):
    main([write_config(), str(trained), '--work-dir', str(tmp_path / 'run'), '--tta'])
    said = capsys.readouterr().out
    assert 'no tta_model' in said and 'no tta_pipeline' in said and 'bbox_mAP' in said


def test_checkpoint_of_another_model(write_config, tmp_path, trained, capfd):
    wider = ['--cfg-options', 'model.bbox_head.stacked_convs=2', 'model.bbox_head.num_classes=3']
    line = refused([write_config(), trained, '--work-dir', tmp_path / 'run', *wider], capfd)
    assert 'belongs to another model' in line and '--allow-partial' in line
    # one convolution with its group norm more in two towers, and one class more
    assert '6 weights missing (bbox_head.cls_convs.1.conv.weight, bbox_head.cls_convs.1.gn.weight, ' in line
    assert '2 weights mismatched (bbox_head.conv_cls.weight [2, 16, 3, 3] instead of [3, 16, 3, 3], ' in line


def test_checkpoint_of_a_larger_model(write_config, tmp_path, trained, capfd):
    checkpoint = load_checkpoint(trained)
    checkpoint['state_dict']['neck.fine.alpha'] = checkpoint['state_dict']['fine.beta'] = torch.zeros(1)
    checkpoint.pop('ema_state_dict')
    torch.save(checkpoint, tmp_path / 'larger.pth')
    arguments = [write_config(), str(tmp_path / 'larger.pth'), '--work-dir', str(tmp_path / 'run')]
    assert '2 weights unexpected (fine.beta, neck.fine.alpha)' in refused(arguments, capfd)
    main([*arguments, '--allow-partial'])
    assert '--allow-partial: 2 weights unexpected' in capfd.readouterr().out


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'text', 'payload'])
def test_damaged_checkpoints(write_config, tmp_path, trained, capfd, damage):
    path, pwned = tmp_path / 'bad.pth', tmp_path / 'pwned'

    class Payload:
        def __reduce__(self):
            return open, (str(pwned), 'w')

    if damage == 'payload':
        torch.save(dict(load_checkpoint(trained), more=Payload()), path)
    else:
        whole = trained.read_bytes()
        path.write_bytes({'truncated': whole[:len(whole) // 2], 'empty': b'', 'text': b'not a checkpoint\n'}[damage])
    line = refused([write_config(), path, '--work-dir', tmp_path / 'run'], capfd)
    words = dict(truncated='is empty or half-written', empty='is empty or half-written', text='no checkpoint',
                 payload="is refused: it holds '")[damage]
    assert f"checkpoint '{path}'" in line and words in line
    assert not re.search(r'\(\d+\)', line), "the unpickler's own key says nothing"
    assert not pwned.exists()


@pytest.mark.parametrize('content, words', [
    ([torch.zeros(1)], "holds a list; it should be a dict with a 'state_dict' of tensors"),
    (dict(state_dict=None), "has a NoneType as its 'state_dict'; it should be a dict of tensors"),
    (dict(state_dict=dict(weight='heavy')), "has 'weight' of type str among its weights; they should be tensors"),
    ({1: torch.zeros(1)}, 'has 1 of type Tensor among its weights'),
])
def test_file_that_is_no_checkpoint(write_config, tmp_path, capfd, content, words):
    torch.save(content, tmp_path / 'odd.pth')
    assert f"odd.pth' {words}" in refused([write_config(), tmp_path / 'odd.pth'], capfd)


def test_what_breaks_the_unpickler_is_told(tmp_path):
    class Breaks:
        def __reduce__(self):
            return torch.Size, (5,)  # a TypeError inside the unpickler

    torch.save(dict(meta=Breaks()), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match="odd.pth' cannot be read, it is damaged or no checkpoint"):
        load_checkpoint(tmp_path / 'odd.pth')


def test_other_mistakes(write_config, tmp_path, capfd):
    assert refused([write_config(), 'none.pth'], capfd) == "error: checkpoint 'none.pth' does not exist"
    assert "--out 'a.json' should end in .pkl" in refused([write_config(), 'none.pth', '--out', 'a.json'], capfd)
    assert 'nothing to test' in refused([write_config(), 'x.pth', '--cfg-options', 'test_cfg=None'], capfd)


def test_compare_strips_wrappers_and_counters():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    state = {f'module.{name}': value for name, value in model.state_dict().items() if 'num_batches' not in name}
    assert not compare(model, dict(state_dict=state))
    state.pop('module.0.bias')
    assert compare(model, dict(state_dict=state)).missing == ['0.bias']
