"""The RT-DETR detector.

Paper: "DETRs Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), fig. 4.

    image -- backbone -- neck (hybrid encoder) -- 1x1 per level --+-- memory ----------------------+
                                                                  |                                v
                                                                  +-- proposals -- top queries -- decoder -- head
                                                                                       ^
                                                    (training) denoising queries ------+

Any backbone of MMDetection works, and any neck that states its outputs, as FPN does: the number of levels and their
widths are the neck's, the strides those of its maps.

Shape shorthand in this module:
    B: batch, C: channels, S: positions of all levels, Q: queries, D: denoising queries, K: classes
"""

import math

import torch
from mmcv.cnn import ConvModule
from mmdet.models.detectors import DetectionTransformer
from mmdet.structures import OptSampleList, SampleList
from torch import Tensor, nn

from mmscale.layers import init_as_torch
from mmscale.options import check_options
from mmscale.registry import MODELS

from .decoder import RTDETRDecoder
from .denoising import ContrastiveDenoising
from .query_selection import proposal_anchors

__all__ = ['RTDETR', 'strides_of']


@MODELS.register_module()
class RTDETR(DetectionTransformer):
    """Backbone, neck, query selection, decoder and head.

    Args:
        backbone (dict): A backbone with three or more levels.
        neck (dict): ``mmscale.HybridEncoder`` or any neck with ``out_channels`` and ``num_outs``, or with a list of
            ``out_channels``.
        decoder (dict): Options of :class:`~mmscale.rtdetr.RTDETRDecoder`; ``num_levels`` is the neck's.
        bbox_head (dict): ``mmscale.RTDETRHead`` or a child of it.
        num_queries (int): Q. An input with fewer positions than that uses all of them. Defaults to 300.
        box_all_proposals (bool): Whether the encoder's box branch runs on every position, as in the official code, or
            only on those selected, which is all that anything depends on: results and gradients are the same, at
            640x640 with 2.1 GFLOPs less. True is for counting as the papers do. Defaults to False.
        dn_cfg (dict, optional): Options of :class:`~mmscale.rtdetr.ContrastiveDenoising`; None trains without
            denoising queries. Defaults to ``dict()``.
        train_cfg (dict, optional): ``assigner``.
        test_cfg (dict, optional): ``max_per_img``.
        data_preprocessor (dict, optional): As MMDetection's.
        init_cfg (dict or list[dict], optional): Initialisation in MMEngine's form. Defaults to None, the official one.

    Raises:
        ValueError: If the neck does not say its outputs, or an option is unknown or contradicts another part's.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        decoder: dict,
        bbox_head: dict,
        num_queries: int = 300,
        box_all_proposals: bool = False,
        dn_cfg: dict | None = {},  # noqa: B006 (never changed; None has a meaning of its own)
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        _check_part('decoder', RTDETRDecoder, decoder, derived=('num_levels',))
        _refuse_derived('bbox_head', bbox_head, ('num_pred_layer', 'share_pred_layer', 'as_two_stage'))
        self.dn_cfg = dn_cfg
        self.box_all_proposals = box_all_proposals
        layers = decoder.get('num_layers', 6)
        bbox_head = {**bbox_head, 'num_pred_layer': layers + 1, 'share_pred_layer': False, 'as_two_stage': True}
        super().__init__(
            backbone=backbone,
            neck=neck,
            decoder=decoder,
            bbox_head=bbox_head,
            num_queries=num_queries,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def _init_layers(self) -> None:
        widths = _widths_of(self.neck)
        self.decoder = self._build_decoder(**{**self.decoder, 'num_levels': len(widths)})
        channels = self.decoder.embed_dims
        if self.bbox_head.embed_dims != channels:
            raise ValueError(
                f'bbox_head.embed_dims={self.bbox_head.embed_dims} does not match decoder.embed_dims={channels}'
            )
        self.input_proj = nn.ModuleList(
            [ConvModule(width, channels, 1, norm_cfg=dict(type='BN'), act_cfg=None) for width in widths]
        )
        self.memory_proj = self._build_memory_proj(channels)
        self.dn_query_generator = None
        if self.dn_cfg is not None:
            if not self.decoder.num_layers:
                raise ValueError('decoder.num_layers=0 leaves no layer for denoising queries: set dn_cfg=None')
            derived = ('num_classes', 'embed_dims', 'num_matching_queries')
            _check_part('dn_cfg', ContrastiveDenoising, self.dn_cfg, derived)
            self.dn_query_generator = ContrastiveDenoising(
                num_classes=self.bbox_head.num_classes,
                embed_dims=channels,
                num_matching_queries=self.num_queries,
                **self.dn_cfg,
            )

    def _build_decoder(self, **options) -> RTDETRDecoder:
        return RTDETRDecoder(**options)

    def _build_memory_proj(self, channels: int) -> nn.Module:
        """What makes queries of the memory."""
        return nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))

    def init_weights(self) -> None:
        """The official start of every weight, then what ``init_cfg`` and the parts say."""
        init_as_torch(self.input_proj)
        init_as_torch(self.memory_proj)
        for module in self.memory_proj.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        super().init_weights()

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """The losses of a batch ``(B, 3, H, W)``, see :meth:`RTDETRHead.loss`."""
        head_inputs = self._head_inputs(batch_inputs, batch_data_samples)
        return self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The samples of a batch ``(B, 3, H, W)`` with ``pred_instances``, see :meth:`RTDETRHead.predict`."""
        head_inputs = self._head_inputs(batch_inputs, batch_data_samples)
        results = self.bbox_head.predict(**head_inputs, batch_data_samples=batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: OptSampleList = None) -> tuple[Tensor, Tensor]:
        """Logits and boxes of a batch ``(B, 3, H, W)``, see :meth:`RTDETRHead.forward`."""
        head_inputs = self._head_inputs(batch_inputs, batch_data_samples)
        return self.bbox_head(**{name: head_inputs.get(name) for name in ('hidden_states', 'boxes', 'proposals')})

    def _head_inputs(self, batch_inputs: Tensor, batch_data_samples: OptSampleList) -> dict:
        maps = self.extract_feat(batch_inputs)
        return self.forward_transformer(maps, batch_data_samples, strides_of(maps, batch_inputs))

    def forward_transformer(
        self, img_feats: tuple[Tensor, ...], batch_data_samples: OptSampleList, strides: list[int], **hints
    ) -> dict:
        """From the neck's maps to what the head takes.

        Args:
            img_feats (tuple[Tensor]): One map ``(B, C_i, H_i, W_i)`` per level, finest first.
            batch_data_samples (list[DetDataSample], optional): Ground truth, in training.
            strides (list[int]): Stride of every level.
            **hints: What a child's :meth:`select_queries` takes beyond the memory.

        Returns:
            dict: ``hidden_states`` and ``boxes`` of the decoder's layers, and in training ``enc_logits``, ``enc_boxes``
            and ``dn_meta``.
        """
        memory = self.pre_transformer(img_feats)
        queries, head_inputs = self.pre_decoder(
            **memory, strides=strides, batch_data_samples=batch_data_samples, **hints
        )
        return {**head_inputs, **self.forward_decoder(**memory, **queries)}

    def pre_transformer(self, maps: tuple[Tensor, ...]) -> dict:
        """The levels as one sequence.

        Args:
            maps (tuple[Tensor]): The neck's.

        Returns:
            dict: ``memory`` ``(B, S, C)`` and ``shapes``, height and width of every level.
        """
        maps = [conv(x) for conv, x in zip(self.input_proj, maps, strict=True)]
        memory = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
        return dict(memory=memory, shapes=[tuple(x.shape[-2:]) for x in maps])

    def forward_encoder(self, **kwargs) -> dict:
        """Nothing: the neck is the encoder."""
        return kwargs

    def pre_decoder(
        self,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        strides: list[int],
        batch_data_samples: OptSampleList,
        **hints,
    ) -> tuple[dict, dict]:
        """Select the queries; in training, put the denoising queries in front.

        Args:
            memory (Tensor): ``(B, S, C)``.
            shapes (list[tuple[int, int]]): Height and width of every level.
            strides (list[int]): Stride of every level.
            batch_data_samples (list[DetDataSample], optional): Ground truth, in training.
            **hints: What a child's :meth:`select_queries` takes beyond the memory.

        Returns:
            tuple[dict, dict]: ``query``, ``references`` and ``attn_mask`` for the decoder; ``enc_logits``,
            ``enc_boxes`` and ``dn_meta`` for the head's loss (at inference nothing, or ``proposals`` where the decoder
            runs no layer).
        """
        query, logits, boxes = self.select_queries(memory, shapes, strides, **hints)
        decoder_inputs = dict(query=query.detach(), references=boxes.detach())
        if not self.training:
            return decoder_inputs, {} if self.decoder.num_eval_layers else dict(proposals=(logits, boxes))
        head_inputs = dict(enc_logits=logits, enc_boxes=boxes)
        if self.dn_query_generator is not None:
            decoder_inputs, head_inputs['dn_meta'] = self._with_denoising(decoder_inputs, batch_data_samples)
        return decoder_inputs, head_inputs

    def select_queries(
        self, memory: Tensor, shapes: list[tuple[int, int]], strides: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The positions with the best class score as queries.

        Args:
            memory (Tensor): ``(B, S, C)``.
            shapes (list[tuple[int, int]]): Height and width of every level.
            strides (list[int]): Stride of every level.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Contents ``(B, Q, C)``, logits ``(B, Q, K)`` and boxes ``(B, Q, 4)``, (cx,
            cy, w, h) over the size of the image.
        """
        anchors, valid = proposal_anchors(shapes, strides, memory.device)
        proposals = self.memory_proj(memory * valid.to(memory.dtype))
        encoder = self.decoder.num_layers  # the branches after those of the layers
        logits = self.bbox_head.cls_branches[encoder](proposals)
        best = logits.max(-1).values.topk(min(self.num_queries, logits.shape[1]), dim=1).indices
        query, logits = _rows(proposals, best), _rows(logits, best)
        box_branch = self.bbox_head.reg_branches[encoder]
        offsets = _rows(box_branch(proposals), best) if self.box_all_proposals else box_branch(query)
        boxes = (offsets + _rows(anchors.expand(memory.shape[0], -1, -1), best)).sigmoid()
        return query, logits, boxes

    def _with_denoising(self, inputs: dict, batch_data_samples: OptSampleList) -> tuple[dict, dict]:
        """The decoder's inputs with the denoising queries in front, ``(B, D + Q, ...)``, and what these are."""
        generator = self.dn_query_generator
        generator.num_matching_queries = inputs['query'].shape[1]
        query, logits, mask, meta = generator(batch_data_samples)
        query = torch.cat((query, inputs['query']), dim=1)  # without an object, too, part of the graph: DDP needs it
        references = torch.cat((logits.sigmoid(), inputs['references']), dim=1)
        return dict(query=query, references=references, attn_mask=mask), meta

    def forward_decoder(
        self,
        query: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: list[tuple[int, int]],
        attn_mask: Tensor | None = None,
    ) -> dict:
        """Run the decoder: ``hidden_states`` and ``boxes`` of its layers, for the head."""
        states, boxes = self.decoder(query, references, memory, shapes, self.bbox_head.reg_branches, attn_mask)
        return dict(hidden_states=states, boxes=boxes)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """The rows ``(B, Q, C)`` of ``(B, S, C)`` that ``places``, ``(B, Q)``, names."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def strides_of(maps: tuple[Tensor, ...], batch_inputs: Tensor) -> list[int]:
    """The strides of maps ``(B, C_i, H_i, W_i)`` of a batch ``(B, 3, H, W)``, as powers of two.

    By the longer side, of which the last, ragged position is the smaller share.
    """

    def side(x: Tensor) -> int:
        return max(int(x.shape[-2]), int(x.shape[-1]))

    return [2 ** round(math.log2(side(batch_inputs) / side(x))) for x in maps]


def _check_part(name: str, cls: type, options: dict, derived: tuple[str, ...]) -> None:
    """Refuse options of a part that it does not take, or that the detector derives."""
    check_options(name, cls, options, reserved=derived)
    _refuse_derived(name, options, derived)


def _refuse_derived(name: str, options: dict, derived: tuple[str, ...]) -> None:
    for option in derived:
        if option in options:
            raise ValueError(f'{name}.{option}={options[option]!r} cannot be set: the detector knows it')


def _widths_of(neck: nn.Module) -> list[int]:
    """Channels of every map that a neck returns, as far as it states them."""
    channels, count = getattr(neck, 'out_channels', None), getattr(neck, 'num_outs', None)
    if isinstance(channels, int) and isinstance(count, int):
        return [channels] * count
    if isinstance(channels, list | tuple):
        return list(channels)
    raise ValueError(
        f'RTDETR reads its levels from the neck, but {type(neck).__name__} says neither `out_channels` with `num_outs` '
        'nor a list of `out_channels`'
    )
