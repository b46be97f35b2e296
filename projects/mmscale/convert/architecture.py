"""Which RT-DETR a checkpoint holds, read off the names and shapes of its weights."""

from collections.abc import Callable
from dataclasses import dataclass

from mmdet.models.backbones import ResNetV1d
from mmdet.models.backbones.resnet import Bottleneck
from torch import nn

from mmscale.engine.cli import UsageError
from mmscale.rtdetr.hgnetv2 import ARCHITECTURES

__all__ = ['Architecture', 'count_decoder_layers', 'facts_of', 'read_architecture']

Shapes = Callable[[str], tuple[int, ...] | None]


@dataclass
class Architecture:
    """The numbers in which one RT-DETR differs from another.

    Attributes:
        backbone (dict): Its config, without what training alone needs.
        stages (dict): What the shapes say about the backbone; as :mod:`.huggingface` needs it.
        widths (list[int]): Channels of the backbone's stages.
        in_channels (list[int]): Of the levels that the encoder takes.
        out_channels (int): Channels of the encoder.
        expansion (float): Of its fusion blocks.
        num_blocks (int): RepVGG blocks in each of them.
        aifi_layers (int): Layers of the encoder's attention.
        aifi_feedforward (int): Hidden width of those.
        decoder_layers (int): Layers of the decoder.
        embed_dims (int): Channels of a query.
        feedforward (int): Hidden width of the decoder's layers.
        num_classes (int): Classes.
        denoising (bool): Whether there are denoising queries' weights.
        num_points (int): Sampling points of a level. Shapes say points times heads only.
        encoder_heads (int): Not to be seen in the weights.
        decoder_heads (int): Likewise.
        num_queries (int): Likewise.
    """

    backbone: dict
    stages: dict
    widths: list[int]
    in_channels: list[int]
    out_channels: int
    expansion: float
    num_blocks: int
    aifi_layers: int
    aifi_feedforward: int
    decoder_layers: int
    embed_dims: int
    feedforward: int
    num_classes: int
    denoising: bool
    num_points: int
    encoder_heads: int
    decoder_heads: int
    num_queries: int

    def __str__(self) -> str:
        kind = ' '.join(str(self.backbone[key]) for key in ('type', 'depth', 'arch') if key in self.backbone)
        return (
            f'{kind.removeprefix("mmscale.")}, {self.decoder_layers} decoder layers, {self.num_classes} classes, '
            f'{self.num_queries} queries'
        )

    def model_config(self) -> dict:
        """The config of a detector with these numbers, as ``MODELS.build`` takes it."""
        aifi = dict(
            num_heads=self.encoder_heads, feedforward_channels=self.aifi_feedforward, num_layers=self.aifi_layers
        )
        return dict(
            type='mmscale.RTDETR',
            num_queries=self.num_queries,
            backbone=dict(self.backbone),
            neck=dict(
                type='mmscale.HybridEncoder',
                in_channels=self.in_channels,
                out_channels=self.out_channels,
                num_blocks=self.num_blocks,
                expansion=self.expansion,
                aifi=aifi if self.aifi_layers else None,
            ),
            decoder=dict(
                num_layers=self.decoder_layers,
                embed_dims=self.embed_dims,
                num_heads=self.decoder_heads,
                num_points=self.num_points,
                feedforward_channels=self.feedforward,
            ),
            bbox_head=dict(type='mmscale.RTDETRHead', num_classes=self.num_classes, embed_dims=self.embed_dims),
            dn_cfg=dict() if self.denoising else None,
        )

    @property
    def first_stride(self) -> int:
        """Stride of the finest level."""
        return 4 * 2 ** self.backbone['out_indices'][0]


def read_architecture(shape: Shapes, facts: dict) -> Architecture:
    """Read what the weights are of.

    Args:
        shape (Callable): Shape of a weight by our name; None if it is not there.
        facts (dict): What is known beyond the shapes: any of ``num_points``, ``encoder_heads``, ``decoder_heads``,
            ``num_queries``. The official code's 8 heads and 300 queries else.

    Raises:
        UsageError: If they are of no RT-DETR, or a weight that must say something is not there.
    """

    def size(name: str, dim: int = 0) -> int:
        if (found := shape(name)) is None:
            raise UsageError(f"the checkpoint lacks '{name}' (our name), from which its architecture is read")
        return found[dim]

    levels = _count(shape, 'neck.input_proj.#', 'conv.weight', 'bn.weight', 'bn.running_mean')
    in_channels = [size(f'neck.input_proj.{i}.conv.weight', 1) for i in range(levels)]
    backbone, stages, widths = _read_backbone(shape, size)
    backbone['out_indices'] = _find_levels(widths, in_channels)
    out_channels = size('neck.input_proj.0.conv.weight')
    aifi_layers = _count(shape, 'neck.aifi.layers.#', 'linear1.weight', 'norm1.weight', 'norm2.weight')
    layers = count_decoder_layers(shape)
    heads = facts.get('decoder_heads', 8)
    places = size('decoder.layers.0.cross_attn.attention_weights.weight')
    num_points = facts.get('num_points', places // (heads * levels))
    if not num_points or places % (heads * levels):
        raise UsageError(
            f'{places} attention weights of the decoder are no multiple of {heads} heads and {levels} levels; with '
            '--config, the heads are those of a config'
        )
    return Architecture(
        backbone=backbone,
        stages=stages,
        widths=widths,
        in_channels=in_channels,
        out_channels=out_channels,
        expansion=size('neck.top_down_blocks.0.conv1.conv.weight') / out_channels,
        num_blocks=_count(shape, 'neck.top_down_blocks.0.blocks.#', 'conv3x3.conv.weight', 'conv1x1.conv.weight'),
        aifi_layers=aifi_layers,
        aifi_feedforward=size('neck.aifi.layers.0.linear1.weight') if aifi_layers else 1024,
        decoder_layers=layers,
        embed_dims=size('memory_proj.0.weight'),
        feedforward=size('decoder.layers.0.linear1.weight'),
        num_classes=size('bbox_head.cls_branches.0.weight'),
        denoising=shape('dn_query_generator.label_embedding.weight') is not None,
        num_points=num_points,
        encoder_heads=facts.get('encoder_heads', 8),
        decoder_heads=heads,
        num_queries=facts.get('num_queries', 300),
    )


def count_decoder_layers(shape: Shapes) -> int:
    """Layers of the decoder; one is there if any of several weights is, so that a gap is not taken for the end."""
    return _count(shape, 'decoder.layers.#', 'norm1.weight', 'norm2.weight', 'norm3.weight', 'linear1.weight')


def facts_of(model: nn.Module) -> dict:
    """What the weights of an RT-DETR do not say about it, see :func:`read_architecture`."""
    attention = model.decoder.layers[0].cross_attn
    facts = dict(num_points=attention.num_points, decoder_heads=attention.num_heads, num_queries=model.num_queries)
    layers = getattr(getattr(model.neck, 'aifi', None), 'layers', None)
    return {**facts, 'encoder_heads': layers[0].self_attn.num_heads} if layers else facts


def _count(shape: Shapes, module: str, *weights: str) -> int:
    count = 0
    while any(shape(f'{module}.{weight}'.replace('#', str(count))) for weight in weights):
        count += 1
    return count


def _read_backbone(shape: Shapes, size: Callable[..., int]) -> tuple[dict, dict, list[int]]:
    """Config, numbers and widths of the stages."""
    blocks = [
        _count(shape, f'backbone.layer{stage}.#', 'conv1.weight', 'conv2.weight', 'bn1.weight', 'bn2.weight')
        for stage in range(1, 5)
    ]
    if any(blocks):
        return _read_resnet(shape, size, blocks)
    names = ('layers.0.conv.weight', 'layers.0.conv1.conv.weight', 'aggregation_squeeze_conv.conv.weight')
    blocks = [_count(shape, f'backbone.stages.{stage}.blocks.#', *names) for stage in range(4)]
    blocks = blocks[: blocks.index(0)] if 0 in blocks else blocks
    if blocks:
        return _read_hgnet(shape, size, blocks)
    raise UsageError('the checkpoint has neither the weights of a ResNet-vd nor those of an HGNetV2 as its backbone')


def _read_resnet(shape: Shapes, size: Callable[..., int], blocks: list[int]) -> tuple[dict, dict, list[int]]:
    bottleneck = any(shape(f'backbone.layer1.0.{name}') for name in ('conv3.weight', 'bn3.weight'))
    depths = [
        depth
        for depth, (block, counts) in ResNetV1d.arch_settings.items()
        if list(counts) == blocks and (block is Bottleneck) == bottleneck
    ]
    if not depths:
        kind = 'bottleneck' if bottleneck else 'basic'
        raise UsageError(f'the backbone has {blocks} {kind} blocks in its stages, as no ResNet-vd has')
    base, image = size('backbone.layer1.0.conv1.weight'), size('backbone.stem.0.weight', 1)
    config = dict(type='mmscale.ResNetVd', depth=depths[0], base_channels=base, in_channels=image)
    stages = dict(kind='resnet', blocks=blocks, bottleneck=bottleneck, stem=size('backbone.stem.6.weight'))
    return config, stages, [base * (4 if bottleneck else 1) * 2**i for i in range(4)]


def _read_hgnet(shape: Shapes, size: Callable[..., int], blocks: list[int]) -> tuple[dict, dict, list[int]]:
    count = len(blocks)
    first = [f'backbone.stages.{i}.blocks.0' for i in range(count)]
    stem = (size('backbone.stem.stem1.conv.weight'), size('backbone.stem.stem4.conv.weight'))
    mid = [
        size(f'{block}.layers.0.{"conv1.conv" if i > 1 else "conv"}.weight') for i, block in enumerate(first)
    ]  # light layers in the last two stages
    out = [size(f'{block}.aggregation_excitation_conv.conv.weight') for block in first]
    layers = _count(shape, f'{first[0]}.layers.#', 'conv.weight', 'bn.weight')
    lab = shape('backbone.stem.stem1.lab.scale') is not None
    found = dict(stem=stem, mid=mid, out=out, blocks=blocks, layers=layers)
    names = [
        name
        for name, numbers in ARCHITECTURES.items()
        if (numbers.stem, numbers.layers) == (stem, layers)
        and [list(values[:count]) for values in (numbers.mid, numbers.out, numbers.blocks)] == [mid, out, blocks]
    ]
    if not names:
        raise UsageError(f'the backbone is an HGNetV2 of unknown numbers: {found}')
    name = next((name for name in names if name in 'LXH'), names[0])
    config = dict(type='mmscale.HGNetV2', arch=name, in_channels=size('backbone.stem.stem1.conv.weight', 1))
    if lab != ARCHITECTURES[name].lab:
        config['use_lab'] = lab
    return config, dict(kind='hgnet', lab=lab, **found), out


def _find_levels(widths: list[int], in_channels: list[int]) -> tuple[int, ...]:
    """Stages that the encoder takes: consecutive ones of these widths."""
    for first in range(len(widths)):
        if in_channels and widths[first : first + len(in_channels)] == in_channels:
            return tuple(range(first, first + len(in_channels)))
    raise UsageError(
        f"the encoder takes maps with {in_channels} channels, and the backbone's stages have {widths}: those are no "
        'consecutive ones'
    )
