"""Detection errors of a baseline and a candidate side by side, as in FINE's table 5, from weights or from predictions.

The counting is :class:`mmscale.DetectionErrorMetric`'s. The ground truth is the one that the config's own evaluator
reads: its annotation file, or else the data set's instances in the images' own pixels.
"""

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import load

from mmscale.datasets import CocoFile
from mmscale.datasets.reading import read_json
from mmscale.engine import test as testing
from mmscale.evaluation import DetectionErrorMetric
from mmscale.evaluation.matching import RANGES, Counts, Matches

from .datasets import build_dataset
from .progress_loop import ProgressLoop

__all__ = ['Run', 'best_f1', 'build_bare', 'check_comparable', 'match_file', 'predict', 'sweep', 'to_dict']

RESULT_KEYS = {'image_id', 'category_id', 'bbox', 'score'}


@dataclass(frozen=True)
class Run:
    """One detector's outcome on the test set.

    Args:
        name (str): What to call it.
        matches (Matches): Its detections matched with the ground truth.
    """

    name: str
    matches: Matches


def predict(
    config: str,
    checkpoint: str,
    out: Path,
    cfg_options: dict | None = None,
    allow_partial: bool = False,
    verbose: bool = False,
) -> None:
    """Runs the test set of a config and writes the predictions, as ``test.py --out`` does, without evaluating them.

    Args:
        config (str): The config file.
        checkpoint (str): The weights.
        out (Path): The pickle to write.
        cfg_options (dict, optional): Overrides by dotted key. Defaults to None.
        allow_partial (bool): Whether to go on if the weights do not fit the model. Defaults to False.
        verbose (bool): Whether to show the runner's log instead of a progress bar. Defaults to False.
    """
    args = testing.build_parser().parse_args([config, checkpoint])
    args.cfg_options = dict(cfg_options or {})
    if not verbose:
        args.cfg_options.setdefault('log_level', 'WARNING')
    cfg = testing.prepare(args)
    if not verbose and cfg.test_cfg.get('type', 'TestLoop') == 'TestLoop':
        cfg.progress_name = out.stem
        cfg.test_cfg = ConfigDict({**cfg.test_cfg, 'type': ProgressLoop.__name__})
    out.parent.mkdir(parents=True, exist_ok=True)
    cfg.test_evaluator = dict(type='mmdet.DumpDetResults', out_file_path=str(out))
    testing.test(cfg, allow_partial=allow_partial)


def match_file(path: str, cfg: Config | None, ann_file: str | None = None, iou_thr: float = 0.5) -> Matches:
    """Matches the predictions of a file with the ground truth.

    Args:
        path (str): A pickle of ``test.py --out``, or a JSON file of COCO results, such as
            ``mmscale.DetectionMetric(outfile_prefix=...)`` writes.
        cfg (Config, optional): The config of the test set. None for COCO results with an ``ann_file``, whose
            categories are then the classes.
        ann_file (str, optional): The COCO file of the ground truth. Defaults to None: the one that the config's test
            evaluator has, else the data set's instances.
        iou_thr (float): The IoU from which a detection finds an object. Defaults to 0.5.

    Raises:
        ValueError: The file holds no predictions, or they do not fit the ground truth.
    """
    pickled = Path(path).suffix in ('.pkl', '.pickle')
    if cfg is None and (pickled or ann_file is None):
        raise ValueError(f"predictions '{path}' need a config" + ('' if pickled else ', or the COCO file --ann-file'))
    dataset = None if cfg is None else build_bare(cfg.test_dataloader.dataset, cfg.get('default_scope'))
    ann_file = ann_file or _own_ann_file(cfg)
    file = None if ann_file is None else CocoFile.read(ann_file)
    classes = tuple(file.categories.values()) if dataset is None else tuple(dataset.metainfo['classes'])
    infos = {} if file else {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    known = list(file.images) if file else list(infos)
    samples = _read_pickle(path) if pickled else _read_results(path, classes, file, known)
    metric = DetectionErrorMetric(ann_file=ann_file, iou_thr=iou_thr)
    metric.dataset_meta = dict(classes=classes)
    for sample in samples:
        metric.process({}, [sample if file else _with_truth(sample, infos, path)])
    if file is None and len(metric.results) != len(infos):
        raise ValueError(
            f"predictions '{path}' are of {len(metric.results)} images, the config's test set has {len(infos)}"
        )
    return metric.match(metric.results)


def build_bare(dataset: dict, scope: str | None = None):
    """Builds a data set, wrapped or not, without its pipelines: it reads annotations and no image.

    Args:
        dataset (dict): Its config.
        scope (str, optional): The config's ``default_scope``. Defaults to None, for 'mmdet'.
    """

    def bare(node):
        if isinstance(node, dict):
            return {key: [] if key == 'pipeline' else bare(value) for key, value in node.items()}
        return [bare(item) for item in node] if isinstance(node, (list, tuple)) else node

    return build_dataset(bare(dataset), scope)


def _own_ann_file(cfg: Config) -> str | None:
    """The annotation file of the config's test evaluator, if one of its metrics has one."""
    evaluator = cfg.get('test_evaluator') or []
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return next((metric['ann_file'] for metric in metrics if metric.get('ann_file')), None)


def _read_pickle(path: str) -> list[dict]:
    """Data samples as ``test.py --out`` writes them."""
    try:
        samples = load(path)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"predictions '{path}' are no whole pickle ({error})") from error
    if not isinstance(samples, list) or not all(
        isinstance(entry, dict) and 'pred_instances' in entry for entry in samples
    ):
        raise ValueError(
            f"predictions '{path}' should be what 'test.py --out' writes: a list of data samples with pred_instances"
        )
    return samples


def _read_results(path: str, classes: Sequence[str], file: CocoFile | None, images: Iterable) -> list[dict]:
    """COCO results as data samples, one for every image of the ground truth."""
    entries = read_json(path, 'predictions')
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and entry.keys() >= RESULT_KEYS for entry in entries
    ):
        raise ValueError(f"predictions '{path}' should be COCO results: a list of objects with {sorted(RESULT_KEYS)}")
    ids = range(len(classes)) if file is None else file.category_ids(classes)
    labels = {key: label for label, key in enumerate(ids) if key is not None}
    grouped = {image: [] for image in images}
    for entry in entries:
        for key, known in (('image_id', grouped), ('category_id', labels)):
            if entry[key] not in known:
                raise ValueError(
                    f"predictions '{path}' have the {key} {entry[key]!r}, which the ground truth does not have"
                )
        if not isinstance(entry['bbox'], list) or len(entry['bbox']) != 4:
            raise ValueError(f"predictions '{path}' have the bbox {entry['bbox']!r}, not [x, y, width, height]")
        x, y, width, height = entry['bbox']
        grouped[entry['image_id']].append((x, y, x + width, y + height, entry['score'], labels[entry['category_id']]))
    samples = []
    for image, rows in grouped.items():
        table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
        found = dict(bboxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())
        samples.append(dict(img_id=image, pred_instances=found))
    return samples


def _with_truth(sample: dict, infos: dict, path: str) -> dict:
    """A sample with its image's instances from the data set."""
    if sample['img_id'] not in infos:
        raise ValueError(
            f"predictions '{path}' are of image {sample['img_id']!r}, which is not in the config's test set"
        )
    info = infos[sample['img_id']]
    parts = [
        [item for item in info['instances'] if bool(item.get('ignore_flag', 0)) == ignored] for ignored in (False, True)
    ]
    truths = [
        dict(
            bboxes=torch.tensor([item['bbox'] for item in part], dtype=torch.float64).reshape(-1, 4),
            labels=torch.tensor([item['bbox_label'] for item in part], dtype=torch.long),
        )
        for part in parts
    ]
    return dict(
        sample,
        ori_shape=(info['height'], info['width']),
        gt_instances=truths[0],
        ignored_instances=truths[1],
        ignored_regions=info.get('ignored_regions', []),
    )


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuses runs on different ground truth, whose counts would be no comparison.

    Raises:
        ValueError: The classes, the number of images or the number of objects differ.
    """
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"both runs are called '{runs[0].name}': give them different --names")
    facts = [(run.matches.classes, run.matches.num_images, run.matches.truths.tolist()) for run in runs]
    for run, fact in zip(runs, facts, strict=True):
        if fact != facts[0]:
            told = [
                f"'{item.name}' has {other[1]} images, {int(item.matches.truths[0].sum())} objects and the classes "
                f'{other[0]}'
                for item, other in ((runs[0], facts[0]), (run, fact))
            ]
            raise ValueError(f'the runs have different ground truth and cannot be compared: {"; ".join(told)}')


def sweep(matches: Matches, thresholds: Sequence[float]) -> list[tuple[float, Counts]]:
    """The counts at several score thresholds."""
    return [(threshold, matches.count(threshold)) for threshold in thresholds]


def best_f1(matches: Matches) -> tuple[float, Counts]:
    """The score threshold of the highest F1, of all that make a difference; the highest of equals.

    Returns:
        tuple[float, Counts]: The threshold, NaN if no detection counts, and the counts there.
    """
    counted = matches.right[0] | matches.wrong[0]
    if not counted.any():
        return float('nan'), matches.count(1.0)
    scores, right = matches.scores[counted], matches.right[0][counted]
    order = np.argsort(-scores, kind='stable')
    tp, scores = np.cumsum(right[order]), scores[order]
    f1 = 2 * tp / (np.arange(1, len(tp) + 1) + matches.truths[0].sum())
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores pass a threshold together
    best = np.flatnonzero(last)[np.argmax(f1[last])]
    return float(scores[best]), matches.count(float(scores[best]))


def to_dict(run: Run, score_thr: float, thresholds: Sequence[float] = ()) -> dict:
    """A run's counts, ready for JSON; what is not defined is null."""
    matches = run.matches
    threshold, best = best_f1(matches)
    return dict(
        name=run.name,
        num_images=matches.num_images,
        iou_thr=matches.iou_thr,
        score_thr=score_thr,
        sizes={name: _plain(matches.count(score_thr, size=name)) for name in RANGES},
        classes={name: _plain(matches.count(score_thr, label)) for label, name in enumerate(matches.classes)},
        best_f1=dict(_plain(best), score_thr=_defined(threshold)),
        sweep=[dict(_plain(counts), score_thr=round(at, 6)) for at, counts in sweep(matches, thresholds)],
    )


def _plain(counts: Counts) -> dict:
    ratios = dict(precision=counts.precision, recall=counts.recall, F1=counts.f1)
    return dict(
        TP=counts.tp,
        FP=counts.fp,
        FN=counts.fn,
        **{key: _defined(value) for key, value in ratios.items()},
        FP_causes=counts.causes,
    )


def _defined(value: float) -> float | None:
    return None if value != value else value
