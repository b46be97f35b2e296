"""What a file says about itself: how an image becomes its input, and what its labels mean.

The values are JSON, under the file's ``metadata_props``:

    classes         names of the labels
    channel_order   'RGB' or 'BGR'
    input_size      [H, W], or null where any size will do
    resize          what the config's test pipeline does to an image, as below
    detector        the config's name
    mmscale         the version that wrote the file

``resize`` always has

    keep_ratio      false: stretch to ``scale``; true: fit into it, lying or standing as the image does
    scale           [W, H], or null: the image keeps its size
    pad_divisor     sides are padded to a multiple of it, at the right and bottom
    pad_value       the pixel to pad with, there or to fill an ``input_size``: one number, or one per channel in
                    ``channel_order``

and, only where they differ from what the brackets say,

    round           'down': a side that ``keep_ratio`` gives loses its fraction ('nearest')
    shrink, enlarge interpolation of an image that becomes smaller, or not ('bilinear')
    pad_size        [W, H] to pad to, at the right and bottom (none)
    letterbox       what follows, before any other padding (none): {"scale": [W, H] to fit into, whichever way the image
                    lies; "scale_up", whether a smaller image is enlarged; "interpolation"; "pad_value", of the borders,
                    which are half on either side, the odd pixel at the right or bottom}
"""

import json

from mmengine.registry import DATASETS, DefaultScope

from mmscale.analysis.detector import Detector
from mmscale.version import __version__

from .pipeline import resize_rule

__all__ = ['channel_order', 'describe']


def describe(detector: Detector, size: tuple[int, int] | None) -> dict[str, str]:
    """The metadata of a detector's file.

    Args:
        detector (Detector): The detector.
        size (tuple[int, int], optional): Height and width of the input; None where any will do.

    Returns:
        dict[str, str]: JSON by key.

    Raises:
        ValueError: If the config's test pipeline does what the metadata cannot say.
    """
    values = dict(
        classes=class_names(detector),
        channel_order=channel_order(detector.model),
        input_size=None if size is None else list(size),
        resize=resize_rule(detector, size),
        detector=detector.name,
        mmscale=__version__,
    )
    return {key: json.dumps(value) for key, value in values.items()}


def channel_order(model) -> str:
    """The order of the channels as the data pre-processor puts them out; images are loaded as BGR."""
    return 'RGB' if model.data_preprocessor._channel_conversion else 'BGR'


def class_names(detector: Detector) -> list[str]:
    """Names from the checkpoint or the config, from the type of the test set, or numbers; one for every class."""
    dataset = (detector.cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    names = detector.classes
    if not names and dataset.get('type'):
        with DefaultScope.overwrite_default_scope(detector.cfg.get('default_scope') or 'mmdet'):
            kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
        names = (getattr(kind, 'METAINFO', None) or {}).get('classes') or ()
    count = detector.model.bbox_head.num_classes
    return list(names) if len(names) == count else [str(label) for label in range(count)]
