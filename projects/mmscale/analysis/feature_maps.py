"""What a detector's modules respond to, as heat maps over images.

FINE's fig. 8 (F_high, F_low, M, F_low_aligned of one fusion) and CFSAM's fig. 4 (class activation by EigenCAM) are such
pictures. A map of C channels becomes a heat map by one of

- ``'abs'``: the mean of \\|activation\\| over channels. FINE does not say what its heat maps are; this is our choice,
  since maps of an FPN have no activation function and their signs cancel in a plain mean;
- ``'mean'``: the mean over channels;
- ``'eigencam'``: Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020: the
  activations O of all locations, one row each, projected on their first principal direction, ``O V_1`` of
  ``O = U S V^T``. As in the paper nothing is subtracted before. The sign of V_1 is arbitrary: we take the one that
  makes the location of largest magnitude positive, and then cut at zero.

Then each heat map is stretched from its own minimum to its own maximum, so colours compare places of one map, not maps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import cv2
import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from .detector import Detector, Sample
from .pictures import grid, overlay, save_figure, to_unit
from .taps import capture, parse_taps, require_whole_image

__all__ = ['METHODS', 'FeatureMaps', 'draw_feature_maps', 'eigen_cam', 'feature_maps', 'to_picture']

RESIZE = {'linear': cv2.INTER_LINEAR, 'nearest': cv2.INTER_NEAREST}


def eigen_cam(activations: Tensor) -> Tensor:
    """The projection on the first principal direction, its sign fixed.

    Args:
        activations (Tensor): ``(C, H, W)``.

    Returns:
        Tensor: ``(H, W)``, not negative.

    Example:
        >>> pattern = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])
        >>> eigen_cam(torch.cat([3 * pattern, -4 * pattern])).round(decimals=4)  # V_1 = (3, -4) / 5
        tensor([[ 5., 10.],
                [15., 25.]])
    """
    tokens = activations.flatten(1).T.double()  # (H W, C)
    _, directions = torch.linalg.eigh(tokens.T @ tokens)  # eigenvalues ascend
    projection = tokens @ directions[:, -1]
    projection = projection * torch.sign(projection[projection.abs().argmax()])
    return projection.clamp(min=0).view(activations.shape[1:]).to(activations.dtype)


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    'abs': lambda activations: activations.abs().mean(0),
    'mean': lambda activations: activations.mean(0),
    'eigencam': eigen_cam,
}


@dataclass
class FeatureMaps:
    """One image's heat maps.

    Attributes:
        sample (Sample): The image.
        heats (list[np.ndarray]): A heat map per module, in the module's own resolution, not stretched.
        boxes (np.ndarray | None): Detections ``(N, 4)`` as left, top, right, bottom in the picture's pixels; None if
            they were not asked for.
        labels (np.ndarray | None): Their classes.
        scores (np.ndarray | None): Their scores.
    """

    sample: Sample
    heats: list[np.ndarray]
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None


def feature_maps(
    detector: Detector,
    samples: Iterable[Sample],
    modules: Sequence[str],
    method: str = 'abs',
    score: float | None = None,
) -> list[FeatureMaps]:
    """Run a detector on images and take heat maps of its modules.

    Args:
        detector (Detector): The detector.
        samples (Iterable[Sample]): The images.
        modules (Sequence[str]): Names as in :mod:`mmscale.analysis.taps`.
        method (str): ``'abs'``, ``'mean'`` or ``'eigencam'``. Defaults to 'abs'.
        score (float, optional): Also take detections from this score on. Defaults to None: none.

    Raises:
        ValueError: If the method or a module is unknown, or a module is not run.
    """
    if method not in METHODS:
        raise ValueError(f'method={method!r} is unknown: choose one of {list(METHODS)}')
    model, results = detector.model, []
    taps = parse_taps(model, modules)
    for sample in samples:
        with torch.no_grad():
            tensors, outputs = capture(
                model,
                taps,
                lambda sample=sample: model(sample.inputs, sample.data_samples, mode='predict'),
                stop=score is None,
            )
        for tap, tensor in zip(taps, tensors, strict=True):
            require_whole_image(tap, tensor)
        heats = [METHODS[method](tensor[0].float()).cpu().numpy() for tensor in tensors]
        found = FeatureMaps(sample, heats)
        if score is not None:
            take_detections(found, outputs[0], score)
        results.append(found)
    return results


def take_detections(found: FeatureMaps, output, score: float) -> None:
    """Note the detections of a data sample, moved from the original image to the picture's pixels.

    The way there is the pipeline's own, as its meta information tells it: scaled, then padded (a letterbox).

    Raises:
        ValueError: If the model gives no boxes.
    """
    instances = output.get('pred_instances')
    if instances is None or 'bboxes' not in instances:
        raise ValueError(f'detections were asked for, but the model gives none: {sorted(output.keys())}')
    kept = instances[instances.scores >= score]
    scale = np.array([*output.metainfo.get('scale_factor', (1.0, 1.0))] * 2)
    top, _, left, _ = output.metainfo.get('pad_param') or (0, 0, 0, 0)
    found.boxes = kept.bboxes.cpu().numpy() * scale + np.array([left, top, left, top])
    found.labels, found.scores = kept.labels.cpu().numpy(), kept.scores.cpu().numpy()


def to_picture(heat: np.ndarray, sample: Sample, interpolation: str = 'linear') -> np.ndarray:
    """Enlarge a heat map to the network's input, cut off the padding and stretch it to 0..1.

    Args:
        heat (np.ndarray): ``(h, w)``, covering the padded input.
        sample (Sample): The image.
        interpolation (str): 'linear' or 'nearest', which shows the cells. Defaults to 'linear'.

    Returns:
        np.ndarray: ``(H, W)`` of the picture.
    """
    height, width = sample.inputs.shape[-2:]
    heat = cv2.resize(heat.astype(np.float32), (width, height), interpolation=RESIZE[interpolation])
    return to_unit(heat[: sample.picture.shape[0], : sample.picture.shape[1]])


def draw_feature_maps(
    path: str | PathLike,
    results: Sequence[FeatureMaps],
    modules: Sequence[str],
    classes: Sequence[str] = (),
    strength: float = 0.5,
    interpolation: str = 'linear',
) -> None:
    """Draw one figure: a row per image, the image in the first column and a module's heat map in each other.

    Args:
        path (str | PathLike): The picture's file.
        results (Sequence[FeatureMaps]): What :func:`feature_maps` found.
        modules (Sequence[str]): Titles of the columns.
        classes (Sequence[str]): Names for the detections. Defaults to ().
        strength (float): Share of the heat maps' colours in the overlays. Defaults to 0.5.
        interpolation (str): As in :func:`to_picture`. Defaults to 'linear'.
    """
    shape = results[0].sample.picture.shape
    figure, axes = grid(len(results), len(modules) + 1, shape[0] / shape[1], titled=1)
    for axis, title in zip(axes[0], ['image', *modules], strict=True):
        axis.set_title(title, fontsize=8)
    for line, result in zip(axes, results, strict=True):
        line[0].imshow(result.sample.picture)
        line[0].set_ylabel(result.sample.name, fontsize=7)
        draw_boxes(line[0], result, classes)
        for axis, heat in zip(line[1:], result.heats, strict=True):
            axis.imshow(overlay(result.sample.picture, to_picture(heat, result.sample, interpolation), strength))
    save_figure(path, figure)


def draw_boxes(axis, result: FeatureMaps, classes: Sequence[str]) -> None:
    """Detections over the image, one colour per class."""
    if result.boxes is None:
        return
    for (left, top, right, bottom), label, score in zip(result.boxes, result.labels, result.scores, strict=True):
        tint = f'C{label % 10}'
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=tint, lw=0.8))
        name = classes[label] if label < len(classes) else str(label)
        axis.text(left, top, f'{name} {score:.2f}', fontsize=4, color=tint, va='bottom', clip_on=True)
