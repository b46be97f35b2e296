"""Overrides of a config by dotted key, where a field that nothing would read is a mistake and not a silent new key."""

import difflib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    DefaultScope,
    Registry,
)

from mmscale.engine.cli import keys_of_runner
from mmscale.options import options_of

__all__ = ['apply_overrides']

REGISTRIES = (
    MODELS, DATASETS, TRANSFORMS, METRICS, HOOKS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS,
)  # fmt: skip


def apply_overrides(cfg: Config, overrides: dict[str, Any]) -> None:
    """Merge overrides into a config.

    A key may name a field that the config has, or an argument of the class that the dict around it builds: ``fine`` in
    ``model.neck`` if the neck's class takes it. A class that hands unknown arguments on to another one
    (``**kwargs`` without an end) takes any.

    Args:
        cfg (Config): Changed in place.
        overrides (dict[str, Any]): Values by dotted key; a dict is merged into the config's, with ``_delete_=True`` it
            takes its place.

    Raises:
        ValueError: If nothing would read the field; the sentence names the key.
    """
    before = deepcopy(cfg)  # Config.copy() shares what is nested
    try:
        cfg.merge_from_dict(dict(overrides))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{', '.join(overrides)}' does not fit into the config: {error.args[0] if error.args else error}"
        ) from error
    for key, value in overrides.items():
        for path in _leaves(tuple(key.split('.')), value):
            _check(before, cfg, path)


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """Every field that an override sets, dicts opened."""
    if not isinstance(value, dict):
        yield path
    elif value.get('_delete_'):
        yield path  # a dict of its own: the field itself is the override
        for name, item in value.items():
            if name != '_delete_':
                yield from _leaves((*path, name), item)
    else:
        for name, item in value.items():
            yield from _leaves((*path, name), item)


def _check(before: Config, after: Config, path: Sequence[str]) -> None:
    if _get(before, path) is not _ABSENT:
        return
    key = '.'.join(path)
    parent = _get(after, path[:-1])
    if path[0] not in before and path[0] in keys_of_runner():
        return  # mmengine reads it, and knows what may stand in it
    if not isinstance(parent, dict) or len(path) == 1:
        known = list(parent) if isinstance(parent, (dict, Config)) else []
        raise ValueError(f"the config has no '{key}'" + _near(path[-1], known))
    if 'type' not in parent:
        if len(path) > 1 and _get(before, path[:-1]) is _ABSENT and _set_whole(before, after, path[:-1]):
            return  # a plain dict handed to an argument that takes one: the class that gets it checks it
        raise ValueError(f"the config has no '{key}'" + _near(path[-1], list(parent)))
    if path[-1] == 'type':
        _class_of(parent, after)
        return
    cls = _class_of(parent, after)
    names, takes_any = options_of(cls)
    if path[-1] not in names and not takes_any:
        raise ValueError(
            f"the config has no '{key}', and {cls.__name__} takes no '{path[-1]}'" + _near(path[-1], [*parent, *names])
        )


def _set_whole(before: Config, after: Config, path: Sequence[str]) -> bool:
    """Whether a new dict without a type is an argument that its owner's class takes."""
    if not path:
        return False
    _check(before, after, path)
    return True


_ABSENT = object()


def _get(cfg: Any, path: Sequence[str]) -> Any:
    node = cfg
    for name in path:
        if isinstance(node, (list, tuple)) and name.lstrip('-').isdigit() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, (dict, Config)) and name in node:
            node = node[name]
        else:
            return _ABSENT
    return node


def _class_of(node: dict, cfg: Config) -> Any:
    """The class that a dict with a ``type`` builds."""
    if not isinstance(node['type'], str):
        return node['type']
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        for registry in REGISTRIES:
            cls = _find(registry, node['type'])
            if cls is not None:
                return cls
    raise ValueError(f"no registry knows the type '{node['type']}'")


def _find(registry: Registry, name: str) -> Any:
    with registry.switch_scope_and_registry(None) as current:
        return current.get(name)


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
    return f", did you mean '{near[0]}'?" if near else ''
