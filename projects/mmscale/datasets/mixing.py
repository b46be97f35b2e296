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
        return self.pipeline({**self.get_data_info(idx), 'dataset': _Itself(self)})


class _Itself:
    """The data set, which no copy of a data info copies: MMDetection's MultiImageMixDataset and caches copy theirs."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # before there is one, as in unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __deepcopy__(self, memo: dict) -> '_Itself':
        return self

    def __copy__(self) -> '_Itself':
        return self
