"""What a file says about itself: how an image becomes its input, and what its labels mean.

The values are JSON, under the file's ``metadata_props``:

    classes         names of the labels
    channel_order   'RGB' or 'BGR'
    input_size      [H, W], or null where any size will do
    resize          {"keep_ratio", "scale": [W, H] or null, "pad_divisor", "pad_value"} of the config's test pipeline
    detector        the config's name
    mmscale         the version that wrote the file
"""

import json

from mmengine.registry import DATASETS, DefaultScope

from mmscale.analysis.datasets import find_pipelines, type_name
from mmscale.analysis.detector import Detector
from mmscale.version import __version__

__all__ = ['channel_order', 'describe']


def describe(detector: Detector, size: tuple[int, int] | None) -> dict[str, str]:
    """The metadata of a detector's file.

    Args:
        detector (Detector): The detector.
        size (tuple[int, int], optional): Height and width of the input; None where any will do.

    Returns:
        dict[str, str]: JSON by key.
    """
    values = dict(
        classes=class_names(detector),
        channel_order=channel_order(detector.model),
        input_size=None if size is None else list(size),
        resize=resize_rule(detector),
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


def resize_rule(detector: Detector) -> dict:
    """How the test pipeline resizes, and with what to pad if an image has to fill an input of another shape.

    The graph itself pads to the model's divisor, so that nobody else has to. Its padding is a constant after the
    normalisation; ``pad_value`` is the pixel that becomes that constant, one per channel where they differ.
    """
    pipelines = find_pipelines((detector.cfg.get('test_dataloader') or {}).get('dataset'))
    resizes = [step for step in (pipelines or [[]])[0] if type_name(step) in ('Resize', 'FixScaleResize')]
    scale = (resizes[0].get('scale') if resizes else None) or None
    preprocessor = detector.model.data_preprocessor
    pad = [float(preprocessor.pad_value)]
    if preprocessor._enable_normalize:
        pad = (preprocessor.mean + preprocessor.pad_value * preprocessor.std).flatten().tolist()
        pad = [round(value, 4) for value in pad]
    return dict(
        keep_ratio=bool(resizes and resizes[0].get('keep_ratio', False)),
        scale=None if scale is None else ([scale] * 2 if isinstance(scale, int) else list(scale)),
        pad_divisor=1,
        pad_value=pad[0] if len(set(pad)) == 1 else pad,
    )
