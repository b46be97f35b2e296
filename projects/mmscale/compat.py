"""Every work-around for the pinned stack: one function each, with what fails, why, and when it can go.

:func:`apply` runs once, when ``mmscale`` is imported. :func:`import_mmyolo` is asked for by whoever needs mmyolo.
"""
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import mmcv._ext  # a stack without them should fail here, where the reason is told, and not in mid-training
import mmdet  # noqa: F401
import mmengine
import mmengine.dist.utils as dist_utils
import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
import mmengine.runner.activation_checkpointing as activation_checkpointing
import mmengine.runner.checkpoint as mmengine_checkpoint
import mmengine.runner.runner as mmengine_runner
import torch
from mmdet.registry import MODELS as mmdet_models
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.fileio import LocalBackend, load
from mmengine.infer import BaseInferencer
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from torch.nn import functional

from .engine.checkpoint import fault, load_checkpoint, require_weights
from .engine.recompute import turn_on_activation_checkpointing
from .engine.reseed import seed_worker
from .engine.stand_ins import STAND_INS
from .paths import config_root

__all__ = ['apply', 'import_mmyolo']


@functools.cache
def apply() -> None:
    """Apply every work-around; a second call does nothing."""
    require_pkg_resources()
    allow_types_of_checkpoints()
    load_checkpoints_protected()
    write_files_whole()
    launch_without_gpus()
    wrap_models_without_gpus()
    train_mixed_precision_without_gpus()
    differentiate_norms_of_one_image()
    draw_anew_in_workers()
    train_modules_that_recompute()
    find_own_configs()
    load_images_in_inferencers()
    find_weights_without_torchvision()
    predict_with_ssd()
    import_mmyolo_past_its_check()


def require_pkg_resources() -> None:
    """Miss pkg_resources now rather than at the first inherited config, and do not warn of it with every one.

    Fails: "No module named 'pkg_resources'" where setuptools is 81 or newer; below, three warnings per inherited config
    that it is deprecated hide those that matter.
    Why: mmengine imports pkg_resources, late and anew whenever it looks for an installed package.
    Can go: when mmengine uses importlib.metadata.
    """
    if importlib.util.find_spec('pkg_resources') is None:
        raise ModuleNotFoundError("No module named 'pkg_resources'", name='pkg_resources')
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated as an API', category=UserWarning)


def allow_types_of_checkpoints() -> None:
    """Allow the types of mmengine's own checkpoints under torch's ``weights_only`` protection.

    Fails: test.py and ``--resume`` refuse every checkpoint that mmengine wrote ("Weights only load failed").
    Why: since 2.6 torch unpickles only what is on its list. mmengine's message hub holds ``HistoryBuffer`` objects over
    numpy arrays, best scores and learning rates are numpy scalars, a data set's palette may be an array, and a
    ``HistoryBuffer`` and a one-cycle schedule name methods of their own. What real checkpoints hold (best score, EMA,
    AMP, momentum and scheduler states) is read by stand-ins (:mod:`mmscale.engine.stand_ins`), because the types
    themselves trust whatever a file says.
    Can go: when mmengine registers its types itself, and those are safe against a crafted file.
    """
    torch.serialization.add_safe_globals(STAND_INS)


def load_checkpoints_protected() -> None:
    """Load every checkpoint under the protection, downloads too, and say in a sentence what is wrong with a file.

    Fails: a half-written or refused file ends in a page of torch's own advice, to switch the protection off among it;
    and what mmengine downloads is unpickled without any protection.
    Why: mmengine passes no ``weights_only``; torch's default for a file is True, but for a URL it is still False.
    Can go: when torch protects ``load_state_dict_from_url`` by default and mmengine says which file was refused.
    """
    load_url = mmengine_checkpoint.load_url

    def load_url_protected(url, *args, **kwargs):
        try:
            return require_weights(url, load_url(url, *args, **kwargs, weights_only=True))
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(fault(url, error)) from error

    def load_from_local(filename, map_location=None):
        return load_checkpoint(os.path.expanduser(filename), map_location=map_location)

    # mmengine's loaders for http(s), torchvision and open-mmlab all end in this one name.
    mmengine_checkpoint.load_url = load_url_protected
    mmengine_checkpoint.CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def write_files_whole() -> None:
    """Give a file its name only when it is whole.

    Fails: a run that is killed while it writes a checkpoint leaves half a file under the checkpoint's name.
    Why: mmengine's local backend opens the final name and writes.
    Can go: when mmengine's backend replaces files atomically.
    """

    def put(self, obj, filepath):
        with _whole(filepath) as file:
            file.write(obj)

    def put_text(self, obj, filepath, encoding='utf-8'):
        with _whole(filepath) as file:
            file.write(obj.encode(encoding))

    LocalBackend.put, LocalBackend.put_text = put, put_text


@contextmanager
def _whole(path):
    """A file to write bytes into, which takes its name when the block ends without an error.

    A link is followed, and stays; a device or a pipe, which nothing can replace, is written directly.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        with path.open('wb') as file:
            yield file
        return
    handle, partial = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.partial', dir=path.parent)
    try:
        with open(handle, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # mkstemp makes a file for its owner only; this one gets the rights of any other
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def launch_without_gpus() -> None:
    """Let ``--launcher pytorch|slurm|mpi`` start processes on a machine without GPUs.

    Fails: "Torch not compiled with CUDA enabled", from the launcher itself.
    Why: mmengine's three launchers call ``torch.cuda.set_device`` whatever the backend, and NCCL needs GPUs. Here the
    backend becomes gloo, with a line in the log. With GPUs, a rank without one of its own gets a sentence; and under
    MPI ``LOCAL_RANK`` is set, without which every process would wrap its model for the first GPU.
    Can go: when mmengine's launchers ask for the device type.
    """
    for name in ('_init_dist_pytorch', '_init_dist_slurm', '_init_dist_mpi'):
        setattr(dist_utils, name, _launcher(getattr(dist_utils, name)))


def local_rank_of(launcher: str, default: int = 0) -> int:
    """Which of this machine's processes this one is, by what its launcher says, else by ``LOCAL_RANK``.

    Args:
        launcher (str): 'pytorch', 'slurm', 'mpi' or 'none'.
        default (int): For a process that was told nothing. Defaults to 0.
    """
    own = {'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK', 'slurm': 'SLURM_LOCALID'}.get(launcher, 'LOCAL_RANK')
    return int(os.environ.get(own, os.environ.get('LOCAL_RANK', default)))


def _launcher(launch: Callable) -> Callable:
    """One of mmengine's launchers, on GPUs or without."""

    @functools.wraps(launch)
    def launch_anywhere(backend, *args, **kwargs):
        local_rank = local_rank_of(launch.__name__.removeprefix('_init_dist_'))
        if launch.__name__ == '_init_dist_mpi':  # mmengine's model wrapper reads it, its MPI launcher does not set it
            os.environ['LOCAL_RANK'] = str(local_rank)
        if torch.cuda.is_available():
            if local_rank >= torch.cuda.device_count() and backend == 'nccl':
                raise ValueError(f'process {local_rank} of this machine has no GPU of its own: {local_rank + 1} or '
                                 f'more processes were started, but only {torch.cuda.device_count()} GPUs are visible')
            return launch(backend, *args, **kwargs)
        if backend == 'nccl':
            backend = 'gloo'
            if local_rank == 0:
                print_log('No GPU is visible: the processes talk over gloo instead of nccl.', logger='current')
        with mock.patch.object(torch.cuda, 'set_device'):
            return launch(backend, *args, **kwargs)

    return launch_anywhere


def wrap_models_without_gpus() -> None:
    """Wrap a model that lies on the CPU for distributed training.

    Fails: "DistributedDataParallel device_ids and output_device arguments only work with single-device/multiple-device
    GPU modules"; and SyncBatchNorm, which exists on GPUs only, refuses its first input.
    Why: ``Runner.wrap_model`` passes ``device_ids=[LOCAL_RANK]`` whatever the device, and converts no SyncBatchNorm
    when it trains in parallel. It becomes plain BatchNorm here, with a line in the log.
    Can go: when mmengine's wrapper asks where the model lies.
    """
    init = MMDistributedDataParallel.__init__

    @functools.wraps(init)
    def init_anywhere(self, module, *args, **kwargs):
        if all(parameter.device.type == 'cpu' for parameter in module.parameters()):
            kwargs['device_ids'] = None
            if any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in module.modules()):
                print_log('SyncBatchNorm needs GPUs: every process normalises its own images.', logger='current')
                module = revert_sync_batchnorm(module)
        init(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = init_anywhere


def train_mixed_precision_without_gpus() -> None:
    """Let ``AmpOptimWrapper`` (``--amp``) train on a CPU, in bfloat16 and without loss scaling.

    Fails: "AmpOptimizerWrapper is only available training on gpu, npu, mlu or musa"; and past that, mmcv's operators
    (NMS, RoIAlign, ...) with "expected scalar type Float but found BFloat16".
    Why: mmengine asserts a GPU, although its own ``autocast`` knows the CPU, where the type is bfloat16; that has
    float32's range, so nothing needs to be scaled. mmcv compiles its operators for float32 there, so they get float32.
    Can go: when mmengine drops that assertion and mmcv compiles for bfloat16.
    """
    init = amp.AmpOptimWrapper.__init__
    # torch.cuda.amp.GradScaler warns twice before it switches itself off; this one is off and says nothing.
    no_scaler = functools.partial(torch.amp.GradScaler, 'cpu', enabled=False)

    @functools.wraps(init)
    def init_anywhere(self, *args, **kwargs):
        if get_device() != 'cpu':  # a GPU, an NPU, ...: mmengine knows what to do
            init(self, *args, **kwargs)
            return
        _give_operators_float32()
        # is_cuda_available is read by the assertion only
        with mock.patch.multiple(amp, is_cuda_available=lambda: True, GradScaler=no_scaler):
            init(self, *args, **kwargs)

    amp.AmpOptimWrapper.__init__ = init_anywhere


@functools.cache
def _give_operators_float32() -> None:
    """Hand mmcv's operators float32 for bfloat16. Not before it is needed: importing them takes a while."""
    importlib.import_module('mmcv.ops')
    for operator in torch.autograd.Function.__subclasses__():
        if operator.__module__.startswith('mmcv.ops.'):
            operator.forward = staticmethod(_in_float32(operator.forward))
            operator.backward = staticmethod(_in_float32(operator.backward))


def _in_float32(function: Callable) -> Callable:
    """An operator's forward or backward in float32; the result has the type of its first tensor, as callers expect."""

    @functools.wraps(function)
    def run(ctx, *args):
        floats = [arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point()]
        if torch.bfloat16 not in floats:
            return function(ctx, *args)
        out = function(ctx, *(arg.float() if getattr(arg, 'dtype', None) is torch.bfloat16 else arg for arg in args))
        return out.to(floats[0]) if isinstance(out, torch.Tensor) and out.is_floating_point() else out

    return run


def differentiate_norms_of_one_image() -> None:
    """Hand the backward pass of batch and instance norm a gradient whose memory it reads rightly.

    Fails: nothing is said, but on a CPU, with one image in the batch, the gradients of the norm's input, weight and
    bias are wrong by their own size, and with them those of all layers below.
    Why: a gradient that comes back through ``x.flatten(2).transpose(1, 2)``, as in every Transformer over a map's
    pixels, has the strides (C, 1, W C, C) if the batch is one. The first means nothing there, but PyTorch 2.13 goes
    through the memory as if it did.
    Can go: when PyTorch compares the strides of dimensions of one no more; the test in tests/test_compat.py then passes
    without it.
    """
    for name in ('batch_norm', 'instance_norm'):
        setattr(functional, name, _with_gradients_in_order(getattr(functional, name)))


def _with_gradients_in_order(norm: Callable) -> Callable:
    @functools.wraps(norm)
    def norm_with_gradients_in_order(*args, **kwargs) -> torch.Tensor:
        out = norm(*args, **kwargs)
        if out.requires_grad and out.device.type == 'cpu' and len(out) == 1 and not torch.compiler.is_compiling():
            out.register_hook(_in_order)
        return out

    return norm_with_gradients_in_order


def _in_order(gradient: torch.Tensor) -> torch.Tensor:
    sound = gradient.stride(0) == gradient[0].numel()
    return gradient if sound else gradient.contiguous()


def draw_anew_in_workers() -> None:
    """Let the data loaders' workers draw other random numbers in every epoch.

    Fails: nothing is said, but with workers that start anew (``persistent_workers=False``) the image at a given place
    in an epoch gets the same flip, crop and mosaic in all epochs.
    Why: mmengine seeds a worker from the run's seed, its rank and its number alone. PyTorch gives workers a seed that
    it draws anew whenever they start; it is the same in all processes, so the rank is added. ``EpochSeedHook`` seeds
    that draw, so that a resumed run repeats it.
    Can go: when mmengine's ``worker_init_fn`` asks PyTorch for the worker's seed.
    """
    mmengine_runner.default_worker_init_fn = seed_worker


def train_modules_that_recompute() -> None:
    """Let modules learn whose activations are computed again in the backward pass (``activation_checkpointing``).

    Fails: nothing is said, but with ``activation_checkpointing=['backbone']`` no weight of the backbone gets a
    gradient; and a module that is called with arguments by name ends in a TypeError.
    Why: mmengine takes torch's reentrant checkpoint, which leads gradients on only if an input wants one, and images do
    not; its wrapper takes arguments by position alone. Recomputing, batch norms would count every batch twice, too;
    they count it once here (:mod:`mmscale.engine.recompute`).
    Can go: when mmengine passes ``use_reentrant=False`` and arguments by name; the norms' statistics need the rest.
    """
    for module in (activation_checkpointing, mmengine.runner, mmengine_runner):
        module.turn_on_activation_checkpointing = turn_on_activation_checkpointing


def find_own_configs() -> None:
    """Let configs inherit ``mmscale::fine/...``, and mmengine's registries know the scope.

    Fails: "mmengine does not support to load mmscale config".
    Why: mmengine knows OpenMMLab's packages only, and looks for their configs where ``pip`` put them, with a model
    index beside.
    Can go: when mmengine asks a package for its configs.
    """
    MODULE2PACKAGE['mmscale'] = 'mmscale'
    find = Config._get_cfg_path

    def find_anywhere(cfg_path, filename):
        scope, _, name = cfg_path.partition('::')
        if scope != 'mmscale' or not name:
            return find(cfg_path, filename)
        path = config_root() / name
        if not path.is_file():
            raise FileNotFoundError(f"'{cfg_path}' does not exist: there is no {path}")
        # No scope: mmengine would look for all types of the config in it, and for MMDetection's in vain.
        return str(path), None

    Config._get_cfg_path = staticmethod(find_anywhere)


def load_images_in_inferencers() -> None:
    """Let ``mmdet.apis.DetInferencer`` run configs whose test pipeline starts with ``mmscale.LoadImageFromFile``.

    Fails: "LoadImageFromFile is not found in the test pipeline".
    Why: the inferencer puts its own loader in the first one's place, and finds that by MMCV's name alone.
    Can go: when it asks for the first transform that loads an image.
    """
    init_model = BaseInferencer._init_model

    @functools.wraps(init_model)
    def init_model_and_name_loader(self, cfg, *args, **kwargs):
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        for transform in dataset.get('pipeline') or ():
            if transform.get('type') == 'mmscale.LoadImageFromFile':
                transform['type'] = 'LoadImageFromFile'
        return init_model(self, cfg, *args, **kwargs)

    BaseInferencer._init_model = init_model_and_name_loader


def predict_with_ssd() -> None:
    """Let MMDetection's SSD predict.

    Fails: "'SSDHead' object has no attribute 'loss_cls'", at the first validation of every SSD.
    Why: MMDetection 3's base head asks its ``loss_cls`` for custom channels, and SSD's head computes its loss itself.
    MMDetection's models take seconds to import, so the mending waits until their registry is first asked.
    Can go: when MMDetection asks with a default.
    """
    if 'mmdet.models' in sys.modules:
        importlib.import_module('mmscale.compat_ssd')
    else:
        mmdet_models._locations.append('mmscale.compat_ssd')


def find_weights_without_torchvision() -> None:
    """Find ``torchvision://resnet50``, which most configs start from, without torchvision.

    Fails: "No module named 'torchvision'" when the weights are loaded.
    Why: mmengine imports torchvision for its version and its newer weights' addresses, although it brings a list of the
    addresses itself; torchvision's wheels need the CUDA build of torch, so it may be absent or fail to import.
    Can go: when mmengine reads its own list without it.
    """
    get_models = mmengine_checkpoint.get_torchvision_models

    @functools.wraps(get_models)
    def get_models_or_own_list() -> dict[str, str]:
        try:
            return get_models()
        except (ImportError, RuntimeError, OSError):  # absent, or built for another torch
            return load(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')

    mmengine_checkpoint.get_torchvision_models = get_models_or_own_list


def import_mmyolo_past_its_check() -> None:
    """Let ``import mmyolo``, by whoever asks for it, get past mmyolo's check of mmcv's version number.

    Fails: "MMCV==2.1.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.1.0.", also from mmengine, which
    imports mmyolo for a config that names its scope.
    Why: mmyolo 0.6.0 is older than mmcv 2.1.0 and refuses it by its number alone; it runs on it. Its check is shown the
    last number that it knows, for the time of that import only. mmyolo is optional, and nothing is imported here.
    Can go: when an mmyolo without that bound is released.
    """
    sys.meta_path.insert(0, _MMYOLOFinder())


class _MMYOLOFinder:
    """Finds mmyolo as the other finders do, and lets it start under another version of mmcv."""

    def find_spec(self, name, path=None, target=None):
        if name != 'mmyolo':
            return None
        for finder in sys.meta_path:
            spec = None if finder is self or not hasattr(finder, 'find_spec') else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader.exec_module = _under_older_mmcv(spec.loader.exec_module)
                return spec
        return None


def _under_older_mmcv(exec_module: Callable) -> Callable:
    @functools.wraps(exec_module)
    def run(module) -> None:
        with mock.patch.object(mmcv, '__version__', '2.0.1'):
            exec_module(module)
        compute_yolos_losses_in_float32()

    return run


def compute_yolos_losses_in_float32() -> None:
    """Let MMYOLO's heads compute losses and boxes in float32 under ``--amp``.

    Fails: nothing is said, but centres of the cells, in pixels, and the boxes from them are rounded to the maps' type:
    in bfloat16 to 2 or 4 pixels in the right and lower half of 640, in float16 to half a pixel beyond 512. Gradients of
    small objects' boxes point elsewhere then.
    Why: the heads make their priors in the type of the scores, and decode in it.
    Can go: when MMYOLO makes its priors in float32.
    """
    # MMYOLO's models take seconds to import, so the mending waits until its registry is first asked.
    importlib.import_module('mmyolo.registry').MODELS._locations.append('mmscale.compat_mmyolo')


def import_mmyolo():
    """Import mmyolo, which is optional.

    Returns:
        module: mmyolo.

    Raises:
        ImportError: If mmyolo is not installed.
    """
    try:
        return importlib.import_module('mmyolo')
    except ModuleNotFoundError as error:
        if error.name != 'mmyolo':
            raise
        raise ImportError(
            'mmyolo, which the YOLOs and CSF-Net stand on, is not installed; it is optional and under the GPL: '
            'pip install mmyolo==0.6.0'
        ) from error
