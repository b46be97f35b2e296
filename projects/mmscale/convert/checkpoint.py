"""Checkpoint files of every format, read into one form and written from it."""

import io
import json
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmengine.fileio import put
from torch import Tensor

from mmscale.engine.checkpoint import load_checkpoint
from mmscale.engine.cli import UsageError
from mmscale.files import write_json
from mmscale.version import __version__

from . import huggingface
from .names import COUNTER

try:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save
except ImportError:
    load_file = None

__all__ = ['Checkpoint', 'load_pickle', 'read_checkpoint', 'require_finite', 'require_tensors', 'write_checkpoint']

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
NOTES = 'mmscale_convert'  # in the meta of our files

# Modules that only one format names so, and more than one of them, lest a damaged file be of none.
SIGNS = {
    'hf': ('model.encoder.fpn_blocks.', 'model.enc_output.', 'model.decoder_input_proj.'),
    'official': ('encoder.fpn_blocks.', 'decoder.enc_output.', 'decoder.dec_score_head.'),
    'mmscale': ('neck.top_down_blocks.', 'memory_proj.'),
}


@dataclass
class Checkpoint:
    """A model's weights, in the names of a format.

    Attributes:
        form (str): ``'mmscale'``, ``'official'``, ``'official-v2'`` or ``'hf'``.
        state (dict[str, Tensor]): The weights.
        facts (dict): What they do not say about the model, see
            :func:`~mmscale.convert.architecture.read_architecture`.
        classes (tuple[str], optional): Names of the classes.
        frozen_norms (bool): Whether the backbone's norms are frozen, which Hugging Face and the official code store
            without their counters.
        config (dict): Hugging Face's ``config.json``.
        ema (bool): Whether these are averaged weights of a training.
    """

    form: str
    state: dict[str, Tensor]
    facts: dict = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    frozen_norms: bool = False
    config: dict = field(default_factory=dict)
    ema: bool = False


def read_checkpoint(path: str | PathLike, form: str | None = None, ema: bool = True) -> Checkpoint:
    """Read a file, or a folder of Hugging Face's.

    Args:
        path (str | PathLike): ``.pth``, ``.safetensors``, or a folder with ``model.safetensors``; a ``config.json``
            beside the latter is read too.
        form (str, optional): ``'mmscale'``, ``'official'`` (either version) or ``'hf'``. Defaults to None: by the names
            of the weights.
        ema (bool): Of a training's checkpoint take the averaged weights, which are those that the training evaluated
            and that are published. Defaults to True.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it takes safetensors, which is not installed.
        UsageError: If it is no checkpoint of RT-DETR.
        ValueError: If the file is damaged, or might run code.
    """
    path = Path(path)
    found = _read_folder(path) if path.is_dir() else None
    if found is None and path.suffix == '.safetensors':
        found = _read_safetensors(path)
    if found is None:
        found = _read_pth(path, ema)
    elif not ema:
        raise UsageError(f"--no-ema: '{path}' has one set of weights only")
    require_tensors(path, found.state)
    found.form = _find_form(path, found.state, form)
    if found.form == 'official' and any(name.startswith('decoder.enc_output.proj.') for name in found.state):
        found.form = 'official-v2'
    if found.form == 'hf':
        found.state = huggingface.with_common_names(found.state)
    return found


def require_tensors(path: Path, state: dict) -> None:
    """Refuse a dict that does not hold tensors only, or nothing.

    Args:
        path (Path): Where it is from.
        state (dict): What should be weights by name.
    """
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        raise UsageError(
            f"'{path}' holds no weights by name but {', '.join(map(repr, strange[:3])) or 'nothing'}; it should be a "
            "checkpoint with 'state_dict', 'ema' or 'model', or a plain dict of tensors"
        )


def require_finite(state: dict[str, Tensor]) -> None:
    """Refuse weights that are not all numbers.

    Args:
        state (dict[str, Tensor]): Weights by name.

    Raises:
        UsageError: If one holds NaN or infinity; it names the first.
    """
    for name, value in state.items():
        value = value.float() if value.element_size() == 1 else value  # PyTorch asks no 8 bits whether they are finite
        if not torch.isfinite(value).all():
            kind = 'NaN' if torch.isnan(value).any() else 'infinity'
            raise UsageError(
                f"the checkpoint has {kind} in '{name}', so nothing was written: its training diverged, or the file is "
                'damaged'
            )


def load_pickle(path: Path) -> dict:
    """Load what PyTorch saved, under protection.

    Args:
        path (Path): A file.

    Raises:
        FileNotFoundError: If there is no such file.
        UsageError: If it is a folder, or a file that PyTorch did not save.
        ValueError: If it is damaged, or might run code.
    """
    if path.is_dir():
        raise UsageError(f"INPUT '{path}' is a folder; it should be the file of a checkpoint")
    try:
        return load_checkpoint(path, map_location='cpu')
    except ValueError as error:
        with path.open('rb') as file:
            start = file.read(2)
        if start and start != b'PK' and start[:1] != b'\x80':
            raise UsageError(
                f"'{path}' is no checkpoint: it is neither a zip archive nor a pickle, as PyTorch writes them"
            ) from error
        raise


def _read_folder(path: Path) -> Checkpoint:
    if not (path / WEIGHTS).is_file():
        raise UsageError(f"folder '{path}' has no {WEIGHTS}; it should be one that transformers' save_pretrained wrote")
    return _read_safetensors(path / WEIGHTS)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file of safetensors.

    Args:
        path (Path): A file.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is not installed.
        UsageError: If the file is damaged.
    """
    _require_safetensors(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint '{path}' does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(
            f"checkpoint '{path}' cannot be read, it is damaged or no safetensors file ({error})"
        ) from error


def _read_safetensors(path: Path) -> Checkpoint:
    found = Checkpoint('', load_safetensors(path))
    config = path.with_name(CONFIG)
    if config.is_file():
        try:
            found.config = json.loads(config.read_text(encoding='utf-8'))
        except ValueError as error:
            raise UsageError(f"'{config}' is no JSON ({error})") from error
        huggingface.check_config(found.config)
        found.facts = huggingface.facts_of_config(found.config)
        found.classes = huggingface.classes_of(found.config)
    return found


def _read_pth(path: Path, ema: bool) -> Checkpoint:
    """A checkpoint of mmengine's, of the official code's, or a plain state dict."""
    content = load_pickle(path)
    averaged, model = content.get('ema'), content.get('model')
    if isinstance(content.get('state_dict'), dict):
        return _read_mmengine(content, ema)
    if isinstance(averaged, dict) and isinstance(averaged.get('module'), dict):
        if ema:
            return Checkpoint('', averaged['module'], ema=True)
        if not isinstance(model, dict):
            raise UsageError(f"--no-ema: checkpoint '{path}' has averaged weights only")
    return Checkpoint('', model if isinstance(model, dict) else content)


def _read_mmengine(content: dict, ema: bool) -> Checkpoint:
    """mmengine swaps the two sets on saving: ``state_dict`` has the averaged weights."""
    meta, state, other = content.get('meta') or {}, content['state_dict'], content.get('ema_state_dict')
    if other and not ema:
        prefix = 'module.'
        state = {name.removeprefix(prefix): value for name, value in other.items() if name.startswith(prefix)}
    notes = dict(meta.get(NOTES) or {})
    frozen = notes.pop('frozen_norms', None)
    if frozen is None:  # trained here: frozen norms never count
        counters = [value for name, value in state.items() if name.startswith('backbone.') and name.endswith(COUNTER)]
        frozen = bool(counters) and not any(counters)
    classes = (meta.get('dataset_meta') or {}).get('classes')
    return Checkpoint(
        '', state, notes, tuple(map(str, classes)) if classes else None, bool(frozen), ema=bool(other) and ema
    )


def _find_form(path: Path, state: dict[str, Tensor], stated: str | None) -> str:
    """The format whose names the weights have; the stated one if they have no signs of any."""
    found = next((form for form, signs in SIGNS.items() if any(name.startswith(signs) for name in state)), stated)
    if found is None:
        names = ', '.join(list(state)[:3])
        raise UsageError(f"'{path}' is no checkpoint of RT-DETR: it has weights ({names}, ...) as none of its formats")
    if stated not in (None, found):
        raise UsageError(f"--from {stated}: the weights of '{path}' have the names of the format {found}")
    return found


def write_checkpoint(path: str | PathLike, checkpoint: Checkpoint) -> None:
    """Write a file whole or not at all; Hugging Face's is a folder.

    Args:
        path (str | PathLike): What exists is replaced; other files in a folder stay.
        checkpoint (Checkpoint): In the names of its format; Hugging Face's with ``config``.

    Raises:
        ImportError: If it takes safetensors, which is not installed.
        UsageError: If a folder is in a file's place, or the other way round.
    """
    path = Path(path)
    if checkpoint.form == 'hf':
        _require_safetensors(path)
        put(save(checkpoint.state, metadata=dict(format='pt')), path / WEIGHTS)
        write_json(path / CONFIG, checkpoint.config)
        return
    if checkpoint.form == 'mmscale':
        notes = dict(checkpoint.facts, frozen_norms=checkpoint.frozen_norms)
        content = dict(meta={'mmscale_version': __version__, NOTES: notes}, state_dict=checkpoint.state)
        if checkpoint.classes:
            content['meta']['dataset_meta'] = dict(classes=checkpoint.classes)
    else:
        content = dict(model=checkpoint.state)
    file = io.BytesIO()
    torch.save(content, file)
    put(file.getvalue(), path)


def check_output(path: str | PathLike, form: str) -> None:
    """Refuse a place that :func:`write_checkpoint` could not write to, before the work is done.

    Args:
        path (str | PathLike): Where the checkpoint goes.
        form (str): Its format.
    """
    path = Path(path)
    if form == 'hf':
        _require_safetensors(path)
        if path.is_file() or path.suffix in ('.safetensors', '.pth', '.pt', '.json'):
            raise UsageError(f"OUTPUT '{path}' should be a folder: Hugging Face's checkpoint is {WEIGHTS} and {CONFIG}")
    elif path.is_dir() or path.suffix not in ('.pth', '.pt'):
        raise UsageError(f"OUTPUT '{path}' should be a file, as model.pth")


def coco_classes(count: int) -> tuple[str, ...] | None:
    """COCO's names, if there are as many classes."""
    names = CocoDataset.METAINFO['classes']
    return tuple(names) if count == len(names) else None


def _require_safetensors(path: Path) -> None:
    if load_file is None:
        raise ImportError(f"'{path}' takes safetensors, which is not installed: pip install safetensors")
