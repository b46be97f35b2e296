"""Training on a few images that hold a number of boxes of every class.

An image of the subset is trained on with all of its boxes, as any other: the few shots are those of an object
detector's ordinary training, not single boxes cut out of their images.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import DefaultSampler
from torch.utils.data import Sampler

from ..registry import DATA_SAMPLERS

__all__ = ['FewShotSampler', 'few_shot_indices']


def few_shot_indices(dataset, shots: int, subset_seed: int = 0) -> list[int]:
    """Choose a few images that together hold ``shots`` boxes of every class.

    A class is short while the images taken hold fewer than ``shots`` boxes of it.

    1. The images are gone through in a random order, and each that holds a box of a class that is short is taken.
    2. In the order in which they were taken, each image is given back whose classes have ``shots`` boxes without it.

    So every class has ``shots`` boxes, or all there are of it, and no image of the subset can be left out. The rule is
    our choice. It needs no order of the classes: with the second step, serving the rarest first saves no images.

    - An image comes with all of its boxes, so a common class may have many more than ``shots``.
    - Boxes with an ``ignore_flag`` do not count. An image without any other is never taken, nor changes which are.
    - A class is a label (``bbox_label``); one without a box in the data set asks for nothing.
    - Entries with the same image file and the same labels are one image, so the repetitions of a ``RepeatDataset`` or a
      ``ClassBalancedDataset`` count once. An image is chosen with all of its entries: an epoch still repeats it.

    The choice depends on the boxes, the order of the images, ``shots`` and ``subset_seed`` alone.

    Args:
        dataset (Dataset): A data set of MMDetection, or a wrapper of one that has ``get_data_info``
            (``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``).
        shots (int): Boxes of every class.
        subset_seed (int): Of the random order, 0 to 2**32 - 1. Defaults to 0.

    Returns:
        list[int]: Where the chosen images stand in the data set, ascending.

    Raises:
        ValueError: ``shots`` or ``subset_seed`` is out of range, the data set does not show its boxes, or has none.

    Example:
        >>> class Three:
        ...     labels = [[0, 0, 0], [0, 1], [1]]
        ...     def __len__(self):
        ...         return len(self.labels)
        ...     def get_data_info(self, index):
        ...         return dict(img_path=f'{index}.jpg', instances=[dict(bbox_label=x) for x in self.labels[index]])
        >>> few_shot_indices(Three(), shots=1)
        [1]
        >>> few_shot_indices(Three(), shots=2)
        [0, 1, 2]
    """
    if not isinstance(shots, int) or shots < 1:
        raise ValueError(f'shots={shots!r} should be an integer from 1 on')
    if not isinstance(subset_seed, int) or not 0 <= subset_seed < 2**32:
        raise ValueError(f'subset_seed={subset_seed!r} should be an integer from 0 to 2**32 - 1')
    images = _images(dataset)
    if not images:
        raise ValueError(f'no box of {_describe(dataset)} counts in its {len(dataset)} images, so shots={shots} of a '
                         'class cannot be chosen')
    have, taken = Counter(), []
    # What RandomState draws is the same in every version of NumPy, which its newer generators do not promise.
    for number in np.random.RandomState(subset_seed).permutation(len(images)):
        boxes, _ = images[number]
        if any(have[label] < shots for label in boxes):
            taken.append(number)
            have.update(boxes)
    chosen = []
    for number in taken:
        boxes, places = images[number]
        if all(have[label] - boxes[label] >= shots for label in boxes):
            have.subtract(boxes)
        else:
            chosen += places
    return sorted(chosen)


def _images(dataset) -> list[tuple[Counter, list[int]]]:
    """The images with boxes: how many of each label, and where in the data set they stand."""
    if not hasattr(dataset, 'get_data_info'):
        raise ValueError(f'{_describe(dataset)} has no get_data_info, so its boxes cannot be counted for few shots')
    images = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for key in ('img_path', 'instances'):
            if key not in info:
                raise ValueError(f'entry {index} of {_describe(dataset)} has no {key!r}, so its boxes cannot be '
                                 'counted for few shots')
        labels = tuple(box['bbox_label'] for box in info['instances'] if not box.get('ignore_flag', 0))
        if labels:
            images.setdefault((info['img_path'], labels), []).append(index)
    return [(Counter(labels), places) for (_, labels), places in images.items()]


def _mixes_images(dataset) -> bool:
    inner = [*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)]
    return isinstance(dataset, MultiImageMixDataset) or any(_mixes_images(item) for item in inner if item is not None)


def _describe(dataset) -> str:
    file = getattr(dataset, 'ann_file', '')
    return f'dataset={type(dataset).__name__}{f" ({file!r})" if file else ""}'


@DATA_SAMPLERS.register_module()
class FewShotSampler(Sampler):
    """Samples only the images of :func:`few_shot_indices`, in a new order every epoch.

    Which images follows from ``subset_seed``, their order from ``seed`` and the epoch: runs with other seeds, and a run
    that is resumed, train on the same images. They are shuffled and divided among processes as MMEngine's
    ``DefaultSampler`` does it, rounded up, so that all processes have equally many.

    What a data set adds by itself comes from all of its images: ``MultiImageMixDataset`` (Mosaic, MixUp) is refused,
    and a pipeline that gives up on an image, as a ``RandomCrop`` without a box left does, has MMEngine load any other
    one, which ``max_refetch=0`` of the data set makes an error. A data set of nothing but the subset, with
    ``indices=few_shot_indices(...)``, does not need this sampler.

    Args:
        dataset (Dataset): As in :func:`few_shot_indices`; MMEngine's ``Runner`` fills it in.
        shots (int): Boxes of every class.
        subset_seed (int): Of the choice of images. Defaults to 0.
        shuffle (bool): Whether the order is new every epoch; else it is the data set's. Defaults to True.
        seed (int, optional): Of the order, the same in all processes. ``Runner`` fills in the run's: leave it out of a
            config. Defaults to None, a random one that the processes agree upon.

    Raises:
        ValueError: As :func:`few_shot_indices`, and for a data set that mixes images.
    """

    def __init__(self, dataset, shots: int, subset_seed: int = 0, shuffle: bool = True,
                 seed: int | None = None) -> None:
        self.dataset = dataset  # where a batch sampler looks up an image's shape
        if _mixes_images(dataset):
            raise ValueError(f'{_describe(dataset)} mixes images that shots={shots} does not choose into those that it '
                             'does; give the data set within it indices=few_shot_indices(...) and leave out the '
                             'FewShotSampler')
        self.indices = few_shot_indices(dataset, shots, subset_seed)
        self._places = DefaultSampler(self.indices, shuffle=shuffle, seed=seed)

    def __iter__(self) -> Iterator[int]:
        """Where this process's images of an epoch stand in the data set."""
        return map(self.indices.__getitem__, self._places)

    def __len__(self) -> int:
        """How many images this process has in an epoch."""
        return len(self._places)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from which the order follows.

        Args:
            epoch (int): From 0.
        """
        self._places.set_epoch(epoch)
