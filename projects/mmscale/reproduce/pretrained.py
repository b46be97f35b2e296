"""Pretrained weights of a row: had, or done without when the user says so; never missing in silence."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

__all__ = ['from_scratch', 'pretrained_files', 'require_pretrained']


def pretrained_files(cfg: Config) -> list[str]:
    """Names of the weights that a config's model starts from."""
    found: list[str] = []
    for node, key in _places(cfg.model):
        entries = node[key] if isinstance(node[key], (list, tuple)) else [node[key]]
        found += [entry.checkpoint if isinstance(entry, dict) else entry for entry in entries if _loads(entry)]
    if cfg.get('load_from'):
        found.append(cfg.load_from)
    return list(dict.fromkeys(found))


def require_pretrained(cfg: Config, timeout: float = 30.0) -> None:
    """Fetch a config's pretrained weights, so that every run finds them on the disk.

    Args:
        cfg (Config): Of a row.
        timeout (float): Seconds without an answer before a download is given up. Defaults to 30.

    Raises:
        ValueError: If weights cannot be had; it says what would help.
    """
    for name in pretrained_files(cfg):
        try:
            with _timeout(timeout):
                CheckpointLoader.load_checkpoint(name, map_location='cpu')
        except Exception as error:  # whatever a scheme's loader raises: no network, no file, no such name
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the pretrained weights '{name}' cannot be had ({reason}); put them there, or train "
                'without them: --from-scratch'
            ) from error


def from_scratch(cfg: Config) -> list[str]:
    """Drop pretrained weights, and what only makes sense with them.

    A stage whose weights are random is not frozen, and batch norm is trained: ``frozen_stages``, ``norm_eval`` and
    ``norm_cfg.requires_grad`` of the backbone are set so.

    Args:
        cfg (Config): Changed in place.

    Returns:
        list[str]: What was changed, for a warning.
    """
    changed = [f"'{name}' is not loaded" for name in pretrained_files(cfg)]
    if not changed:
        return []
    for node, key in list(_places(cfg.model)):
        if isinstance(node[key], (list, tuple)):
            node[key] = [entry for entry in node[key] if not _loads(entry)]
        else:
            node[key] = None
    cfg.load_from = None
    backbone = cfg.model.get('backbone') or {}
    if backbone.get('frozen_stages', -1) >= 0:
        backbone.frozen_stages = -1
        changed.append('no stage of the backbone is frozen')
    norm = backbone.get('norm_cfg') or {}
    if backbone.get('norm_eval') or norm.get('requires_grad') is False:
        if 'norm_eval' in backbone:
            backbone.norm_eval = False
        if 'requires_grad' in norm:
            norm.requires_grad = True
        changed.append("the backbone's batch norm is trained")
    return changed


def _places(node: Any) -> Iterator[tuple[dict, str]]:
    """Every key of the model that names weights to load."""
    if isinstance(node, dict):
        for key, value in node.items():
            entries = value if isinstance(value, (list, tuple)) else [value]
            if (key == 'init_cfg' and any(_loads(entry) for entry in entries)) or (
                key == 'pretrained' and isinstance(value, str)
            ):
                yield node, key
            elif isinstance(value, (dict, list, tuple)):
                yield from _places(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _places(item)


def _loads(entry: Any) -> bool:
    return isinstance(entry, str) or (isinstance(entry, dict) and str(entry.get('type')).endswith('Pretrained'))


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
