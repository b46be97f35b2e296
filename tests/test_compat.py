"""Every work-around for the stack does what it says, and the protection of checkpoints stays on."""
import os
import pickle
import sys
from importlib.metadata import PackageNotFoundError, version

import mmcv
import mmengine.dist.utils as dist_utils
import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, nms
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.fileio import LocalBackend
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OneCycleLR
from mmengine.runner import load_checkpoint

from mmscale import compat


class Payload:
    """Unpickled without protection, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


class Getattr:
    """Unpickled, it asks for ``getattr(owner, name)``, the way to everything if it were allowed in general."""

    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return getattr, self.args


def test_payload_is_refused_and_not_run(tmp_path):
    torch.save({'state_dict': {}, 'meta': Payload(tmp_path / 'pwned')}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match=r"evil.pth' is refused: it holds '(io|_io|builtins)?\.?open', which is not"):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'pwned').exists()
    torch.load(tmp_path / 'evil.pth', weights_only=False)  # the payload itself is live
    assert (tmp_path / 'pwned').exists()


def test_download_is_protected(tmp_path):
    torch.save({'meta': Payload(tmp_path / 'pwned')}, tmp_path / 'evil.pth')
    url, where = (tmp_path / 'evil.pth').as_uri(), dict(model_dir=str(tmp_path / 'hub'), progress=False)
    with pytest.raises(ValueError, match='is refused'):
        mmengine_checkpoint.load_url(url, **where)
    assert not (tmp_path / 'pwned').exists()
    torch.utils.model_zoo.load_url(url, **where)  # what mmengine calls otherwise
    assert (tmp_path / 'pwned').exists()


@pytest.mark.parametrize('args', [(HistoryBuffer, '__init__'), (HistoryBuffer, 'register_statistics'),
                                  (np.ndarray, 'tofile')])
def test_getattr_is_not_allowed_in_general(tmp_path, args):
    torch.save(Getattr(*args), tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'evil.pth', weights_only=True)


def test_types_of_mmengine_load(tmp_path):
    buffer = HistoryBuffer()
    buffer.update(2.0)
    buffer.update(4.0)
    scheduler = OneCycleLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), eta_max=1.0, total_steps=9)
    numbers = [np.dtype(code).type(1) for code in '?bBhHiIlLqQefd']
    saved = dict(buffer=buffer, scheduler=scheduler.state_dict(), numbers=numbers, palette=np.arange(6).reshape(2, 3))
    torch.save(saved, tmp_path / 'good.pth')
    loaded = torch.load(tmp_path / 'good.pth', weights_only=True)
    assert loaded['buffer'].mean() == loaded['buffer'].statistics('mean') == 3.0
    assert loaded['buffer'].statistics('max') == 4.0
    scheduler.load_state_dict(loaded['scheduler'])
    assert loaded['numbers'] == numbers and [n.dtype for n in loaded['numbers']] == [n.dtype for n in numbers]
    assert np.array_equal(loaded['palette'], [[0, 1, 2], [3, 4, 5]])


def test_file_appears_only_when_whole(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'epoch_1.pth'
    LocalBackend().put(b'old', path)
    LocalBackend().put_text('caf\u00e9', tmp_path / 'note', encoding='latin-1')
    assert path.read_bytes() == b'old' and (tmp_path / 'note').read_bytes() == b'caf\xe9'
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    monkeypatch.setattr(os, 'replace', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        LocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and [p.name for p in path.parent.iterdir()] == ['epoch_1.pth']


@pytest.fixture
def start_method(monkeypatch):
    """Keep mmengine's launcher from deciding how this process starts the workers of later tests."""
    monkeypatch.setattr(dist_utils.mp, 'get_start_method', lambda **kwargs: 'fork')


@pytest.fixture
def one_process_group(monkeypatch, tmp_path, start_method):
    """Start a process group of one by mmengine's launcher, with the backend that configs ask for."""
    for name, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1).items():
        monkeypatch.setenv(name, str(value))
    init_dist('pytorch', 'nccl', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SyncBatchNorm(2))

    def forward(self, inputs, mode='tensor'):
        return self.layers(inputs)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a machine with GPUs launches on them')
def test_launcher_and_wrapper_without_gpus(one_process_group):
    assert torch.distributed.get_backend() == 'gloo'
    wrapped = MMDistributedDataParallel(module=Tiny(), device_ids=[0], broadcast_buffers=False)
    wrapped(torch.randn(4, 2)).sum().backward()
    assert wrapped.module.layers[0].weight.grad is not None


def test_more_processes_than_gpus(monkeypatch, start_method):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(ValueError, match='process 1 of this machine has no GPU of its own.*only 1 GPUs are visible'):
        init_dist('pytorch', 'nccl')


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision on a GPU is mmengine\'s own')
def test_mixed_precision_on_cpu():
    layer = torch.nn.Conv2d(1, 2, 3, padding=1)
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(layer.parameters(), lr=0.1), loss_scale='dynamic')
    boxes = torch.tensor([[0., 0., 0., 8., 8.], [0., 2., 2., 6., 7.]])
    images = torch.randn(1, 1, 8, 8)
    align = RoIAlign(output_size=2)

    def step():
        features = layer(images)
        return features, align(features, boxes)

    expected = step()[1]
    with wrapper.optim_context(layer):
        features, aligned = step()
        kept = nms(boxes[:, 1:], torch.tensor([0.5, 0.9]).bfloat16(), 0.9)[1]
    assert features.dtype == aligned.dtype == torch.bfloat16
    assert torch.allclose(aligned.float(), expected, atol=0.05)
    assert kept.tolist() == [1, 0]
    before = layer.weight.detach().clone()
    wrapper.update_params(aligned.float().square().sum())
    assert not torch.equal(before, layer.weight)


def test_configs_inherit_by_scope(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmscale::_base_/default_runtime.py'\nlog_level = 'ERROR'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.default_scope == 'mmdet' and cfg.custom_imports.imports == ['mmscale'] and cfg.log_level == 'ERROR'
    (tmp_path / 'wrong.py').write_text("_base_ = 'mmscale::fine/nothing.py'\n")
    with pytest.raises(FileNotFoundError, match="'mmscale::fine/nothing.py' does not exist"):
        Config.fromfile(tmp_path / 'wrong.py')


def test_config_root(tmp_path, monkeypatch, repo):
    assert compat.config_root() == repo / 'configs'
    package = tmp_path / 'site-packages' / 'mmscale'
    monkeypatch.setattr(compat, '__file__', str(package / 'compat.py'))
    assert compat.config_root() == package / '.mim' / 'configs'


def test_missing_pkg_resources_is_noticed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)
    with pytest.raises(ModuleNotFoundError, match='pkg_resources'):
        compat.require_pkg_resources()


def test_mmyolo_past_its_version_check():
    try:
        version('mmyolo')
    except PackageNotFoundError:
        with pytest.raises(ImportError, match='mmyolo is not installed; it is optional'):
            compat.import_mmyolo()
        pytest.skip('mmyolo is not installed')
    number = mmcv.__version__
    assert compat.import_mmyolo().__version__ == version('mmyolo')
    assert mmcv.__version__ == number
