"""Overrides of a config by dotted key, where a field that nothing would read is a mistake and not a silent new key."""

import difflib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
    DefaultScope,
    Registry,
)

from mmscale.engine.cli import keys_of_runner
from mmscale.options import options_of

__all__ = ['apply_overrides', 'check_options_of']

REGISTRIES = (
    MODELS, DATASETS, TRANSFORMS, METRICS, HOOKS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, TASK_UTILS,
)  # fmt: skip
# Fields that somebody takes out before the class around them is built: MMEngine's builder of optimizers, and MMCV's of
# normalisation layers.
TAKEN_OUT = dict(optim_wrapper=('constructor', 'paramwise_cfg'), norm_cfg=('requires_grad',))


def apply_overrides(cfg: Config, overrides: dict[str, Any]) -> None:
    """Merge overrides into a config.

    A key may name a field that the config has, or an argument of the class that the dict around it builds: ``fine`` in
    ``model.neck`` if the neck's class takes it. A class that hands unknown arguments on to another one
    (``**kwargs`` without an end) takes any. A variable of the config file that the runner does not read
    (``train_pipeline``) is no field: what was made from it keeps its value. A part of the model that becomes another
    class may not keep fields that the new class does not take.

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
        for key, value in overrides.items():
            _drop_marker(cfg, key.split('.'), value)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        reason = error.args[0] if error.args else error
        if plain := [key for key in overrides if _is_plain_list(_get(before, key.split('.')[:-1]))]:
            overrides, reason = plain, 'a list of plain values is set as a whole'
        raise ValueError(f"'{', '.join(overrides)}' does not fit into the config: {reason}") from error
    for key, value in overrides.items():
        for path in _leaves(tuple(key.split('.')), value):
            _check(before, cfg, path)


def _drop_marker(cfg: Config, path: Sequence[str], value: Any) -> None:
    """Let a dict with ``_delete_`` take an item's place in a list, where MMEngine merges it and keeps the mark."""
    if isinstance(value, dict) and value.get('_delete_') and isinstance(items := _get(cfg, path[:-1]), (list, tuple)):
        items[int(path[-1])] = ConfigDict({name: item for name, item in value.items() if name != '_delete_'})


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


def check_options_of(node: dict, cfg: Config) -> None:
    """Refuse fields that the class which a dict builds does not take.

    Args:
        node (dict): With a ``type``.
        cfg (Config): Whose ``default_scope`` the type is looked up in.

    Raises:
        ValueError: If no registry knows the type, or its class takes no such field.
    """
    cls = _class_of(node, cfg)
    names, takes_any = options_of(cls)
    for name in node:
        if name not in ('type', '_scope_', *names) and not takes_any:
            raise ValueError(f"{cls.__name__} takes no '{name}'{_near(name, names)}")


def _check(before: Config, after: Config, path: Sequence[str]) -> None:
    key = '.'.join(path)
    parent = _get(after, path[:-1])
    if path[-1] == 'type':
        _check_type(before, after, path)
    if path[0] in before and path[0] not in keys_of_runner():
        raise ValueError(
            f"'{path[0]}' is a variable of the config file, and what was made from it keeps its value; change the "
            'field itself, for instance train_dataloader.dataset.pipeline'
        )
    was, now = _get(before, path), _get(after, path)
    if isinstance(was, dict) and isinstance(now, dict) and 'type' in was and 'type' not in now:
        raise ValueError(f"'{key}' has no 'type' any more, which was '{was['type']}'")
    if was is not _ABSENT:
        return
    if path[0] not in before and path[0] in keys_of_runner():
        return  # mmengine reads it, and knows what may stand in it
    if not isinstance(parent, dict) or len(path) == 1:
        known = list(parent) if isinstance(parent, (dict, Config)) else []
        raise ValueError(f"the config has no '{key}'" + _near(path[-1], known))
    if 'type' not in parent:
        if len(path) > 1 and _get(before, path[:-1]) is _ABSENT and _set_whole(before, after, path[:-1]):
            return  # a plain dict handed to an argument that takes one: the class that gets it checks it
        raise ValueError(f"the config has no '{key}'" + _near(path[-1], list(parent)))
    if path[-1] == 'type' or any(path[-1] in names for owner, names in TAKEN_OUT.items() if path[-2].endswith(owner)):
        return
    if _known(before, parent['type']) is None and _get(before, (*path[:-1], 'type')) is not _ABSENT:
        return  # built by other means than a registry, as MMCV's nms: only its builder knows
    cls = _class_of(parent, after)
    names, takes_any = options_of(cls)
    if path[-1] not in names and not takes_any:
        raise ValueError(
            f"the config has no '{key}', and {cls.__name__} takes no '{path[-1]}'" + _near(path[-1], [*parent, *names])
        )


def _check_type(before: Config, after: Config, path: Sequence[str]) -> None:
    """A type that was set is known, and what stands beside it is for it."""
    was, node = _get(before, path), _get(after, path[:-1])
    if was is not _ABSENT and _known(before, was) is None:
        return
    cls = _class_of(node, after)
    if was not in (_ABSENT, node['type']) and isinstance(cls, type) and issubclass(cls, BaseModule):
        try:
            check_options_of(node, after)
        except ValueError as error:
            raise ValueError(
                f"'{'.'.join(path)}' was '{was}', and {error}; with _delete_: true a new dict takes its place"
            ) from None


def _is_plain_list(node: Any) -> bool:
    return isinstance(node, (list, tuple)) and not any(isinstance(item, dict) for item in node)


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
    cls = _known(cfg, node['type'])
    if cls is None:
        raise ValueError(f"no registry knows the type '{node['type']}'")
    return cls


def _known(cfg: Config, kind: Any) -> Any:
    """What a type stands for in any of the registries; None if they do not know it."""
    if not isinstance(kind, str):
        return kind
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        return next((cls for registry in REGISTRIES if (cls := _find(registry, kind)) is not None), None)


def _find(registry: Registry, name: str) -> Any:
    with registry.switch_scope_and_registry(None) as current:
        return current.get(name)


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, [other for other in names if other != name], n=1)
    return f", did you mean '{near[0]}'?" if near else ''
