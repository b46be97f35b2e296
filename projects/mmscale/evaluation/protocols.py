"""The evaluation protocols by name, each with its source.

One test run is evaluated under as many of them as wanted:
``val_evaluator = dict(type='mmscale.DetectionMetric', protocols=('coco', 'voc07'), ...)``. docs/evaluation.md explains
them.
"""
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ['PROTOCOLS', 'Protocol', 'get_protocols']

COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
NO_LIMIT = float(1e5**2)


@dataclass(frozen=True)
class Protocol:
    """What one protocol measures.

    Args:
        name (str): The protocol's name, the first part of its metrics' names.
        kind (str): Who computes it:

            - 'coco': pycocotools' matching, precision averaged over 101 recalls.
            - 'voc': MMDetection's VOC matching, at one IoU.
            - 'visdrone': pycocotools' matching within the rules of the VisDrone toolkit.
        source (str): The paper and the toolkit that define it.
        ious (tuple[float]): IoU thresholds.
        max_dets (tuple[int]): Detections per image that count, ascending; the last one is for AP. Empty for all.
        areas (tuple[tuple]): Size bins: name, smallest and largest area in square pixels, both included.
        ap_mode (str): The integration of VOC's AP, '11points' or 'area'. Defaults to 'area'.
    """
    name: str
    kind: str
    source: str
    ious: tuple[float, ...]
    max_dets: tuple[int, ...] = ()
    areas: tuple[tuple[str, float, float], ...] = ()
    ap_mode: str = 'area'


PROTOCOLS = {protocol.name: protocol for protocol in (
    Protocol(
        'coco', 'coco', 'Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; pycocotools', COCO_IOUS,
        max_dets=(1, 10, 100),
        areas=(('S', 0, 32**2), ('M', 32**2, 96**2), ('L', 96**2, NO_LIMIT))),
    Protocol(
        'voc07', 'voc', 'Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010; VOC2007 '
        'development kit: precision at 11 recalls', (0.5,), ap_mode='11points'),
    Protocol(
        'voc12', 'voc', 'Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015; '
        'VOC2012 development kit: area under the curve', (0.5,)),
    Protocol(
        'visdrone', 'visdrone', 'Zhu et al., Vision Meets Drones: A Challenge, 2018 (VisDrone-DET); '
        'VisDrone2018-DET-toolkit', COCO_IOUS, max_dets=(1, 10, 100, 500)),
    Protocol(
        'aitod', 'coco', 'Wang et al., Tiny Object Detection in Aerial Images, ICPR 2020 (AI-TOD); cocoapi-aitod',
        COCO_IOUS, max_dets=(1, 100, 1500),
        # open ends as in the toolkit, so that every object is in a bin; the paper has 2 to 8 and 32 to 64 pixels
        areas=(('vt', 0, 8**2), ('t', 8**2, 16**2), ('s', 16**2, 32**2), ('m', 32**2, NO_LIMIT))),
)}


def get_protocols(names: str | Sequence[str]) -> list[Protocol]:
    """The protocols of these names.

    Args:
        names (str | Sequence[str]): One name or several.

    Raises:
        ValueError: A name is unknown or occurs twice, or there is none.

    Example:
        >>> [protocol.max_dets[-1] for protocol in get_protocols(['coco', 'aitod'])]
        [100, 1500]
    """
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f'protocols={tuple(names)!r} should be one or several different ones of {tuple(PROTOCOLS)}')
    return [PROTOCOLS[name] for name in names]
