"""Data sets as a config describes them: built with a sentence for an empty one, and their pipelines."""

import contextlib
import io
from typing import Any

from mmengine.registry import DATASETS, DefaultScope

__all__ = ['build_dataset', 'find_pipelines', 'type_name']


def build_dataset(dataset: dict, scope: str | None = None) -> Any:
    """Builds a data set, wrapped or not.

    Args:
        dataset (dict): Its config.
        scope (str, optional): The config's ``default_scope``. Defaults to None, for 'mmdet'.

    Raises:
        ValueError: It has no image, or ``filter_cfg`` left none, on which MMEngine's own data sets break.
    """
    silent = contextlib.redirect_stdout(io.StringIO())  # pycocotools prints while it reads
    with DefaultScope.overwrite_default_scope(scope or 'mmdet'), silent:
        try:
            built = DATASETS.build(dataset)
        except ValueError as error:
            if 'need at least one array to concatenate' not in str(error):  # how MMEngine serializes an empty list
                raise
            built = ()
    if not len(built):
        raise ValueError(
            f"data set {type_name(dataset)} with ann_file='{_first(dataset, 'ann_file')}' has no image, at least none "
            f'that filter_cfg={_first(dataset, "filter_cfg")} leaves'
        )
    return built


def find_pipelines(dataset: Any) -> list[list]:
    """All pipelines of a data set's config, also of data sets that wrap or join others.

    Args:
        dataset (dict | list): For instance ``cfg.test_dataloader.dataset``.

    Returns:
        list[list[dict]]: The configs' own lists, to be changed in place.
    """
    if isinstance(dataset, (list, tuple)):
        return [pipeline for item in dataset for pipeline in find_pipelines(item)]
    if not isinstance(dataset, dict):
        return []
    own = [dataset['pipeline']] if dataset.get('pipeline') else []
    return own + find_pipelines(dataset.get('dataset')) + find_pipelines(dataset.get('datasets'))


def type_name(node: dict) -> str:
    """The type of a config's node without its scope, whether it is written as a name or as the class itself.

    Example:
        >>> type_name(dict(type='mmdet.Resize')), type_name(dict(type=dict))
        ('Resize', 'dict')
    """
    kind = node['type']
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _first(node: Any, key: str) -> Any:
    """A value of the data set, or of the first one inside it that has it; None where none has."""
    if isinstance(node, (list, tuple)):
        return next((value for item in node if (value := _first(item, key)) is not None), None)
    if not isinstance(node, dict):
        return None
    return node[key] if node.get(key) else _first([node.get('dataset'), node.get('datasets')], key)
