"""The HMPE detector: RT-DETR whose encoder and queries are led by heatmaps.

Paper: "HMPE: HeatMap Embedding for Efficient Transformer-Based Small Object Detection" (Zeng et al., 2025), figs. 2
and 3.

    image -- backbone -- projection, snakes --+-- heatmap head -- H_class, H_bbox, H_mixed, mask --+
                                              |          |                                         |
                                              |          v                                         v
                                              +------- MOHFE -- fusion -- memory -------------- hottest K
                                                                             |                     |
                                                                             +------- decoder <----+
                                                                                         |
                                                                                        head

Without heatmap head it is RT-DETR; without ``mohfe`` or ``hidq`` that part is RT-DETR's. No backward pass is needed at
inference, and none is made.
"""

import torch
from mmdet.structures import OptSampleList
from torch import Tensor, nn

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr import RTDETR, HybridEncoder, RTDETRDecoder
from mmscale.rtdetr.detector import strides_of
from mmscale.rtdetr.query_selection import proposal_anchors

from .head import HMPEHead
from .heatmap_head import HeatmapHead, Heatmaps
from .hidq import HIDQ, SharedValueDecoder

__all__ = ['HMPE']


@MODELS.register_module()
class HMPE(RTDETR):
    """RT-DETR with heatmaps.

    Args:
        *args: As ``mmscale.RTDETR``; with a heatmap head the neck is ``mmscale.HMPEEncoder``, or without MOHFE any
            ``mmscale.HybridEncoder``, and the head ``mmscale.HMPEHead``.
        heatmap_head (dict, optional): Options of :class:`~mmscale.hmpe.HeatmapHead`. Defaults to None: no heatmaps.
        hidq (bool): Whether the queries are those of :class:`~mmscale.hmpe.HIDQ`, decoded with shared values, instead
            of RT-DETR's, which are chosen by class score. Defaults to False.
        **kwargs: As ``mmscale.RTDETR``.

    Raises:
        ValueError: As ``mmscale.RTDETR``; also if MOHFE or HIDQ have no heatmap head, a heatmap head has neither, or
            stands between a neck and a head that do not know it.
    """

    def __init__(self, *args, heatmap_head: dict | None = None, hidq: bool = False, **kwargs) -> None:
        check_options('HMPE', RTDETR, kwargs)
        self.hidq = hidq
        self.heatmap_head = heatmap_head
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        options = self.heatmap_head
        del self.heatmap_head  # from here on it is a module
        super()._init_layers()
        self.heatmap_head = None
        mohfe = getattr(self.neck, 'mohfe', None) is not None
        if options is None:
            if mohfe or self.hidq:
                raise ValueError(f'{"neck.mohfe" if mohfe else "hidq"} needs heatmaps: set heatmap_head=dict()')
            return
        if not (mohfe or self.hidq):
            raise ValueError(f'heatmap_head={options} serves nobody: set neck.mohfe or hidq, or leave it out')
        neck, head = (type(part).__name__ for part in (self.neck, self.bbox_head))
        if not isinstance(self.neck, HybridEncoder):
            raise ValueError(f'heatmaps are of the levels of mmscale.HybridEncoder, but neck is {neck}')
        if not isinstance(self.bbox_head, HMPEHead):
            raise ValueError(f'heatmap_head needs the losses of mmscale.HMPEHead, but bbox_head is {head}')
        derived = ('num_classes', 'in_channels', 'num_levels', 'gate')
        check_options('heatmap_head', HeatmapHead, options, reserved=derived)
        for option in derived:
            if option in options:
                raise ValueError(f'heatmap_head.{option}={options[option]!r} cannot be set: the detector knows it')
        self.heatmap_head = HeatmapHead(
            num_classes=self.bbox_head.num_classes,
            in_channels=self.neck.out_channels,
            num_levels=self.neck.num_outs,
            gate=self.hidq,  # MOHFE reads H_mixed through a threshold and an order, neither of which has a gradient
            **options,
        )

    def _build_decoder(self, **options) -> RTDETRDecoder:
        return SharedValueDecoder(**options) if self.hidq else super()._build_decoder(**options)

    def _build_memory_proj(self, channels: int) -> nn.Module:
        return HIDQ(channels) if self.hidq else super()._build_memory_proj(channels)

    def heat(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple[list[Tensor], Heatmaps]:
        """The encoder's maps before the attention, and their heatmaps.

        Args:
            batch_inputs (Tensor): ``(B, 3, H, W)``.
            batch_data_samples (list[DetDataSample], optional): Ground truth, in training.

        Returns:
            tuple[list[Tensor], Heatmaps]: ``(B, C, H_i, W_i)`` per level, finest first, and the heatmaps, None for a
            detector without a heatmap head.
        """
        maps = self.neck.project(self.backbone(batch_inputs))
        return maps, None if self.heatmap_head is None else self.heatmap_head(maps, batch_data_samples)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """The neck's maps of a batch ``(B, 3, H, W)``, with predicted heatmaps."""
        if self.heatmap_head is None:
            return super().extract_feat(batch_inputs)
        return self._encode(*self.heat(batch_inputs))

    def _encode(self, maps: list[Tensor], heat: Heatmaps) -> tuple[Tensor, ...]:
        with_mohfe = getattr(self.neck, 'mohfe', None) is not None
        return self.neck.encode(maps, heat) if with_mohfe else self.neck.encode(maps)

    def _head_inputs(self, batch_inputs: Tensor, batch_data_samples: OptSampleList) -> dict:
        if self.heatmap_head is None:
            return super()._head_inputs(batch_inputs, batch_data_samples)
        maps, heat = self.heat(batch_inputs, batch_data_samples)
        maps = self._encode(maps, heat)
        mixed = torch.cat([x.flatten(1) for x in heat.mixed], dim=1)
        hints = dict(mixed=mixed) if self.hidq else {}
        inputs = self.forward_transformer(maps, batch_data_samples, strides_of(maps, batch_inputs), **hints)
        return {**inputs, 'heat': heat} if self.training else inputs

    def select_queries(
        self, memory: Tensor, shapes: list[tuple[int, int]], strides: list[int], mixed: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The hottest positions as queries, or with ``hidq=False`` RT-DETR's.

        Args:
            memory (Tensor): ``(B, S, C)``.
            shapes (list[tuple[int, int]]): Height and width of every level.
            strides (list[int]): Stride of every level.
            mixed (Tensor, optional): H_mixed, ``(B, S)``.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Contents ``(B, Q, C)``, logits ``(B, Q, K)`` and boxes ``(B, Q, 4)``, (cx,
            cy, w, h) over the size of the image.
        """
        if not self.hidq:
            return super().select_queries(memory, shapes, strides)
        query, places = self.memory_proj(memory, mixed, self.num_queries)
        anchors, _ = proposal_anchors(shapes, strides, memory.device, at_border=True)
        anchors = anchors.expand(memory.shape[0], -1, -1).gather(1, places[..., None].expand(-1, -1, 4))
        encoder = self.decoder.num_layers  # the branches after those of the layers
        boxes = (self.bbox_head.reg_branches[encoder](query) + anchors).sigmoid()
        return query, self.bbox_head.cls_branches[encoder](query), boxes
