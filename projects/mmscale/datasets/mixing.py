"""Data sets whose images are mixed: MMYOLO's Mosaic and MixUp draw the other images from the data set itself."""

from typing import Any

__all__ = ['MixedImages']


class MixedImages:
    """For a data set: in training, a data info carries the data set as ``dataset``, where MMYOLO's transforms look.

    MMDetection's own Mosaic and MixUp need ``MultiImageMixDataset`` around the data set instead, and pay no heed to it.
    """

    def prepare_data(self, idx: int) -> Any:
        """The image of index ``idx`` through the pipeline; None where the pipeline drops it."""
        if self.test_mode:
            return super().prepare_data(idx)
        return self.pipeline({**self.get_data_info(idx), 'dataset': self})
