"""How a detector's metrics fall as Gaussian noise on its test images grows.

CSF-Net's table 1 asks this of one model. Here it is asked of any number of them, on the very same noise (see
:class:`mmscale.datasets.GaussianNoise`): sigma is in grey levels of 0..255, each image's noise is drawn once and only
scaled, and it is added right after the image is loaded, before any resizing. The clean figure, sigma 0, is the one that
``tools/test.py`` prints: every figure comes from the same test loop, and the checkpoint passes the same checks.
"""

import argparse
import difflib
import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import LOOPS

from mmscale.engine import test as engine
from mmscale.files import markdown_table

from .datasets import find_pipelines, type_name
from .pictures import save_figure
from .progress_loop import ProgressLoop

__all__ = ['NoiseCurve', 'add_noise', 'check_sigmas', 'draw_curves', 'noise_curve', 'noise_table']


@dataclass
class NoiseCurve:
    """One model's metrics under noise.

    Attributes:
        name (str): The model's name in tables and the plot.
        config (str): Its config.
        checkpoint (str): Its checkpoint.
        sigmas (list[float]): From 0 up.
        metrics (list[dict[str, float]]): All metrics of the evaluator, for every sigma.
    """

    name: str
    config: str
    checkpoint: str
    sigmas: list[float]
    metrics: list[dict[str, float]]

    def values(self, metric: str) -> list[float]:
        """One metric for every sigma."""
        return [metrics[metric] for metrics in self.metrics]

    def drops(self, metric: str) -> list[float]:
        """What is lost of one metric's clean value, as a share of it; NaN where the clean value is zero.

        Example:
            >>> NoiseCurve('a', '', '', [0, 9], [{'coco/AP': 0.5}, {'coco/AP': 0.25}]).drops('coco/AP')
            [0.0, 0.5]
        """
        clean, *_ = values = self.values(metric)
        return [(clean - value) / clean if clean else math.nan for value in values]

    def to_dict(self) -> dict[str, Any]:
        """All fields; ready for JSON, which knows no NaN."""
        content = asdict(self)
        content['metrics'] = [
            {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            for metrics in content['metrics']
        ]
        return content


@LOOPS.register_module()
class NoiseSweepLoop(ProgressLoop):
    """MMEngine's test loop once for every sigma, with one model.

    Args:
        runner (Runner): The runner.
        dataloader (dict): The test loader's config, with :class:`~mmscale.datasets.GaussianNoise` in its pipelines.
        evaluator (dict | list): The evaluator's config.
        sigmas (Sequence[float]): In this order.
        metrics (Sequence[str]): Names that the evaluator must give; asked for after the first sigma.
        fp16 (bool): As in the base class. Defaults to False.
    """

    def __init__(
        self,
        runner,
        dataloader: dict,
        evaluator: dict | list,
        sigmas: Sequence[float],
        metrics: Sequence[str],
        fp16: bool = False,
    ) -> None:
        self.config = dataloader
        self.sigmas = list(sigmas)
        self.wanted = list(metrics)
        super().__init__(runner, self._loader_config(self.sigmas[0]), evaluator, fp16, rounds=len(self.sigmas))

    def _loader_config(self, sigma: float) -> dict:
        config = deepcopy(self.config)
        for pipeline in find_pipelines(config['dataset']):
            for transform in pipeline:
                if transform['type'] == 'mmscale.GaussianNoise':
                    transform['sigma'] = sigma
        return config

    def run(self) -> dict:
        """Test at every sigma.

        Returns:
            dict: ``metrics``, a list with a dictionary for every sigma.

        Raises:
            ValueError: If the evaluator gives none of a wanted name.
        """
        results = []
        with self.bar:
            for index, sigma in enumerate(self.sigmas):
                if index:
                    # workers keep their copy of the data set, so another sigma needs another loader
                    self.dataloader = self.runner.build_dataloader(self._loader_config(sigma), seed=self.runner.seed)
                self.bar.set_postfix(sigma=f'{sigma:g}')
                metrics = super().run()
                require_metrics(self.wanted, metrics)
                results.append({name: float(value) for name, value in metrics.items() if is_number(value)})
        return dict(metrics=results)


def is_number(value: Any) -> bool:
    """Whether a metric is one figure; some evaluators also hand over lists and texts."""
    return isinstance(value, (int, float)) or getattr(value, 'ndim', None) == 0


def require_metrics(wanted: Sequence[str], metrics: dict) -> None:
    """Refuse a metric that the evaluator does not give, naming what it gives."""
    given = [name for name, value in metrics.items() if is_number(value)]
    for name in wanted:
        if name not in given and is_main_process():
            near = difflib.get_close_matches(name, given, n=3, cutoff=0.5) or given
            raise ValueError(f"the test evaluator gives no metric '{name}': choose among {', '.join(near)}")


def check_sigmas(sigmas: Sequence[float]) -> list[float]:
    """Sort the strengths, and put the clean images in front, to which drops refer.

    Raises:
        ValueError: If one is negative or no finite number.

    Example:
        >>> check_sigmas([20, 5, 5])
        [0.0, 5.0, 20.0]
    """
    for sigma in sigmas:
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f'sigma {sigma!r} must be a number from 0, in grey levels of 0..255')
    return sorted({0.0, *map(float, sigmas)})


def add_noise(cfg: Config, seed: int = 0) -> None:
    """Put the noise right after the loading of the image in every pipeline of the test set; its sigma is still 0.

    Args:
        cfg (Config): As :func:`mmscale.engine.test.prepare` makes it; changed in place.
        seed (int): Of the noise. Defaults to 0.

    Raises:
        ValueError: If a pipeline loads no image.
    """
    pipelines = find_pipelines(cfg.test_dataloader.dataset)
    if not pipelines:
        raise ValueError(f"config '{cfg.filename}' has no test pipeline (test_dataloader.dataset.pipeline)")
    for pipeline in pipelines:
        names = [type_name(transform) for transform in pipeline]
        loads = [index for index, name in enumerate(names) if name.startswith('LoadImage')]
        if not loads:
            raise ValueError(
                f"the test pipeline of config '{cfg.filename}' loads no image (LoadImageFromFile), so there is no "
                f'place for the noise: {", ".join(names)}'
            )
        pipeline.insert(loads[0] + 1, ConfigDict(type='mmscale.GaussianNoise', sigma=0.0, seed=seed))


def noise_curve(
    args: argparse.Namespace, sigmas: Sequence[float], metrics: Sequence[str] = (), name: str = '', seed: int = 0
) -> NoiseCurve:
    """Test one model at every sigma.

    Args:
        args (argparse.Namespace): What to test, as :func:`mmscale.engine.test.build_parser` makes it.
        sigmas (Sequence[float]): In grey levels; 0 is added.
        metrics (Sequence[str]): Names that the evaluator must give. Defaults to ().
        name (str): The model's name. Defaults to '', the config's.
        seed (int): Of the noise. Defaults to 0.

    Returns:
        NoiseCurve: All metrics of the evaluator.

    Raises:
        ValueError: If the config, the checkpoint, a sigma or a metric is wrong.
    """
    sigmas = check_sigmas(sigmas)
    cfg = engine.prepare(args)
    kind = cfg.test_cfg.get('type', 'TestLoop')
    if kind != 'TestLoop':
        raise ValueError(f"test_cfg.type '{kind}' of config '{args.config}' should be 'TestLoop'")
    add_noise(cfg, seed)
    name = name or Path(args.config).stem
    cfg.progress_name = name
    cfg.test_cfg = ConfigDict({**cfg.test_cfg, 'type': 'NoiseSweepLoop', 'sigmas': sigmas, 'metrics': list(metrics)})
    results = engine.test(cfg, allow_partial=args.allow_partial)
    return NoiseCurve(name, str(args.config), str(args.checkpoint), sigmas, results['metrics'])


def noise_table(curves: Sequence[NoiseCurve], metric: str) -> str:
    """A Markdown table: a row per model, a column per sigma, the relative drop in brackets.

    Args:
        curves (Sequence[NoiseCurve]): The models, at the same sigmas.
        metric (str): Which metric.
    """
    rows = [[metric, *(f'sigma {sigma:g}' for sigma in curves[0].sigmas)]]
    for curve in curves:
        values, drops = curve.values(metric), curve.drops(metric)
        changes = ['n/a' if math.isnan(drop) else f'{-drop:+.1%}' for drop in drops]
        cells = [f'{value:.4f} ({change})' for value, change in zip(values, changes, strict=True)]
        rows.append([curve.name, f'{values[0]:.4f}', *cells[1:]])
    return markdown_table(rows, right=range(1, len(rows[0])))


def draw_curves(path: str | PathLike, curves: Sequence[NoiseCurve], metrics: Sequence[str]) -> None:
    """Plot the metrics over sigma: a panel per metric, a line per model.

    Args:
        path (str | PathLike): The picture's file.
        curves (Sequence[NoiseCurve]): The models.
        metrics (Sequence[str]): Names of metrics.
    """
    figure = Figure(figsize=(4.4 * len(metrics), 3.4), layout='constrained')
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for curve in curves:
            axis.plot(curve.sigmas, curve.values(metric), marker='o', markersize=4, label=curve.name)
        axis.set_xlabel('sigma of the noise (grey levels of 0..255)')
        axis.set_ylabel(metric)
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(path, figure)
