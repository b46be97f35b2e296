"""Reading checkpoints: under torch's protection, with a sentence for whatever is wrong with a file.

Also what the tools ask of a checkpoint before they spend time on it: is the file whole, which is the newest, and does
it belong to this model?
"""
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

__all__ = ['Misfit', 'compare', 'fault', 'is_whole', 'latest_checkpoint', 'load_checkpoint', 'remove_partial',
           'require_weights']


def load_checkpoint(path: str | Path, map_location=None, mmap: bool | None = None) -> dict:
    """Load a checkpoint; unlike ``torch.load`` always under protection, and always with an answer to what went wrong.

    Args:
        path (str | Path): A local file.
        map_location (str | torch.device, optional): As in ``torch.load``. Defaults to None.
        mmap (bool, optional): Map the file instead of reading it, for a look at what it holds. Defaults to None: off.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is half-written, no checkpoint of weights, or holds a type that might run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint '{path}' does not exist")
    if not is_whole(path):
        raise ValueError(f"checkpoint '{path}' is empty or half-written (its writer was probably killed): take another")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True,
                                mmap=mmap and zipfile.is_zipfile(path))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged or crafted file makes of the unpickler
        raise ValueError(fault(path, error)) from error
    return require_weights(path, checkpoint)


def require_weights(name: str | Path, checkpoint: object) -> dict:
    """Return a loaded file if it is a checkpoint: a dict, of whose entries ``state_dict``, if any, holds tensors.

    Args:
        name (str | Path): The file, or where it was downloaded from.
        checkpoint (object): What it holds.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"checkpoint '{name}' holds a {type(checkpoint).__name__}; it should be a dict with a "
                         "'state_dict' of tensors")
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint '{name}' has a {type(state).__name__} as its 'state_dict'; it should be a dict "
                         'of tensors')
    for key, value in state.items():
        # A module's own _extra_state may be anything; so may what lies beside the weights in a file without state_dict.
        free = state is checkpoint or str(key).endswith('_extra_state')
        if not isinstance(key, str) or not (free or isinstance(value, torch.Tensor)):
            raise ValueError(f"checkpoint '{name}' has {key!r} of type {type(value).__name__} among its weights; they "
                             'should be tensors by name')
    return checkpoint


def fault(name: str | Path, error: Exception) -> str:
    """Say why ``torch.load`` failed; its own text names the culprit amid advice to switch the protection off.

    Args:
        name (str | Path): The file, or where it was downloaded from.
        error (Exception): What ``torch.load`` raised.
    """
    if not isinstance(error, pickle.UnpicklingError):
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = '' if said.isdigit() else f' ({said})'  # a key of the unpickler's says nothing
        return f"checkpoint '{name}' cannot be read, it is damaged or no checkpoint{reason}"
    culprit = re.search(r'GLOBAL (\S+)', str(error))
    if culprit:
        return (f"checkpoint '{name}' is refused: it holds '{culprit[1]}', which is not among the types that may be "
                'loaded without running foreign code')
    return (f"checkpoint '{name}' is refused: it is no checkpoint, or not of a kind that can be loaded without running "
            'foreign code')


def is_whole(path: str | Path) -> bool:
    """Whether a file was written to its end, as far as can be told without reading it all.

    torch writes a zip archive, whose table of contents comes last. Files in its format of before 1.6 pass if they are
    not empty, and folders (DeepSpeed's checkpoints) always.
    """
    path = Path(path)
    if path.is_dir():
        return True
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open('rb') as file:
        zipped = file.read(2) == b'PK'
    return not zipped or zipfile.is_zipfile(path)


def latest_checkpoint(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, also after a kill at a bad moment or a move of the folder.

    mmengine notes the newest in the file ``last_checkpoint``, by an absolute path and not atomically, so that note may
    be empty, half-written or point to where the folder used to be. A sound note is followed (the folder may hold files
    of an earlier run with higher numbers), first to the file of that name in this folder: after a copy the noted path
    is another run's. Else the youngest whole ``epoch_<n>.pth`` or ``iter_<n>.pth`` is taken.

    Args:
        work_dir (str | Path): The run's folder.

    Returns:
        tuple[Path | None, list[str]]: The checkpoint, None if there is none, and the names of damaged ones passed over.
    """
    work_dir, damaged = Path(work_dir), []
    numbered = [(path.stat().st_mtime, int(match[1]), path) for path in work_dir.glob('*.pth')
                if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name))]
    candidates = [path for _, _, path in sorted(numbered, reverse=True)]
    note = work_dir / 'last_checkpoint'
    noted = note.read_text(errors='replace').strip() if note.is_file() else ''
    if noted:
        candidates = [path for path in (work_dir / Path(noted).name, Path(noted)) if path.exists()] + candidates
    for path in candidates:
        if is_whole(path):
            return path, damaged
        if path.name not in damaged:
            damaged.append(path.name)
    return None, damaged


def remove_partial(work_dir: str | Path) -> None:
    """Remove what a killed run was about to write (see ``compat.write_files_whole``)."""
    for path in Path(work_dir).glob('.*.partial'):
        path.unlink(missing_ok=True)


@dataclass
class Misfit:
    """How a checkpoint and a model differ.

    Args:
        missing (list[str]): Weights of the model that the checkpoint lacks.
        unexpected (list[str]): Weights of the checkpoint that the model lacks.
        mismatched (list[str]): Weights of another shape, each with both shapes.
    """
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        """Counts and the first few names.

        Example:
            >>> print(Misfit(missing=['neck.a', 'neck.b', 'neck.c', 'neck.d'], unexpected=['fc.weight']))
            4 weights missing (neck.a, neck.b, neck.c, ...), 1 weight unexpected (fc.weight)
        """
        return ', '.join(f'{len(names)} weight{"s" * (len(names) > 1)} {kind} '
                         f'({", ".join(names[:3])}{", ..." if len(names) > 3 else ""})'
                         for kind, names in vars(self).items() if names)


def compare(model: nn.Module, checkpoint: dict) -> Misfit:
    """Load a checkpoint's weights into a model and say what did not fit, where mmengine logs a warning and goes on.

    It asks the modules themselves, so that a module that renames old weights on loading is not misunderstood.

    Args:
        model (nn.Module): The model, possibly in mmengine's wrapper for parallel training or test-time augmentation.
        checkpoint (dict): A checkpoint of mmengine, or a plain state dict.

    Returns:
        Misfit: Empty, hence false, if everything fits.
    """
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    state = checkpoint.get('state_dict', checkpoint)
    metadata = getattr(state, '_metadata', {})
    state = OrderedDict((re.sub(r'^module\.', '', name), value) for name, value in state.items())
    misfit, errors = Misfit(), []

    def visit(module: nn.Module, prefix: str) -> None:
        module._load_from_state_dict(state, prefix, metadata.get(prefix[:-1], {}), True, misfit.missing,
                                     misfit.unexpected, errors)
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f'{prefix}{name}.')

    visit(model, '')
    # A counter that nothing but BatchNorm(momentum=None) reads; old checkpoints lack it, and mmengine ignores it too.
    misfit.missing = [name for name in misfit.missing if not name.endswith('num_batches_tracked')]
    for error in errors:
        shape = re.match(r'size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)', error, re.S)
        misfit.mismatched.append(f'{shape[1]} {shape[2]} instead of {shape[3]}' if shape else error.split('\n')[0])
    return misfit
