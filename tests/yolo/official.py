"""What the tests of the converter of official state dicts share."""

from pathlib import Path

import pytest
import torch

from mmscale.analysis.model import load_config
from mmscale.convert.ultralytics.command import main

REPO = Path(__file__).resolve().parents[2]
FIRST_RELEASE = ['model.backbone.position_kernel=7', 'model.backbone.stride_groups=[1,1]']
LARGE = 'model.backbone.mlp_ratio=1.2'  # of the first release's l and x


def config_of(family, scale):
    """The file of a family at a scale, whatever its recipe is called."""
    return sorted((REPO / 'configs' / 'yolo').glob(f'{family.lower()}_{scale}_*_coco.py'))[0]


def options_of(family, scale, first=False, width=None, classes=80):
    """Arguments that change its config."""
    changes = list(FIRST_RELEASE) if first else []
    if first and scale in 'lx':
        changes.append(LARGE)
    if width:
        places = ('backbone', 'neck', 'bbox_head.head_module')
        changes += [f'model.{place}.widen_factor={width}' for place in places]
    if classes != 80:
        places = ('bbox_head.head_module', 'train_cfg.assigner')
        changes += [f'model.{place}.num_classes={classes}' for place in places]
    return ['--cfg-options', *changes] if changes else []


def our_config(family, scale, **numbers):
    changes = dict(change.split('=') for change in options_of(family, scale, **numbers)[1:])
    return load_config(config_of(family, scale), {name: eval(value) for name, value in changes.items()})


def random_images(seed=0):
    """Two of a data set's: blue, green and red of 0 to 255."""
    return torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def as_official(images):
    return images.flip(1).float() / 255


def convert(*args):
    main([str(arg) for arg in args])


def refused(capsys, *args):
    """The sentence with which the command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        convert(*args)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith('error: ') and told.count('\n') == 1
    return told
