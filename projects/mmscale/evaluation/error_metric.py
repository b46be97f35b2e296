"""True and false positives and misses at one IoU and one score, as in the error analysis of FINE (table 5)."""

from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..registry import METRICS
from .detection_metric import DetectionMetric
from .matching import CAUSES, RANGES, Counts, Matches, check_iou, check_score, match

__all__ = ['DetectionErrorMetric', 'ratio_text', 'to_metrics', 'to_table']


@METRICS.register_module()
class DetectionErrorMetric(DetectionMetric):
    """Counts a detector's errors at one IoU and one score: what a user of it would see.

    The metrics are 'errors/TP', 'errors/FP', 'errors/FN', 'errors/precision', 'errors/recall', 'errors/F1', and the
    false positives by cause, 'errors/FP_duplicate', 'errors/FP_localisation', 'errors/FP_other_class' and
    'errors/FP_background'. A ratio without anything to measure it on is NaN. The log's table has sizes and classes too.

    Args:
        ann_file (str, optional): As in :class:`DetectionMetric`, and so is where the ground truth comes from. Defaults
            to None.
        iou_thr (float): The IoU from which a detection finds an object. Defaults to 0.5.
        score_thr (float): The lowest score that counts. Defaults to 0.5.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.
        collect_device (str): Where ranks gather their results, 'cpu' or 'gpu'. Defaults to 'cpu'.
        prefix (str, optional): Put before every metric's name, for several thresholds in one run. Defaults to None.

    Raises:
        ValueError: A threshold is out of its range, or the annotation file does not fit.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        iou_thr: float = 0.5,
        score_thr: float = 0.5,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(ann_file=ann_file, backend_args=backend_args, collect_device=collect_device, prefix=prefix)
        self.iou_thr = check_iou(iou_thr)
        self.score_thr = check_score(score_thr)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluates the gathered run.

        Args:
            results (list[dict]): What ``process`` kept, of all ranks.

        Returns:
            dict[str, float]: Metrics by name.
        """
        matches = self.match(results)
        MMLogger.get_current_instance().info('\n' + to_table(matches, self.score_thr))
        return to_metrics(matches.count(self.score_thr))

    def match(self, results: list[dict]) -> Matches:
        """Matches the gathered run, for counts at any score.

        Args:
            results (list[dict]): What ``process`` kept, of all ranks.
        """
        if not results:
            raise ValueError('the test run had no image: is the data set empty?')
        return match(self._records(results), self.iou_thr)


def to_metrics(counts: Counts) -> dict[str, float]:
    """The counts and ratios by metric name."""
    metrics = {
        'TP': counts.tp,
        'FP': counts.fp,
        'FN': counts.fn,
        'precision': counts.precision,
        'recall': counts.recall,
        'F1': counts.f1,
    }
    metrics.update({f'FP_{cause.replace(" ", "_")}': number for cause, number in counts.causes.items()})
    return {f'errors/{name}': value for name, value in metrics.items()}


def to_table(matches: Matches, score_thr: float) -> str:
    """A table with a line for all objects, per size and per class."""
    groups = [(name, matches.count(score_thr, size=name)) for name in RANGES]
    groups += [(name, matches.count(score_thr, label)) for label, name in enumerate(matches.classes)]
    rows = [['objects', 'TP', 'FP', 'FN', 'precision', 'recall', 'F1', *(f'FP: {cause}' for cause in CAUSES)]]
    for name, counts in groups:
        ratios = [ratio_text(value) for value in (counts.precision, counts.recall, counts.f1)]
        rows.append([name, *map(str, (counts.tp, counts.fp, counts.fn)), *ratios, *map(str, counts.causes.values())])
    return f'errors at IoU {matches.iou_thr:g} and score {score_thr:g}\n{AsciiTable(rows).table}'


def ratio_text(value: float) -> str:
    """A ratio to three digits; '-' where it is not defined."""
    return '-' if value != value else f'{value:.3f}'
