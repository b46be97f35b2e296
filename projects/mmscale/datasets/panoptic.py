"""Panoptic annotations: a PNG per image whose colours are the ids of its segments, and a JSON that says what they are.

MMDetection reads them with panopticapi, which is on no package index; what it needs of that is one sum, so nothing has
to be installed here.
"""

import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.mask import BitmapMasks

from ..registry import TRANSFORMS
from .reading import read_file

__all__ = ['LoadPanopticAnnotations', 'read_segment_ids']

IGNORED = 255  # the label of pixels that belong to no segment, as everywhere in MMDetection


def read_segment_ids(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Reads a panoptic PNG.

    Args:
        path (str): The file, a path or an address that MMEngine's file backends understand.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.

    Returns:
        np.ndarray: The id of every pixel's segment, red + 256 green + 256^2 blue, (H, W), int64; 0 is void.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It cannot be decoded.
    """
    content = read_file(path, 'panoptic map', backend_args)
    try:
        image = mmcv.imfrombytes(content, flag='color', channel_order='rgb', backend='cv2')
    except Exception:  # what OpenCV and MMCV raise depends on their versions
        image = None
    if image is None:
        raise ValueError(
            f"panoptic map '{path}' cannot be decoded: its {len(content)} bytes start with {content[:8]!r}"
        )
    return image.astype(np.int64) @ np.array([1, 256, 256**2])


@TRANSFORMS.register_module()
class LoadPanopticAnnotations(LoadAnnotations):
    """Loads boxes, labels and masks of things, and the label of every pixel, things and stuff.

    The keys are those of ``mmdet.LoadPanopticAnnotations``: ``gt_bboxes``, ``gt_bboxes_labels``, ``gt_ignore_flags``,
    ``gt_masks``, and ``gt_seg_map``, (H, W), uint8, 255 where a pixel belongs to no segment.

    Args:
        box_type (str): As MMDetection's. Defaults to 'hbox'.
        backend_args (dict, optional): Arguments of MMEngine's file backend. Defaults to None.

    Raises:
        FileNotFoundError: The panoptic map does not exist.
        ValueError: It cannot be decoded, or is not of the image's size.
    """

    def __init__(self, box_type: str = 'hbox', backend_args: dict | None = None) -> None:
        super().__init__(
            with_bbox=True, with_label=True, with_mask=True, with_seg=True, box_type=box_type, backend_args=backend_args
        )

    def transform(self, results: dict) -> dict:
        """Loads the annotations.

        Args:
            results (dict): The data info of ``mmdet.CocoPanopticDataset``: ``instances``, ``segments_info``,
                ``seg_map_path``, ``ori_shape``.

        Returns:
            dict: The data info with annotations.
        """
        path, size = results['seg_map_path'], tuple(results['ori_shape'])
        ids = read_segment_ids(path, self.backend_args)
        if ids.shape != size:
            raise ValueError(
                f"panoptic map '{path}' has {ids.shape[0]}x{ids.shape[1]} pixels, but its image has {size[0]}x{size[1]}"
            )
        self._load_bboxes(results)
        self._load_labels(results)
        labels, things = np.full(size, IGNORED, dtype=np.uint8), []
        for segment in results['segments_info']:
            mask = ids == segment['id']
            labels[mask] = segment['category']
            if segment['is_thing']:  # False for crowds, too: they have no box
                things.append(mask.astype(np.uint8))
        results['gt_masks'] = BitmapMasks(things, *size)
        results['gt_seg_map'] = labels
        return results
