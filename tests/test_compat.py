"""Every work-around for the stack does what it says, and the protection of checkpoints stays on."""
import copy
import importlib
import os
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import mmcv
import mmengine.dist.utils as dist_utils
import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, nms
from mmdet.registry import MODELS as mmdet_models
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.fileio import LocalBackend
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OneCycleLR
from mmengine.runner import load_checkpoint
from torch import nn

from mmscale import compat
from mmscale.analysis.model import build_model


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


@pytest.mark.parametrize('args', [(HistoryBuffer, '__init__'), ([], 'min'), (HistoryBuffer, 'register_statistics'),
                                  (np.ndarray, 'tofile')])
def test_getattr_is_not_allowed_in_general(tmp_path, args):
    torch.save(Getattr(*args), tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'evil.pth', weights_only=True)


class Crafted:
    """Unpickled, it is what the file says: ``function(*args)``, then given a state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


RECORD = np.dtype([('a', 'O')])
FLOAT = np.dtype('f8')
FLAGGED = (3, '<', None, None, None, -1, -1, 1)  # a dtype's state whose flags say that it holds objects
scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]


def empty_array(*state):
    return Crafted(reconstruct, (np.ndarray, (0,), b'b'), (1, *state))


@pytest.mark.parametrize('content, culprit', [
    (Crafted(scalar, (RECORD, empty_array((0,), RECORD, False, []))), 'numpy.dtype'),
    (Crafted(scalar, (FLOAT, b'1234567')), 'scalar'),
    (Crafted(scalar, (FLOAT, np.zeros(1))), 'scalar'),
    (Crafted(np.dtype, ('O', False, True)), 'numpy.dtype'),
    (Crafted(np.dtype, ('f8', False, True), FLAGGED), 'numpy.dtype'),
    (Crafted(reconstruct, (np.ndarray, (4,), b'O')), '_reconstruct'),
    (Crafted(np.ndarray, ((4,), 'O')), 'numpy.ndarray'),
    (empty_array((-1, -1), FLOAT, False, b'12345678'), 'numpy.ndarray'),
    (empty_array((2,), FLOAT, False, b'12345678'), 'numpy.ndarray'),
    (np.array([None]), 'numpy.dtype'),
], ids=range(10))
def test_crafted_numpy_objects_are_refused(tmp_path, content, culprit):
    torch.save({'state_dict': {}, 'meta': content}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match=rf"evil.pth' is refused: it holds '\S*{culprit}\S*', which is not among the"):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'evil.pth'))


def test_arrays_are_written_once(tmp_path):
    state = (1, (1,), FLOAT, False, b'12345678')
    torch.save({'meta': empty_array(*state[1:])}, tmp_path / 'good.pth')
    array = torch.load(tmp_path / 'good.pth', weights_only=True)['meta']
    with pytest.raises(pickle.UnpicklingError):
        array.__setstate__(state)
    assert type(pickle.loads(pickle.dumps(array))) is np.ndarray


def test_history_buffer_keeps_its_methods(tmp_path):
    state = dict(_log_history=np.array([1., 3.]), _count_history=np.array([1., 1.]), max_length=9)
    for methods in (dict(mean=HistoryBuffer.max), dict(other=HistoryBuffer.max)):
        content = Crafted(HistoryBuffer, (), dict(state, statistics_methods=methods))
        torch.save({'state_dict': {}, 'meta': content}, tmp_path / 'evil.pth')
        with pytest.raises(ValueError, match=r"is refused: it holds 'mmengine\S*HistoryBuffer\((mean|other)=max\)'"):
            load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'evil.pth'))
    assert HistoryBuffer([1., 3.], [1, 1]).statistics('mean') == 2.0
    assert 'other' not in HistoryBuffer._statistics_methods


def test_download_that_is_no_checkpoint(tmp_path):
    torch.save([1], tmp_path / 'list.pth')
    torch.save({'meta': Getattr([], 'min'), 'state_dict': {}}, tmp_path / 'odd.pth')
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    for name, words in dict(list='holds a list', odd='is refused', text='no checkpoint').items():
        with pytest.raises(ValueError, match=f"{name}.pth' .*{words}"):
            mmengine_checkpoint.load_url((tmp_path / f'{name}.pth').as_uri(), model_dir=str(tmp_path / 'hub'),
                                         progress=False)


def test_types_of_mmengine_load(tmp_path):
    buffer = HistoryBuffer()
    buffer.update(2.0)
    buffer.update(4.0)
    scheduler = OneCycleLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), eta_max=1.0, total_steps=9)
    numbers = [np.dtype(code).type(1) for code in '?bBhHiIlLqQefd']
    saved = dict(buffer=buffer, scheduler=scheduler.state_dict(), numbers=numbers, palette=np.arange(6).reshape(2, 3))
    torch.save(saved, tmp_path / 'good.pth')
    loaded = torch.load(tmp_path / 'good.pth', weights_only=True)
    assert type(loaded['buffer']) is HistoryBuffer
    loaded['buffer'].update(6.0)
    assert [type(array) for array in loaded['buffer'].data] == [np.ndarray, np.ndarray]
    assert loaded['buffer'].mean(2) == 5.0
    torch.save(loaded, tmp_path / 'again.pth')
    loaded = torch.load(tmp_path / 'again.pth', weights_only=True)
    loaded['buffer']._log_history, loaded['buffer']._count_history = (a[:2] for a in loaded['buffer'].data)
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


def test_links_and_pipes_are_written_through(tmp_path):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'store' / 'real').write_bytes(b'old')
    (tmp_path / 'link').symlink_to(tmp_path / 'store' / 'real')
    LocalBackend().put(b'new', tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'store' / 'real').read_bytes() == b'new'
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    try:
        LocalBackend().put(b'through', tmp_path / 'pipe')
        assert os.read(reader, 20) == b'through'
    finally:
        os.close(reader)
    assert (tmp_path / 'pipe').is_fifo()


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


def test_mpi_launcher_gives_every_rank_its_gpu(monkeypatch, start_method):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **kwargs: None)
    chosen = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    for name, value in dict(LOCAL_RANK='0', OMPI_COMM_WORLD_LOCAL_RANK='2', OMPI_COMM_WORLD_RANK='6', MASTER_PORT='1',
                            OMPI_COMM_WORLD_SIZE='8', MASTER_ADDR='there', RANK='', WORLD_SIZE='').items():
        monkeypatch.setenv(name, value)
    init_dist('mpi', 'nccl')
    assert chosen == [2] and os.environ['LOCAL_RANK'] == '2'  # mmengine's wrapper takes its device_ids from it


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine where mmengine finds no device')
def test_mixed_precision_on_other_devices_is_untouched(monkeypatch):
    assert amp.GradScaler is torch.cuda.amp.GradScaler
    monkeypatch.setattr(compat, 'get_device', lambda: 'npu')
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(AssertionError, match='only available training on gpu, npu'):  # mmengine's own, not patched away
        AmpOptimWrapper(optimizer=optimizer)
    monkeypatch.setattr(amp, 'is_npu_available', lambda: True)
    monkeypatch.setattr(amp, 'GradScaler', lambda: 'scaler of the npu')
    assert AmpOptimWrapper(optimizer=optimizer).loss_scaler == 'scaler of the npu'


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


def gradients_before_a_transformer(norm, activation, image, weights, dtype):
    """Of the input and the parameters, where the map's pixels become tokens right behind the norm."""
    norm, image = copy.deepcopy(norm).to(dtype), image.to(dtype).requires_grad_()
    tokens = activation(norm(image)).flatten(2).transpose(1, 2)
    return torch.autograd.grad((tokens * weights.to(dtype)).sum(), [image, *norm.parameters()])


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('norm', [nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True)], ids=['batch', 'instance'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('activation', [nn.Identity(), nn.ReLU(inplace=True)])
def test_norms_of_one_image_have_right_gradients_on_a_cpu(norm, training, batch, layout, activation):
    torch.manual_seed(0)
    nn.init.normal_(norm.weight, 1)
    image = torch.randn(batch, 8, 6, 7).to(memory_format=layout)
    weights = torch.randn(batch, 42, 8)
    norm.train(training)
    found = gradients_before_a_transformer(norm, activation, image, weights, torch.float32)
    expected = gradients_before_a_transformer(norm, activation, torch.cat((image, image)),
                                              torch.cat((weights, weights)) / 2, torch.float64)
    expected = [expected[0][:batch] * 2, *expected[1:]]  # two of every image: no batch of one
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_configs_inherit_by_scope(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmscale::_base_/default_runtime.py'\nlog_level = 'ERROR'\n")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.default_scope == 'mmdet' and cfg.custom_imports.imports == ['mmscale'] and cfg.log_level == 'ERROR'
    (tmp_path / 'detector.py').write_text("_base_ = 'mmscale::fine/fcos_r18_fpn-fine_2e_bccd.py'\n")
    assert type(build_model(Config.fromfile(tmp_path / 'detector.py'))).__name__ == 'FCOS'
    (tmp_path / 'wrong.py').write_text("_base_ = 'mmscale::fine/nothing.py'\n")
    with pytest.raises(FileNotFoundError, match="'mmscale::fine/nothing.py' does not exist"):
        Config.fromfile(tmp_path / 'wrong.py')


def test_missing_pkg_resources_is_noticed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pkg_resources', None)
    with pytest.raises(ModuleNotFoundError, match='pkg_resources'):
        compat.require_pkg_resources()


def test_mmyolo_past_its_version_check():
    try:
        version('mmyolo')
    except PackageNotFoundError:
        with pytest.raises(ImportError, match='mmyolo, which .* is not installed; it is optional'):
            compat.import_mmyolo()
        pytest.skip('mmyolo is not installed')
    number = mmcv.__version__
    assert compat.import_mmyolo().__version__ == version('mmyolo')
    assert mmcv.__version__ == number


def test_torchvisions_weights_are_found_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    url = mmengine_checkpoint.get_torchvision_models()['resnet50']
    assert url.startswith('https://') and 'resnet50' in url
    asked = []
    monkeypatch.setattr(mmengine_checkpoint, 'load_from_http', lambda url, map_location=None: asked.append(url) or {})
    mmengine_checkpoint.CheckpointLoader.load_checkpoint('torchvision://resnet50')
    assert asked == [url]


SSD_HEAD = dict(
    type='mmdet.SSDHead', num_classes=3, in_channels=[4, 4],
    anchor_generator=dict(type='mmdet.SSDAnchorGenerator', scale_major=False, strides=[8, 16], ratios=[[2], [2]],
                          min_sizes=[8, 16], max_sizes=[16, 32]),
    test_cfg=dict(nms_pre=10, nms=dict(type='nms', iou_threshold=0.5), min_bbox_size=0, score_thr=0.0, max_per_img=5))
PREDICT = f"""
import sys, mmscale
assert 'mmdet.models' not in sys.modules, 'mmscale imports them, which takes seconds'
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
head = MODELS.build(ConfigDict({SSD_HEAD}))
maps = [torch.rand(1, 4, 6, 6), torch.rand(1, 4, 3, 3)]
(found,) = head.predict_by_feat(*head(maps), batch_img_metas=[dict(img_shape=(48, 48), scale_factor=(1., 1.))])
print(len(found))
"""


def test_ssd_predicts_and_mmdets_models_are_imported_no_earlier():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', PREDICT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.split()[-1] == '5', done.stderr


def test_ssd_is_mended_at_once_where_mmdets_models_were_imported_first(monkeypatch):
    importlib.import_module('mmdet.models')
    monkeypatch.delitem(sys.modules, 'mmscale.compat_ssd', raising=False)
    monkeypatch.setattr(mmdet_models, '_locations', [])
    compat.predict_with_ssd()
    assert 'mmscale.compat_ssd' in sys.modules and not mmdet_models._locations
    monkeypatch.delitem(sys.modules, 'mmscale.compat_ssd')
    monkeypatch.delitem(sys.modules, 'mmdet.models')
    compat.predict_with_ssd()
    assert 'mmscale.compat_ssd' not in sys.modules and mmdet_models._locations == ['mmscale.compat_ssd']


def test_an_ssd_head_keeps_a_loss_of_its_own():
    """Its ``loss_cls`` is asked for the scores, as in every head of MMDetection; a plain one has the softmax."""
    plain = mmdet_models.build(copy.deepcopy(SSD_HEAD))

    class Doubled(torch.nn.Module):
        custom_cls_channels = True

        def get_activation(self, logits):
            return logits[..., :3].sigmoid() / 1000

    class WithLoss(type(plain)):
        def __init__(self, **options):
            super().__init__(**options)
            self.loss_cls = Doubled()

    options = {key: value for key, value in SSD_HEAD.items() if key != 'type'}
    own = WithLoss(**copy.deepcopy(options))
    assert isinstance(own.loss_cls, Doubled)
    maps, meta = [torch.rand(1, 4, 6, 6), torch.rand(1, 4, 3, 3)], dict(img_shape=(48, 48), scale_factor=(1.0, 1.0))
    scores = []
    for head in (own, plain):
        (found,) = head.predict_by_feat(*head(maps), batch_img_metas=[meta], cfg=Config(SSD_HEAD['test_cfg']))
        scores.append(found.scores)
    assert 0 < scores[0].max() < 1e-3 < 0.1 < scores[1].max()
    assert 'loss_cls' not in plain.state_dict() and not plain.loss_cls
