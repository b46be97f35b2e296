"""State dict files of ultralytics' form."""

import re
from os import PathLike
from pathlib import Path

from torch import Tensor

from mmscale.convert.checkpoint import load_pickle, load_safetensors, require_finite, require_tensors
from mmscale.engine.cli import UsageError

__all__ = ['read_state']

PREFIXES = re.compile(r'((?:module\.|model\.)*)(\d+\..+)')  # of wrappers around the list of layers


def read_state(path: str | PathLike) -> dict[str, Tensor]:
    """Read a state dict.

    Args:
        path (str | PathLike): A plain dict of tensors, or one with it under ``'ema'`` (preferred), ``'model'`` or
            ``'state_dict'``; ``.safetensors``.

    Returns:
        dict[str, Tensor]: The weights by their official names, ``model.0.conv.weight``, ...

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it takes safetensors, which is not installed.
        UsageError: If it is a folder or no checkpoint, holds whole modules, as the official files do, or no weights, or
            NaN or infinity is among them.
        ValueError: If it is damaged.
    """
    path = Path(path)
    safe = path.suffix == '.safetensors' and not path.is_dir()
    content = load_safetensors(path) if safe else _read_pickle(path)
    for key in ('ema', 'model', 'state_dict'):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    require_tensors(path, content)
    require_finite(content)
    matches = {name: PREFIXES.fullmatch(name) for name in content}
    if all(matches.values()) and len({match[1] for match in matches.values()}) == 1:
        return {f'model.{matches[name][2]}': value for name, value in content.items()}
    return dict(content)


def _read_pickle(path: Path) -> dict:
    try:
        return load_pickle(path)
    except ValueError as error:
        culprit = re.search(r"is refused: it holds '([^']+)'", str(error))
        if culprit is None:
            raise
        raise UsageError(
            f"'{path}' is no state dict but a pickle of whole objects ('{culprit[1]}'), which cannot be read without "
            'running foreign code; where the package that wrote it is installed, this writes the state dict: '
            f'python -c "import torch; from ultralytics import YOLO; torch.save('
            f"YOLO('{path}').model.float().state_dict(), '{path.stem}_state.pt')\""
        ) from error
