"""MMDetection's COCO metric, for masks, with labels matched to categories by name."""
import math

from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import print_log

from ..datasets import CocoFile
from ..registry import METRICS

__all__ = ['CocoMetric']


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """``mmdet.CocoMetric`` for ``mmscale.CocoDataset``: masks, beside ``DetectionMetric`` for boxes.

    MMDetection takes label i for the i-th category of the *file* that is among the classes, ``mmscale.CocoDataset`` for
    ``classes[i]``. Where both orders agree, as in COCO itself, so do both metrics. What has no ground truth is NaN, as
    in ``DetectionMetric``, where MMDetection has -1.

    Args:
        ann_file (str): The COCO file that the data set reads.
        **kwargs: Arguments of ``mmdet.CocoMetric``.

    Raises:
        ValueError: The file is broken, or the data set's classes are not in it.
    """

    def __init__(self, ann_file: str, backend_args: dict | None = None, **kwargs) -> None:
        self._file = CocoFile.read(ann_file, backend_args)
        super().__init__(ann_file=ann_file, backend_args=backend_args, **kwargs)

    @property
    def dataset_meta(self) -> dict | None:
        """Optional[dict]: The data set's meta information. Setting it, before the run, checks the classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        ids = self._file.category_ids(dataset_meta['classes'])
        missing = [name for name, key in zip(dataset_meta['classes'], ids, strict=True) if key is None]
        if missing:
            raise ValueError(f"ann_file='{self._file.path}' lacks the categories {missing}, which mask evaluation "
                             'needs')
        self.cat_ids = ids
        self._dataset_meta = dataset_meta

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluates the gathered run.

        Args:
            results (list): What ``process`` kept, of all ranks.

        Returns:
            dict[str, float]: Metrics by name; NaN where there is no ground truth, which a line in the log says.
        """
        metrics = super().compute_metrics(results)
        absent = [name for name, value in metrics.items() if value < 0 or math.isnan(value)]
        if absent:
            print_log(f'no GT for {", ".join(absent)}', logger='current')
        return {name: math.nan if name in absent else value for name, value in metrics.items()}
