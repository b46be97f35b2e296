"""What a config's test pipeline does to an image, in the words of a file's metadata.

    image -- Resize, FixScaleResize or YOLOv5KeepRatioResize -- LetterResize or Pad --> pixels of the input

Each part may be absent. A step that is none of these, one of their options that a file has no word for, or another
order is refused: whoever runs the file would feed it other images than it was trained for, and nothing would say so.
Of MMYOLO's steps only the names are known here, so that it need not be installed.
"""

from typing import Any, NoReturn

from mmscale.analysis.datasets import find_pipelines, type_name
from mmscale.analysis.detector import Detector

__all__ = ['own_size', 'resize_rule']

NO_PIXELS = ('Load', 'Pack')  # first words of steps that make or read no pixels but those of the file
RESIZES = ('Resize', 'FixScaleResize', 'YOLOv5KeepRatioResize')
READ = dict.fromkeys(('Resize', 'FixScaleResize'), ('scale', 'keep_ratio', 'interpolation')) | dict(
    YOLOv5KeepRatioResize=('scale', 'interpolation'),  # the second has no effect there
    LetterResize=('scale', 'allow_scale_up', 'pad_val', 'interpolation'),
    Pad=('size', 'size_divisor', 'pad_val'),
)
AS_USUAL = dict(
    backend=('cv2',),
    half_pad_param=(False,),
    pad_to_square=(False,),
    padding_mode=('constant',),
    scale_factor=(None, 1, (1.0, 1.0)),
    stretch_only=(False,),
    use_mini_pad=(False,),
)
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos')


def own_size(detector: Detector) -> tuple[int, int] | None:
    """Height and width to which the test pipeline brings all images; None if their sizes differ.

    Args:
        detector (Detector): The detector.

    Raises:
        ValueError: If the pipeline does what a file cannot say.
    """
    resize, letterbox, pad = _find_steps(detector)
    size = None
    if letterbox:
        size = _pair(letterbox['scale'])
    elif pad and pad.get('size') and resize and resize['keep_ratio'] and resize.get('scale'):
        fits = max(_pair(resize['scale'])) <= min(_pair(pad['size']))  # lying and standing
        size = _pair(pad['size']) if fits else None
    elif resize and not pad and not resize['keep_ratio'] and resize.get('scale'):
        size = _pair(resize['scale'])
    return size and (size[1], size[0])


def resize_rule(detector: Detector, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """How an image becomes the file's input; see :mod:`.metadata` for the keys.

    The graph itself pads to the model's divisor, so that nobody else has to. Its padding is a constant after the
    normalisation; ``pad_value`` is the pixel that becomes that constant, one per channel where they differ.

    Args:
        detector (Detector): The detector.
        size (tuple[int, int], optional): Height and width of the input. A pipeline with a letterbox of another size is
            told as if this were its scale. Defaults to None: any.

    Raises:
        ValueError: If the pipeline does what a file cannot say.
    """
    resize, letterbox, pad = _find_steps(detector)
    scale, frame = (list(_pair(step['scale'])) if step and step.get('scale') else None for step in (resize, letterbox))
    if letterbox and size is not None and frame != [size[1], size[0]]:
        frame = [size[1], size[0]]
        scale = scale and frame
    rule = dict(
        keep_ratio=resize['keep_ratio'] if resize else letterbox is not None,
        scale=scale,
        pad_divisor=(pad or {}).get('size_divisor') or 1,
        pad_value=_pad_pixel(pad, detector) if pad else _pad_of_model(detector),
    )
    if pad and pad.get('size'):
        rule['pad_size'] = list(_pair(pad['size']))
    if not resize:
        pass
    elif type_name(resize) == 'YOLOv5KeepRatioResize':
        rule |= dict(round='down', shrink='area')
    else:
        if type_name(resize) == 'FixScaleResize' and resize['keep_ratio']:
            rule['round'] = 'down'
        if resize.get('interpolation', 'bilinear') != 'bilinear':
            rule |= dict.fromkeys(('shrink', 'enlarge'), resize['interpolation'])
    if letterbox:
        rule['letterbox'] = dict(
            scale=frame,
            scale_up=bool(letterbox.get('allow_scale_up', True)),
            interpolation=letterbox.get('interpolation', 'bilinear'),
            pad_value=_pad_pixel(letterbox, detector),
        )
    return rule


def _find_steps(detector: Detector) -> tuple[dict | None, dict | None, dict | None]:
    """The test pipeline's resize, with its ``keep_ratio``, its letterbox and its padding; None for what it has not."""
    pipelines = find_pipelines((detector.cfg.get('test_dataloader') or {}).get('dataset'))
    resize = letterbox = pad = None
    for step in (pipelines or [[]])[0]:
        name = type_name(step)
        if name.startswith(NO_PIXELS):
            continue
        if name not in READ:
            _refuse(detector, name)
        _check_options(detector, name, step)
        if letterbox or pad or (resize and name in RESIZES):
            _refuse(detector, f'{name} after another step that resizes or pads')
        if name in RESIZES:
            resize = dict(step, keep_ratio=name == 'YOLOv5KeepRatioResize' or bool(step.get('keep_ratio', False)))
        elif name == 'LetterResize':
            letterbox = step
        else:
            pad = step
    return resize, letterbox, pad


def _check_options(detector: Detector, name: str, step: dict) -> None:
    """Refuse a step with an option that the metadata have no key for."""
    for key, value in step.items():
        if key in ('type', 'clip_object_border') or (name == 'YOLOv5KeepRatioResize' and key == 'keep_ratio'):
            continue  # the second concerns annotations, the third has one value
        known = key in READ[name] or value in AS_USUAL.get(key, ())
        if not known or (key == 'interpolation' and value not in INTERPOLATIONS):
            _refuse(detector, f'{name} with {key}={value!r}')
    if name in ('YOLOv5KeepRatioResize', 'LetterResize') and not step.get('scale'):
        _refuse(detector, f'{name} without scale')


def _refuse(detector: Detector, what: str) -> NoReturn:
    raise ValueError(
        f"{detector.name} cannot be exported: its test pipeline has {what}, which a file's metadata cannot describe: "
        "it would get other images than the model; they can describe MMDetection's Resize, FixScaleResize and Pad, and "
        "MMYOLO's YOLOv5KeepRatioResize and LetterResize with their usual options: change "
        'test_dataloader.dataset.pipeline'
    )


def _pair(scale: int | tuple[int, int]) -> tuple[int, int]:
    """Width and height."""
    return (scale, scale) if isinstance(scale, int) else tuple(scale)


def _pad_pixel(step: dict, detector: Detector) -> float | list[float]:
    """What LetterResize and Pad pad 8-bit images with: a float fills the first channel alone, as OpenCV takes it."""
    value = step.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    if isinstance(value, (int, float)):
        value = (value,) * 3 if isinstance(value, int) else (value, 0, 0)
    if not isinstance(value, tuple) or len(value) != 3:
        _refuse(detector, f'{type_name(step)} with pad_val={step["pad_val"]!r}')
    value = [float(min(max(round(channel), 0), 255)) for channel in value]  # BGR, as images are loaded
    return _shorten(value[::-1] if detector.model.data_preprocessor._channel_conversion else value)


def _pad_of_model(detector: Detector) -> float | list[float]:
    """The pixel that becomes the padding of the model's data pre-processor."""
    preprocessor = detector.model.data_preprocessor
    if not preprocessor._enable_normalize:
        return float(preprocessor.pad_value)
    pad = (preprocessor.mean + preprocessor.pad_value * preprocessor.std).flatten().tolist()
    return _shorten([round(value, 4) for value in pad])


def _shorten(pixel: list[float]) -> float | list[float]:
    return pixel[0] if len(set(pixel)) == 1 else pixel
