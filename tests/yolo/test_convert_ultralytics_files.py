"""Files that the converter of official state dicts reads, and whatever it refuses."""

import os
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmscale.convert import checkpoint as checkpoint_files
from mmscale.convert.ultralytics.command import main

from .official import FIRST_RELEASE, LARGE, REPO, as_official, config_of, convert, options_of, random_images, refused
from .official_network import Network, randomise

pytest.importorskip('mmyolo', reason='the YOLOs stand on mmyolo, which is optional')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A state dict of a small YOLOv8, its file and the arguments after it that fit; tests only read."""
    folder = tmp_path_factory.mktemp('ultralytics')
    state = randomise(Network('YOLOv8', 'n', width=0.125, classes=5), as_official(random_images())).state_dict()
    torch.save(state, folder / 'in.pt')
    numbers = dict(width=0.125, classes=5)
    return state, folder / 'in.pt', config_of('YOLOv8', 'n'), options_of('YOLOv8', 'n', **numbers)


# The files


@pytest.mark.parametrize('kind', ['model', 'state_dict', 'ema', 'safetensors', 'module.', 'model.', 'half'])
def test_forms_of_files(kind, small, tmp_path):
    state, path, config, options = small
    convert(path, config, tmp_path / 'expected.pth', *options)
    expected = torch.load(tmp_path / 'expected.pth')['state_dict']
    source = tmp_path / 'in.pt'
    if kind == 'safetensors':
        source = tmp_path / 'in.safetensors'
        save_file(state, source)
    elif kind == 'half':
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        expected = {n: v.half().float() if v.is_floating_point() else v for n, v in expected.items()}
        torch.save(state, source)
    elif kind.endswith('.'):
        torch.save({f'{kind}{name}': value for name, value in state.items()}, source)
    else:
        other = {name: value + 1 for name, value in state.items()} if kind == 'ema' else None
        torch.save({'epoch': 3, 'model': other, kind: state}, source)
    convert(source, config, tmp_path / 'out.pth', *options)
    found = torch.load(tmp_path / 'out.pth')['state_dict']
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


class Payload:
    """Leaves a file behind if it is unpickled without protection."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_of_modules_are_not_opened(small, tmp_path, capsys):
    _, _, config, options = small
    source = tmp_path / 'yolov8n.pt'
    torch.save(dict(epoch=-1, model=Network('YOLOv8', 'n', width=0.125)), source)
    told = refused(capsys, source, config, tmp_path / 'out.pth', *options)
    assert f"is no state dict but a pickle of whole objects ('{Network.__module__}.Network')" in told
    assert f"torch.save(YOLO('{source}').model.float().state_dict(), 'yolov8n_state.pt')\"" in told
    torch.save(dict(model=Payload(tmp_path / 'touched')), source)
    assert 'without running foreign code' in refused(capsys, source, config, tmp_path / 'out.pth', *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['yolov8n.pt']


# Mistakes


def changed(small, tmp_path, change):
    state = {name: value.clone() for name, value in small[0].items()}
    change(state)
    torch.save(state, tmp_path / 'in.pt')
    return tmp_path / 'in.pt', small[2], tmp_path / 'out.pth', *small[3]


def test_what_is_missing_left_over_or_of_another_shape_is_listed(small, tmp_path, capsys):
    def change(state):
        for leaf in ('weight', 'running_var'):
            del state[f'model.9.cv2.bn.{leaf}']
        state['model.22.cv4.0.bias'] = torch.zeros(3)
        state['model.15.cv1.conv.weight'] = torch.zeros(32, 97, 1, 1)

    told = refused(capsys, *changed(small, tmp_path, change))
    assert 'YOLOv8 of no released scale (8 channels in layer 0, 2 blocks in layer 6) with 5 classes' in told
    assert '2 missing: model.9.cv2.bn.{running_var,weight}; ' in told
    assert '1 unused: model.22.cv4.0.bias; ' in told
    assert '1 of another shape: model.15.cv1.conv.weight (32, 97, 1, 1) instead of (32, 96, 1, 1)' in told
    assert not (tmp_path / 'out.pth').exists()


def test_every_single_tensor_is_needed(small, tmp_path, capsys):
    for name in list(small[0])[::23] + ['model.22.dfl.conv.weight', 'model.0.bn.num_batches_tracked']:
        told = refused(capsys, *changed(small, tmp_path, lambda state, name=name: state.pop(name)))
        assert f'1 missing: {name}\n' in told
    assert not (tmp_path / 'out.pth').exists()


def test_bins_that_are_not_0_to_15(small, tmp_path, capsys):
    told = refused(capsys, *changed(small, tmp_path, lambda state: state['model.22.dfl.conv.weight'].mul_(2)))
    assert "'model.22.dfl.conv.weight' should be 0 to 15" in told


def test_types_that_weights_do_not_have(small, tmp_path, capsys):
    def change(state):
        state['model.4.cv1.conv.weight'] = state['model.4.cv1.conv.weight'].to(torch.int8)

    told = refused(capsys, *changed(small, tmp_path, change))
    assert 'a type that weights do not have: model.4.cv1.conv.weight (torch.int8)' in told


@pytest.mark.parametrize('value, kind', [(float('nan'), 'NaN'), (float('-inf'), 'infinity')])
def test_weights_that_are_no_numbers(value, kind, small, tmp_path, capsys):
    def change(state):
        state['model.4.cv1.bn.running_var'][3] = value
        state['model.22.cv2.0.2.bias'][:] = value

    told = refused(capsys, *changed(small, tmp_path, change))
    assert f"the checkpoint has {kind} in 'model.4.cv1.bn.running_var', so nothing was written" in told
    assert not (tmp_path / 'out.pth').exists()


def test_inputs_that_are_no_checkpoints(small, tmp_path, capsys):
    _, _, config, options = small
    for name in ('folder', 'folder.safetensors'):
        (tmp_path / name).mkdir()
        told = refused(capsys, tmp_path / name, config, tmp_path / 'out.pth', *options)
        assert told == f"error: INPUT '{tmp_path / name}' is a folder; it should be the file of a checkpoint\n"
    (tmp_path / 'in.pt').write_text('every weight of the model\n')
    told = refused(capsys, tmp_path / 'in.pt', config, tmp_path / 'out.pth', *options)
    assert told == (
        f"error: '{tmp_path / 'in.pt'}' is no checkpoint: it is neither a zip archive nor a pickle, as PyTorch writes "
        'them\n'
    )
    (tmp_path / 'in.pt').write_bytes(b'\x80\x02h\x65')
    told = refused(capsys, tmp_path / 'in.pt', config, tmp_path / 'out.pth', *options)
    assert 'it is damaged or no checkpoint' in told and not told.endswith(')\n'), told


def test_fused_state_dicts(small, tmp_path, capsys):
    def change(state):
        for name in [name for name in state if '.bn.' in name]:
            del state[name]

    assert 'looks like a fused YOLOv8 of' in refused(capsys, *changed(small, tmp_path, change))


@pytest.mark.parametrize(
    ('given', 'wanted', 'message'),
    [
        ('YOLOv8 s', 'YOLOv8 n', 'looks like YOLOv8-s with 80 classes, but the model of the config like YOLOv8-n with'),
        ('YOLOv10 l', 'YOLOv10 b', 'looks like YOLOv10-l with 80 classes, but the model of the config like YOLOv10-b'),
        ('YOLOv10 n', 'YOLOv8 n', 'looks like YOLOv10-n with 80 classes, but the model of the config like YOLOv8-n'),
        ('YOLOv8 n', 'YOLOv12 n', 'like YOLOv8-n with 80 classes, but the model of the config like YOLOv12-n (turbo)'),
        ('YOLOv12 n', 'YOLOv10 n', 'looks like YOLOv12-n (turbo) with 80 classes, but the model of the config like'),
        ('YOLOv12 n first', 'YOLOv12 n', f'YOLOv12-n of the first release with 80 classes, {" ".join(FIRST_RELEASE)}'),
        ('YOLOv12 l first', 'YOLOv12 l', f'first release with 80 classes, {" ".join([*FIRST_RELEASE, LARGE])}'),
    ],
)
def test_another_family_scale_or_release(given, wanted, message, tmp_path, capsys):
    family, scale, *first = given.split()
    with torch.device('meta'):
        state = Network(family, scale, bool(first)).state_dict()
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in state.items()}, tmp_path / 'in.pt')
    told = refused(capsys, tmp_path / 'in.pt', config_of(*wanted.split()), tmp_path / 'out.pth')
    start, _, options = message.partition(', model.')
    assert start in told and 'nothing was written' in told
    if options:
        assert told.replace('"', '').endswith(f"To have the checkpoint's: --cfg-options model.{options}\n")
    assert [path.name for path in tmp_path.iterdir()] == ['in.pt']


def test_another_number_of_classes(small, tmp_path, capsys):
    _, path, config, options = small
    told = refused(capsys, path, config, tmp_path / 'out.pth', *options[:4])
    assert ' with 5 classes, but the model of the config like YOLOv8 of no released scale' in told
    assert ' with 80 classes; nothing was written' in told


def test_models_with_weights_of_their_own(small, tmp_path, capsys):
    _, path, config, options = small
    fine = options + ['model.neck.type=mmscale.FINEYOLOv8PAFPN']
    told = refused(capsys, path, config, tmp_path / 'out.pth', *fine)
    assert ' missing: ' in told and '(ours only)' in told and 'unused' not in told


def test_other_models_and_other_checkpoints(small, tmp_path, capsys):
    _, path, config, options = small
    other = tmp_path / 'config.py'
    other.write_text("model = dict(type='mmdet.RPNHead', in_channels=8, num_classes=1)")
    told = refused(capsys, path, other, tmp_path / 'out.pth')
    assert 'has a RPNHead' in told and 'it should be YOLOv8, YOLOv10 or YOLOv12' in told
    eleven = [f'model.{i}.cv1.conv.weight' for i in range(2, 9)] + ['model.10.m.0.attn.qkv.conv.weight']
    for names in (eleven, ['backbone.stem.conv.weight', 'neck.top_down_layers.0.main_conv.conv.weight']):
        torch.save(dict(state_dict={name: torch.zeros(8, 8, 1, 1) for name in names}), tmp_path / 'in.pt')
        told = refused(capsys, tmp_path / 'in.pt', config, tmp_path / 'out.pth', *options)
        assert (
            f'is no state dict of YOLOv8, YOLOv10 or YOLOv12 as ultralytics names them: it has weights ({names[0]}'
            in (told)
        )
    torch.save(dict(epoch=3, note='x'), tmp_path / 'in.pt')
    told = refused(capsys, tmp_path / 'in.pt', config, tmp_path / 'out.pth', *options)
    assert "holds no weights by name but 'epoch', 'note'" in told
    (tmp_path / 'in.pt').write_bytes(b'PK not quite')
    assert 'half-written' in refused(capsys, tmp_path / 'in.pt', config, tmp_path / 'out.pth', *options)
    assert 'does not exist' in refused(capsys, tmp_path / 'none.pt', config, tmp_path / 'out.pth', *options)
    assert not (tmp_path / 'out.pth').exists()


def test_arguments(small, tmp_path, capsys, monkeypatch):
    _, path, config, options = small
    assert 'should be a file, as model.pth' in refused(capsys, path, config, tmp_path)
    assert 'does not exist' in refused(capsys, path, tmp_path / 'none.py', tmp_path / 'out.pth')
    monkeypatch.setattr(checkpoint_files, 'load_file', None)
    told = refused(capsys, tmp_path / 'in.safetensors', config, tmp_path / 'out.pth', *options)
    assert 'takes safetensors, which is not installed: pip install safetensors' in told
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(small, tmp_path, monkeypatch):
    _, path, config, options = small
    (tmp_path / 'out.pth').write_text('before')
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        convert(path, config, tmp_path / 'out.pth', *options)
    assert (tmp_path / 'out.pth').read_text() == 'before'
    assert [path.name for path in tmp_path.iterdir()] == ['out.pth']


def test_the_tool_is_the_packages_command():
    assert runpy.run_path(str(REPO / 'tools' / 'convert' / 'ultralytics.py'))['main'] is main
