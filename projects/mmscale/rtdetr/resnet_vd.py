"""ResNet-vd, RT-DETR's first backbone.

Papers: "Bag of Tricks for Image Classification with Convolutional Neural Networks" (He et al., CVPR 2019), model D: a
stem of three 3x3 convolutions, and an average pooling before the 1x1 convolution of a strided short cut; and "DETRs
Beat YOLOs on Real-time Object Detection" (Zhao et al., CVPR 2024), whose code (``PResNet``, variant d, in
github.com/lyuwenyu/RT-DETR, Apache-2.0) is what "official" means here.

MMDetection's ``ResNetV1d`` is this network for the depths 50, 101 and 152. At 18 and 34 one thing differs: the official
code gives the first block of *every* stage a projected short cut, MMDetection only where the shape changes. In stage 1
of a network of basic blocks it does not (64 channels, stride 1), so there the official network has one 1x1 convolution
with batch norm more; so do the ImageNet weights that it loads, which come from PaddleClas.
"""

import torch.nn as nn
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmdet.models.backbones import ResNetV1d
from mmdet.models.layers import ResLayer

from mmscale.options import check_options
from mmscale.registry import MODELS

from .official_weights import OfficialWeights, check_stages

__all__ = ['ResNetVd']


def _official_modules() -> dict[str, str]:
    """Official module by our module, for the deepest network; ``layer1`` to ``layer4`` are MMDetection's names."""
    table = {}
    for i, (conv, norm) in enumerate([(0, 1), (3, 4), (6, 7)], start=1):
        table |= {f'stem.{conv}': f'conv1.conv1_{i}.conv', f'stem.{norm}': f'conv1.conv1_{i}.norm'}
    for stage, blocks in enumerate(ResNetV1d.arch_settings[152][1]):
        for block in range(blocks):
            own, official = f'layer{stage + 1}.{block}', f'res_layers.{stage}.blocks.{block}'
            for i, branch in enumerate('abc', start=1):
                table[f'{own}.conv{i}'] = f'{official}.branch2{branch}.conv'
                table[f'{own}.bn{i}'] = f'{official}.branch2{branch}.norm'
        short = f'res_layers.{stage}.blocks.0.short' + ('.conv' if stage else '')  # behind a pooling but in stage 1
        table |= {f'layer{stage + 1}.0.downsample.{i}': f'{short}.{name}' for i, name in [(1, 'conv'), (2, 'norm')]}
    return table


OFFICIAL_MODULES = _official_modules()
OWN_MODULES = {official: own for own, official in OFFICIAL_MODULES.items()}


@MODELS.register_module()
class ResNetVd(OfficialWeights, ResNetV1d):
    """MMDetection's ``ResNetV1d`` with the official short cuts, initialisation and weights.

    Without weights, convolutions start as torch makes them (``kaiming_uniform_`` with ``a=sqrt(5)``) and batch norm at
    1 and 0, as in the official code; MMDetection would draw from another distribution and set the last norm of every
    block to zero. The official ImageNet weights load by their address, all of them at
    ``https://github.com/lyuwenyu/storage/releases/download/v0.1/``: ``ResNet18_vd_pretrained_from_paddle.pth``,
    ``ResNet34_vd_pretrained_from_paddle.pth``, ``ResNet50_vd_ssld_v2_pretrained_from_paddle.pth`` and
    ``ResNet101_vd_ssld_pretrained_from_paddle.pth``.

    The official ``freeze_norm=True`` is ``norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True``; its
    ``freeze_at`` is ``frozen_stages``, which here holds the statistics of the frozen part as well (the official
    configs that freeze a part freeze all norms).

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        zero_init_residual (bool): Start the last norm of every block at zero. Defaults to False.
        init_cfg (dict | list[dict], optional): As in MMEngine. A checkpoint of type ``Pretrained`` may have our names,
            MMDetection's, which are the same, or the official ones, and must fill the network. Defaults to None, the
            official initialisation.
        **kwargs: As MMDetection's ``ResNet``, but for ``deep_stem`` and ``avg_down``.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Example:
        >>> import torch
        >>> backbone = ResNetVd(depth=18, base_channels=8, out_indices=(1, 2, 3))
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]
        >>> backbone.out_channels
        [16, 32, 64]
        >>> backbone.official_name('layer2.0.conv1.weight')
        'res_layers.1.blocks.0.branch2a.conv.weight'
    """

    def __init__(
        self, depth: int, *, zero_init_residual: bool = False, init_cfg: dict | list[dict] | None = None, **kwargs
    ) -> None:
        _check_arguments(depth, kwargs)
        super().__init__(depth=depth, zero_init_residual=zero_init_residual, init_cfg=init_cfg, **kwargs)
        if init_cfg is None and kwargs.get('pretrained') is None:
            self.init_cfg = None  # MMDetection's own default would draw the weights anew

    @property
    def out_channels(self) -> list[int]:
        """Channels of the maps that are returned, finest first."""
        return [self.block.expansion * self.base_channels * 2**i for i in self.out_indices]

    @staticmethod
    def own_name(name: str) -> str:
        return _renamed(name, OWN_MODULES)

    @staticmethod
    def official_name(name: str) -> str:
        return _renamed(name, OFFICIAL_MODULES)

    def make_res_layer(self, **kwargs) -> ResLayer:
        """A stage whose first block has a projected short cut, whatever the shapes."""
        layer = super().make_res_layer(**kwargs)
        block = layer[0]
        if block.downsample is None:
            channels = kwargs['planes'] * block.expansion
            block.downsample = nn.Sequential(
                nn.Identity(),  # in the place of the pooling, so that all stages have the same names
                build_conv_layer(kwargs['conv_cfg'], kwargs['inplanes'], channels, kernel_size=1, bias=False),
                build_norm_layer(kwargs['norm_cfg'], channels)[1],
            )
        elif kwargs['stride'] == 1:
            block.downsample[0] = nn.Identity()  # MMDetection pools over 1x1, which copies the map
        return layer

    def train(self, mode: bool = True) -> 'ResNetVd':
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        return self

    @property
    def _parts(self) -> list[str]:
        return ['stem', *self.res_layers]


def _renamed(name: str, modules: dict[str, str]) -> str:
    module, _, leaf = name.rpartition('.')
    return f'{modules[module]}.{leaf}' if module in modules else name


def _check_arguments(depth: int, kwargs: dict) -> None:
    """One sentence for what MMDetection only asserts, or for what would fail deep inside it."""
    if depth not in ResNetV1d.arch_settings:
        raise ValueError(f'depth={depth!r} is none of {", ".join(map(str, ResNetV1d.arch_settings))}')
    check_options('ResNetVd', ResNetVd, kwargs)
    for name in ('deep_stem', 'avg_down'):
        if name in kwargs:
            raise ValueError(f'{name}={kwargs[name]!r} cannot be set: it is what makes a ResNet a ResNet-vd')
    count = kwargs.get('num_stages', 4)
    if not 1 <= count <= 4:
        raise ValueError(f'num_stages={count} must be 1 to 4')
    for name, default in [('strides', (1, 2, 2, 2)), ('dilations', (1, 1, 1, 1))]:
        value = kwargs.get(name, default)
        if len(value) != count:
            raise ValueError(f'{name}={value} must have one entry for each of num_stages={count}')
    check_stages(kwargs.get('out_indices', (0, 1, 2, 3)), kwargs.get('frozen_stages', -1), count)
