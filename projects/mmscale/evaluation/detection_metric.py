"""Boxes evaluated under any number of protocols at once, whatever format the data set has."""
import json
import logging
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log

from ..datasets import CocoFile
from ..registry import METRICS
from .coco_protocol import evaluate_coco
from .protocols import get_protocols
from .records import from_coco_file, from_samples
from .report import to_metrics, to_table
from .visdrone_protocol import evaluate_visdrone
from .voc_protocol import evaluate_voc

__all__ = ['DetectionMetric']

EVALUATE = {'coco': evaluate_coco, 'voc': evaluate_voc, 'visdrone': evaluate_visdrone}


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """Evaluates one test run under one or several protocols; metrics are named 'protocol/metric', such as 'coco/AP_S'.

    Args:
        ann_file (str, optional): The COCO file that the data set reads. Areas of segmentations, crowds, and every image
            of the file then count, as with pycocotools. Without it the ground truth is taken from the data samples, so
            any data set will do, but the test pipeline must load annotations after resizing and not mirror (the first
            view of test-time augmentation counts). Defaults to None.
        protocols (str | Sequence[str]): Names from :data:`mmscale.evaluation.PROTOCOLS`: 'coco', 'voc07', 'voc12',
            'visdrone', 'aitod'. Defaults to 'coco'.
        classwise (bool): Whether to report every class too. Defaults to False.
        format_only (bool): Whether to write the detections and evaluate nothing, for a test server. Defaults to False.
        outfile_prefix (str, optional): Writes the detections as '<outfile_prefix>.bbox.json' in COCO's format of
            results. Defaults to None, for none.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.
        collect_device (str): Where ranks gather their results, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Put before every metric's name, for several metrics in one run. Defaults to None.

    Raises:
        ValueError: A protocol is unknown, ``format_only`` has nowhere to write, or the annotation file does not fit.
    """

    def __init__(self, ann_file: str | None = None, protocols: str | Sequence[str] = 'coco', classwise: bool = False,
                 format_only: bool = False, outfile_prefix: str | None = None, backend_args: dict | None = None,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        # the protocols' names are the prefixes; the base class would warn of none
        super().__init__(collect_device=collect_device, prefix=prefix or type(self).__name__)
        self.prefix = prefix
        self.protocols = get_protocols(protocols)
        if format_only and not outfile_prefix:
            raise ValueError("format_only=True writes the detections and needs outfile_prefix, such as "
                             "'work_dirs/test/results'")
        self.ann_file = ann_file
        self.classwise = classwise
        self.format_only = format_only
        self.outfile_prefix = outfile_prefix
        self._file = None if ann_file is None else CocoFile.read(ann_file, backend_args)
        self._warned = False

    @property
    def dataset_meta(self) -> dict | None:
        """Optional[dict]: The data set's meta information. Setting it, before the run, checks the classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        if self._file is not None:
            self._file.category_ids(dataset_meta['classes'])
        self._dataset_meta = dataset_meta

    @property
    def classes(self) -> tuple[str, ...]:
        """tuple[str]: The data set's classes."""
        return tuple(self.dataset_meta['classes'])

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps what a batch contributes.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): The data samples with predictions, as dictionaries.
        """
        for sample in data_samples:
            record = _detections(sample, len(self.classes))
            if self._file is None:
                height, width = sample['ori_shape'][:2]
                record['image'] = dict(img_id=sample['img_id'], width=width, height=height,
                                       ignored_regions=sample.get('ignored_regions', []))
                if not self.format_only:
                    record['truth'] = _truth(sample)
            elif sample['img_id'] not in self._file.images:
                raise ValueError(f"image id {sample['img_id']!r} of the test run is not in ann_file='{self.ann_file}'; "
                                 'the data set and the metric should read the same file')
            self.results.append(record)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluates the gathered run.

        Args:
            results (list[dict]): What ``process`` kept, of all ranks.

        Returns:
            dict[str, float]: Metrics by name; NaN where there is no ground truth.
        """
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix:
            path = f'{self.outfile_prefix}.bbox.json'
            self._write(results, path)
            logger.info(f'detections written to {path}')
        if self.format_only:
            return {}
        if not results:
            raise ValueError('the test run had no image: is the data set empty?')
        records = self._records(results)
        self._warn_of_cap(max(len(result['labels']) for result in results))
        metrics = {}
        for protocol in self.protocols:
            result = EVALUATE[protocol.kind](records, protocol)
            logger.info('\n' + to_table(protocol, result, self.classwise))
            metrics.update(to_metrics(protocol, result, self.classwise))
        return metrics

    def _records(self, results: list[dict]):
        if self._file is None:
            return from_samples(self.classes, results)
        absent = len(self._file.images) - len({result['img_id'] for result in results})
        if absent:
            print_log(f"the test run left out {absent} of {len(self._file.images)} images of '{self.ann_file}': they "
                      'count as images without detections', logger='current', level=logging.WARNING)
        return from_coco_file(self._file, self.classes, results)

    def _warn_of_cap(self, most: int) -> None:
        """Warns once if the model seems to hand over fewer detections than a protocol counts.

        Args:
            most (int): The most detections of any image. Our choice: a positive multiple of 100 is taken for a cap.
        """
        starved = [f'{protocol.name} ({protocol.max_dets[-1]})' for protocol in self.protocols
                   if protocol.max_dets and protocol.max_dets[-1] > most]
        if self._warned or not starved or not most or most % 100:
            return
        self._warned = True
        print_log(f'no image has more than {most} detections, which looks like max_per_img={most}, but more count '
                  f'under {", ".join(starved)}: raise model.test_cfg.max_per_img (two stages: '
                  'model.test_cfg.rcnn.max_per_img)', logger='current', level=logging.WARNING)

    def _write(self, results: list[dict], path: str) -> None:
        """Writes the detections in COCO's format of results, wholly or not at all."""
        ids = range(len(self.classes)) if self._file is None else self._file.category_ids(self.classes)
        entries = []
        for result in results:
            for (x1, y1, x2, y2), score, label in zip(result['bboxes'].tolist(), result['scores'].tolist(),
                                                      result['labels'].tolist(), strict=True):
                if ids[label] is not None:
                    entries.append(dict(image_id=result['img_id'], category_id=ids[label],
                                        bbox=[x1, y1, x2 - x1, y2 - y1], score=score))
        folder = os.path.dirname(os.path.abspath(path))
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix='.tmp')
        try:
            with os.fdopen(handle, 'w') as file:
                json.dump(entries, file)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.remove(temporary)
            raise


def _detections(sample: dict, num_classes: int) -> dict:
    """A sample's detections as arrays."""
    predicted = sample['pred_instances']
    labels = _array(predicted['labels']).astype(int)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f'the model predicted label {labels.max() if labels.max() >= num_classes else labels.min()} '
                         f'on image {sample["img_id"]!r}, but the data set has {num_classes} classes; num_classes of '
                         f'the model should be {num_classes}')
    return dict(img_id=sample['img_id'], bboxes=_array(predicted['bboxes']).reshape(-1, 4),
                scores=_array(predicted['scores']), labels=labels)


def _truth(sample: dict) -> dict:
    """A sample's ground truth as arrays, ignored objects after the others."""
    if sample.get('flip'):  # the first view of test-time augmentation
        raise ValueError(f'image {sample["img_id"]!r} came mirrored (flip=True), and so may its ground truth: put the '
                         "view without a flip, dict(type='RandomFlip', prob=0.), first in the tta_pipeline, or give "
                         'the metric an ann_file')
    missing = [key for key in ('gt_instances', 'ignored_instances') if key not in sample or 'bboxes' not in sample[key]]
    if missing:
        raise ValueError(f'image {sample["img_id"]!r} came without {missing[0]}: give the metric an ann_file, or put '
                         "dict(type='LoadAnnotations', with_bbox=True) into the test pipeline after Resize")
    parts = [sample['gt_instances'], sample['ignored_instances']]
    boxes = [_array(part['bboxes']).reshape(-1, 4) for part in parts]
    labels = [_array(part['labels']).astype(int) for part in parts]
    return dict(bboxes=np.concatenate(boxes), labels=np.concatenate(labels),
                ignored=np.repeat([False, True], [len(part) for part in boxes]))


def _array(values) -> np.ndarray:
    """A tensor, or MMDetection's boxes, as a NumPy array; half precision becomes single."""
    values = getattr(values, 'tensor', values).detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()
