"""Another pipeline from an epoch on, for a data set within wrappers, too."""

from mmcv.transforms import Compose
from mmdet.engine.hooks import PipelineSwitchHook as MMDetPipelineSwitchHook
from mmengine.runner import Runner

from ...registry import HOOKS

__all__ = ['PipelineSwitchHook']


@HOOKS.register_module()
class PipelineSwitchHook(MMDetPipelineSwitchHook):
    """MMDetection's hook, which reaches the data sets that a ``RepeatDataset`` or ``ConcatDataset`` wraps.

    MMDetection's sets the pipeline of the outermost, which a wrapper does not read: mosaic would go on to the end
    without a word.

    Args:
        switch_epoch (int): The epoch, from 0, with which it begins.
        switch_pipeline (list[dict]): The pipeline.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch, once."""
        switched = self._has_switched
        super().before_train_epoch(runner)
        if self._has_switched and not switched:
            for dataset in _within(runner.train_dataloader.dataset):
                dataset.pipeline = Compose(self.switch_pipeline)


def _within(dataset) -> list:
    """The data sets that read images, however wrapped."""
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else [])
    return [leaf for item in inner for leaf in _within(item)] if inner else [dataset]
