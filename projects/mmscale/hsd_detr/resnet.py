"""SPDMixer before the stages of a ResNet: the stem of HSD-DETR in any detector whose backbone is one.

Paper: HSD-DETR (Remote Sens. 2026, 18(10), 1577), section 3.3, which puts the stem before a backbone of its own; to put
it before others is ours.

.. code-block:: text

    ResNet      image ── conv 7x7, stride 2 ── max pooling, stride 2 ─────┐
    ResNet-vd   image ── 3 convs 3x3, stride 2 ── max pooling, stride 2 ──┤
    here        image ── SPDMixer, stride 4 ──────────────────────────────┴─ layer1 ── layer2 ── layer3 ── layer4

Weights of the ordinary network fill all but the stem, which is new. So its norms learn, ours to decide, unless the stem
is frozen: also where those of the stages do not, by ``norm_eval=True`` (MMDetection's default) or
``norm_cfg=dict(requires_grad=False)``. Statistics that are held from the start would normalise nothing.
"""

from mmdet.models.backbones import ResNet
from mmengine.logging import print_log
from torch import Tensor, nn

from mmscale.options import check_options
from mmscale.registry import MODELS
from mmscale.rtdetr.official_weights import OfficialWeights, check_stages
from mmscale.rtdetr.resnet_vd import ResNetVd

from .spd_mixer import SPDMixer

__all__ = ['SPDMixerResNet', 'SPDMixerResNetVd', 'SPDMixerStem']


class SPDMixerStem(OfficialWeights):
    """Mixin before MMDetection's ResNet or a child of it, built with ``deep_stem=True``: the stem is an SPDMixer.

    Args:
        *args: As the backbone's.
        stem (dict, optional): Options of :class:`SPDMixer`, but for the channels. Its norm is the backbone's, and
            learns, unless ``norm_cfg`` says otherwise. Defaults to None, the paper's.
        **kwargs: As the backbone's.
    """

    def __init__(self, *args, stem: dict | None = None, **kwargs) -> None:
        stem = dict(stem or {})
        for name in ('in_channels', 'out_channels'):
            if name in stem:
                raise ValueError(f'stem.{name}={stem[name]!r} cannot be set: the backbone says it')
        check_options('stem', SPDMixer, stem, reserved=('in_channels', 'out_channels'))
        self.stem_options = stem
        super().__init__(*args, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        """What MMDetection's ResNet calls to make its stem, of which the pooling is a part."""
        options = dict(norm_cfg={**self.norm_cfg, 'requires_grad': True}) | self.stem_options
        self.stem = SPDMixer(in_channels, stem_channels, **options)
        self.maxpool = nn.Identity()

    def train(self, mode: bool = True) -> 'SPDMixerStem':
        """Set the mode; ``norm_eval`` holds the norms of the stages, ``frozen_stages`` from 0 on the stem."""
        super().train(mode)
        if self.frozen_stages < 0:
            self.stem.train(mode)
        return self

    @property
    def _parts(self) -> list[str]:
        return ['stem', *self.res_layers]

    def _check_complete(self, source: str, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Refuse weights that do not fill the stages, and a stem that they fill in part."""
        stem = {f'{prefix}stem.{key}': value for key, value in self.stem.state_dict().items()}
        if not stem.keys() & state_dict.keys():
            ordinary = {key: value for key, value in state_dict.items() if not key.startswith(f'{prefix}stem.')}
            super()._check_complete(source, ordinary | stem, prefix)
            if self.stem.init_cfg is None:
                self._check_new_stem(source)
        else:
            super()._check_complete(source, state_dict, prefix)

    def _check_new_stem(self, source: str) -> None:
        if self.frozen_stages >= 0:
            raise ValueError(
                f"frozen_stages={self.frozen_stages} would freeze an SPDMixer that the weights '{source}' of init_cfg "
                'do not have: set it to -1, or init_cfg to None if a checkpoint of the whole network is loaded later'
            )
        print_log(f"The weights '{source}' fill the backbone but for its SPDMixer, which starts anew", logger='current')


@MODELS.register_module()
class SPDMixerResNet(SPDMixerStem, ResNet):
    """MMDetection's ``ResNet`` with an :class:`SPDMixer` in the place of the 7x7 convolution and the max pooling.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        stem (dict, optional): Options of :class:`SPDMixer`, such as ``dict(num_branches=4)``. Its norm is that of the
            stages, and learns. Defaults to None.
        **kwargs: As MMDetection's ``ResNet``, but for ``deep_stem``. Weights that ``init_cfg`` names, such as
            ``torchvision://resnet50``, must fill the stages; they may have an SPDMixer or not. ``frozen_stages`` from 0
            on, of which the first is the stem, needs weights that have one.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Example:
        >>> import torch
        >>> backbone = SPDMixerResNet(depth=18, base_channels=8, stem=dict(num_branches=2))
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 97))]
        [(1, 8, 16, 25), (1, 16, 8, 13), (1, 32, 4, 7), (1, 64, 2, 4)]
    """

    def __init__(self, depth: int, *, stem: dict | None = None, **kwargs) -> None:
        if depth not in ResNet.arch_settings:
            raise ValueError(f'depth={depth!r} is none of {", ".join(map(str, ResNet.arch_settings))}')
        check_options('SPDMixerResNet', SPDMixerResNet, kwargs)
        stages, frozen_stages = kwargs.get('out_indices', (0, 1, 2, 3)), kwargs.get('frozen_stages', -1)
        check_stages(stages, frozen_stages, kwargs.get('num_stages', 4))
        if 'deep_stem' in kwargs:
            raise ValueError(f'deep_stem={kwargs["deep_stem"]!r} cannot be set: the stem is an SPDMixer')
        super().__init__(depth, stem=stem, deep_stem=True, **kwargs)

    @staticmethod
    def own_name(name: str) -> str:
        return name

    @staticmethod
    def official_name(name: str) -> str:
        return name


@MODELS.register_module()
class SPDMixerResNetVd(SPDMixerStem, ResNetVd):
    """RT-DETR's :class:`~mmscale.rtdetr.ResNetVd` with an :class:`SPDMixer` for the three convolutions and the pooling.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        stem (dict, optional): As :class:`SPDMixerResNet`'s.
        **kwargs: As :class:`~mmscale.rtdetr.ResNetVd`'s. Its official weights fill the stages.

    Example:
        >>> import torch
        >>> backbone = SPDMixerResNetVd(depth=18, base_channels=8, out_indices=(1, 2, 3))
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]
    """
