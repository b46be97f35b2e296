"""Panoptic quality.

Paper: Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4 and its rules for void and crowds. MMDetection's
metric needs panopticapi, which is on no package index; this one needs nothing and gives the same figures.

Shape shorthand in this module:
    H, W: size of an image in its own pixels, N: number of classes, things first
"""

from collections.abc import Sequence

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ..datasets.panoptic import read_segment_ids
from ..datasets.reading import read_json
from ..registry import METRICS

__all__ = ['PanopticMetric', 'compare_segments', 'panoptic_quality']

VOID = -1


def compare_segments(
    truth: np.ndarray, segments: dict[int, tuple[int, bool]], predicted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Matches the segments of one image.

    A predicted and a true segment of the same class match if their IoU is above 0.5; there is never more than one
    partner. Void pixels do not count against a prediction. A crowd is matched with nothing, and a prediction that lies
    by more than half on void and on crowds of its class is not punished.

    Args:
        truth (np.ndarray): Segment ids, (H, W); an id that is not in ``segments`` is void.
        segments (dict[int, tuple[int, bool]]): Label and whether it is a crowd, by segment id.
        predicted (np.ndarray): Label + 1000 * number of the instance, (H, W); below 0 is void.
        num_classes (int): N.

    Returns:
        np.ndarray: Sum of the matches' IoUs, matches, false positives and false negatives of each class, (N, 4).

    Example:
        >>> import numpy as np
        >>> truth, predicted = np.array([[7, 7, 7, 0]]), np.array([[2, 2, 2, 2]])
        >>> compare_segments(truth, {7: (2, False)}, predicted, 3)[2].tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    ids = np.array([VOID, *sorted(segments)])
    places = np.where(np.isin(truth, ids), np.searchsorted(ids, truth), 0)  # of a pixel's truth in ids
    values, columns = np.unique(predicted, return_inverse=True)
    overlap = np.zeros((len(ids), len(values)), dtype=np.int64)
    np.add.at(overlap, (places.ravel(), columns.ravel()), 1)
    true_areas, areas = overlap.sum(1), overlap.sum(0)

    counts = np.zeros((num_classes, 4))
    found = set()
    for column, value in enumerate(values):
        if value < 0:
            continue
        label, excused, match = value % INSTANCE_OFFSET, overlap[0, column], None
        for row, key in enumerate(ids[1:], 1):
            true_label, crowd = segments[key]
            if true_label != label:
                continue
            if crowd:
                excused += overlap[row, column]
                continue
            iou = overlap[row, column] / (areas[column] + true_areas[row] - overlap[row, column] - overlap[0, column])
            if iou > 0.5:
                match = row, iou
        if match is not None:
            found.add(match[0])
            counts[label] += (match[1], 1, 0, 0)
        elif excused <= areas[column] / 2:
            counts[label, 2] += 1
    for row, key in enumerate(ids[1:], 1):
        label, crowd = segments[key]
        if not crowd and row not in found:
            counts[label, 3] += 1
    return counts


def panoptic_quality(counts: np.ndarray) -> tuple[float, float, float, int]:
    """PQ, SQ and RQ, means over the classes that occur in truth or prediction, and the number of those.

    Args:
        counts (np.ndarray): What :func:`compare_segments` gives, summed over the images, (N, 4).

    Returns:
        tuple[float, float, float, int]: In percent; NaN without any class.

    Example:
        >>> panoptic_quality(np.array([[1.5, 2, 2, 2], [0, 0, 0, 0]]))
        (37.5, 75.0, 50.0, 1)
    """
    iou, tp, fp, fn = counts[counts[:, 1:].any(1)].T
    if not len(iou):
        return float('nan'), float('nan'), float('nan'), 0
    halved = tp + fp / 2 + fn / 2
    qualities = iou / halved, np.divide(iou, tp, out=np.zeros_like(iou), where=tp > 0), tp / halved
    return *(100 * float(quality.mean()) for quality in qualities), len(iou)


@METRICS.register_module()
class PanopticMetric(BaseMetric):
    """PQ, SQ and RQ of all classes, of things (``PQ_th``) and of stuff (``PQ_st``), in percent.

    Names and figures are those of ``mmdet.CocoPanopticMetric``. Areas are counted in the PNG files, not taken from the
    JSON, and every crowd of a class excuses a prediction there, not only the last of an image.

    Args:
        ann_file (str): The panoptic JSON that the data set reads.
        seg_prefix (str): The folder of its PNG files.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.
        collect_device (str): Where ranks gather their results, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Put before every metric's name. Defaults to None, for 'coco_panoptic'.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is no panoptic annotation, or its categories are not the data set's classes in the same order.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file, self.seg_prefix, self.backend_args = ann_file, seg_prefix, backend_args
        content = read_json(ann_file, 'panoptic annotation file', backend_args)
        try:
            self.categories = {entry['id']: (entry['name'], bool(entry['isthing'])) for entry in content['categories']}
            self.truth = {entry['image_id']: entry for entry in content['annotations']}
            self._segments = {
                key: {
                    segment['id']: (segment['category_id'], bool(segment.get('iscrowd')))
                    for segment in entry['segments_info']
                }
                for key, entry in self.truth.items()
            }
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"annotation file '{ann_file}' is no panoptic one ({type(error).__name__}: {error}); it "
                "should have 'categories' with 'isthing', and 'annotations' with 'segments_info'"
            ) from error

    @property
    def dataset_meta(self) -> dict | None:
        """Optional[dict]: The data set's meta information. Setting it, before the run, checks the classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        classes, things = dataset_meta['classes'], dataset_meta['thing_classes']
        # MMDetection's data set numbers labels in the file's order
        known = {key: entry for key, entry in self.categories.items() if entry[0] in classes}
        wanted = [(name, name in things) for name in classes]
        if list(known.values()) != wanted:
            place = next(
                (i for i, (ours, theirs) in enumerate(zip(wanted, known.values(), strict=False)) if ours != theirs),
                min(len(known), len(wanted)),
            )
            raise ValueError(
                f"the categories of '{self.ann_file}' are not the data set's {len(classes)} classes in "
                f'their order: they differ from number {place} on '
                f'({list(known.values())[place : place + 1]} instead of {wanted[place : place + 1]}, with '
                'whether it is a thing)'
            )
        self.labels = {key: label for label, key in enumerate(known)}
        self._dataset_meta = dataset_meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Compares the predictions of a batch with the truth.

        Args:
            data_batch (dict): Not used.
            data_samples (Sequence[dict]): The data samples with ``pred_panoptic_seg``, as dictionaries.
        """
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            entry = self.truth.get(sample['img_id'])
            if entry is None:
                raise ValueError(
                    f"image id {sample['img_id']!r} of the test run is not in ann_file='{self.ann_file}'; "
                    'the data set and the metric should read the same file'
                )
            path = f'{self.seg_prefix.rstrip("/")}/{entry["file_name"]}'
            truth = read_segment_ids(path, self.backend_args)
            predicted = _predicted(sample['pred_panoptic_seg'], num_classes)
            if truth.shape != predicted.shape:
                raise ValueError(
                    f"the prediction for '{path}' has the shape {predicted.shape}, its truth {truth.shape}"
                )
            segments = {
                key: (self.labels[category], crowd)
                for key, (category, crowd) in self._segments[sample['img_id']].items()
                if category in self.labels
            }
            self.results.append(compare_segments(truth, segments, predicted, num_classes))

    def compute_metrics(self, results: list[np.ndarray]) -> dict[str, float]:
        """Sums up the gathered run.

        Args:
            results (list[np.ndarray]): What ``process`` kept, of all ranks.

        Returns:
            dict[str, float]: Metrics by name, in percent; NaN where there is nothing to find and nothing was found.
        """
        counts = np.sum(results, axis=0)
        is_thing = np.array([self.categories[key][1] for key in self.labels])
        metrics, lines = {}, ['           PQ     SQ     RQ  classes']
        for name, ending, chosen in (
            ('all', '', is_thing | True),
            ('things', '_th', is_thing),
            ('stuff', '_st', ~is_thing),
        ):
            *figures, number = panoptic_quality(counts[chosen])
            metrics.update(
                {f'{metric}{ending}': value for metric, value in zip(('PQ', 'SQ', 'RQ'), figures, strict=True)}
            )
            lines.append(f'{name:<6}' + ''.join(f'{value:7.2f}' for value in figures) + f'{number:9}')
        print_log('\n'.join(['Panoptic quality in percent:', *lines]), logger='current')
        return metrics


def _predicted(prediction: dict, num_classes: int) -> np.ndarray:
    """A panoptic prediction (1, H, W) as (H, W) with -1 for void: what has no class, or the model's own mark for it."""
    predicted = prediction['sem_seg'].cpu().numpy()[0].astype(np.int64)
    labels = predicted % INSTANCE_OFFSET
    return np.where((labels >= num_classes) | (labels == prediction.get('ignore_index', num_classes)), VOID, predicted)
