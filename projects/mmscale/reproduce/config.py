"""From a row of a table to the config that is counted or trained."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from .dataset import resize_images, swap_dataset
from .optional import absent_package, read_config
from .overrides import apply_overrides, check_options_of
from .pretrained import from_scratch
from .schedule import fit_schedule, save_every_epoch, set_epochs
from .spec import Row, SpecError, Table

__all__ = ['Settings', 'count_config', 'fit_schedule', 'row_config']


@dataclass(frozen=True)
class Settings:
    """What of an experiment changes its numbers.

    Attributes:
        dataset (str | None): A data layer of ``configs/_base_/datasets`` in place of the row's own.
        epochs (int | None): Length of the run; None for the row's own schedule.
        from_scratch (bool): Whether pretrained weights are dropped.
        batch_size (int | None): Images per GPU (or CPU process) and step.
        image_scale (tuple[int, int] | None): Width and height for every transform that resizes.
        amp (bool): Mixed precision.
        auto_scale_lr (bool): Whether the learning rate follows the batch size, where the config states its own.
        cfg_options (dict[str, Any]): The user's last word, by dotted key.
    """

    dataset: str | None = None
    epochs: int | None = None
    from_scratch: bool = False
    batch_size: int | None = None
    image_scale: tuple[int, int] | None = None
    amp: bool = False
    auto_scale_lr: bool = True
    cfg_options: dict[str, Any] = field(default_factory=dict)


def row_config(table: Table, row: Row, settings: Settings | None = None) -> Config:
    """The config that trains a row; work folder, launcher and seed are the run's.

    Args:
        table (Table): The row's table.
        row (Row): One that can run.
        settings (Settings, optional): The experiment's. Defaults to None: the row as it stands.

    Raises:
        SpecError: If an override names a field that the config does not have, or the table an evaluator that there is
            not; the sentence names file, table and row.
        ValueError: If the settings do not fit the row, or its config needs a package that is not installed.
    """
    settings = settings or Settings()
    cfg = _base_config(table, row)
    where = f"row '{row.name}' of {table.name}"
    try:
        if settings.dataset is not None:
            swap_dataset(cfg, settings.dataset)
        if settings.image_scale is not None:
            resize_images(cfg, settings.image_scale)
        if settings.epochs is not None:
            set_epochs(cfg, settings.epochs)
        if settings.from_scratch:
            cfg.reproduce_from_scratch = from_scratch(cfg)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    if table.evaluators:
        own = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        cfg.test_evaluator = [*deepcopy(own), *deepcopy(list(table.evaluators))]
        try:
            for evaluator in table.evaluators:
                check_options_of(evaluator, cfg)
        except ValueError as error:
            raise SpecError(f"{table.file}: table '{table.key}', 'evaluators': {error}") from error
    if settings.batch_size is not None:
        cfg.train_dataloader.batch_size = settings.batch_size
        optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
        if 'batch_size_per_gpu' in optimizer:  # the YOLOs' weight decay follows it
            optimizer.batch_size_per_gpu = settings.batch_size
    if settings.amp:
        if (kind := cfg.optim_wrapper.get('type', 'OptimWrapper')) not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ValueError(f"{where}: --amp needs optim_wrapper.type 'OptimWrapper', but the config has '{kind}'")
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if 'base_batch_size' in (cfg.get('auto_scale_lr') or {}):
        cfg.auto_scale_lr.enable = settings.auto_scale_lr
    save_every_epoch(cfg)
    try:
        apply_overrides(cfg, settings.cfg_options)
    except ValueError as error:
        raise ValueError(f'{where}: --cfg-options: {error}') from error
    return cfg


def count_config(table: Table, row: Row) -> Config:
    """The config whose cost is counted: the row's, with what it changes for the count alone."""
    cfg = _base_config(table, row)
    _apply(cfg, table, row, 'count_set')
    return cfg


def _base_config(table: Table, row: Row) -> Config:
    waits_for = row.waits_for or (None if row.quoted else absent_package(row))
    if row.quoted or waits_for:
        reason = 'the paper only quotes it' if row.quoted else f'it waits for {waits_for}'
        raise ValueError(f"row '{row.name}' of {table.name} cannot run: {reason}")
    try:
        cfg = deepcopy(read_config(row.config))  # Config.copy() shares what is nested
    except (FileNotFoundError, AssertionError, ModuleNotFoundError) as error:
        raise SpecError(
            f"{table.file}: table '{table.key}', row '{row.name}': the config '{row.config}' cannot be read "
            f'({" ".join(str(error).split())})'
        ) from error
    if row.dataset is not None:
        try:
            swap_dataset(cfg, row.dataset)
        except ValueError as error:
            raise SpecError(f"{table.file}: table '{table.key}', row '{row.name}', 'dataset': {error}") from error
    _apply(cfg, table, row, 'set')
    return cfg


def _apply(cfg: Config, table: Table, row: Row, key: str) -> None:
    try:
        apply_overrides(cfg, deepcopy(getattr(row, key)))
    except ValueError as error:
        raise SpecError(f"{table.file}: table '{table.key}', row '{row.name}', '{key}': {error}") from error
