"""A small pyramid of backbone maps, and the four necks over it."""

import torch

from mmscale.rivals import MGCFPN, SNIFPN, AdaFPN, FaPN

WIDTHS, STRIDES = [16, 24, 32, 48], [4, 8, 16, 32]
NECKS = {'SNIFPN': SNIFPN, 'FaPN': FaPN, 'AdaFPN': AdaFPN, 'MGCFPN': MGCFPN}
# FaPN as FINE's table 2 counts it
TABLE_2_FAPN = dict(
    align_levels=[1, 2],
    select_levels=[0, 1, 2, 3],
    groups=8,
    upsample_cfg=dict(mode='nearest'),
    select_norm_cfg=dict(type='GN', num_groups=32),
    offset_norm_cfg=dict(type='BN'),
)


def maps(height=96, width=128, batch=1, seed=0):
    torch.manual_seed(seed)
    return tuple(torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(WIDTHS, STRIDES, strict=True))


def neck(cls, **options):
    cls = NECKS.get(cls, cls)
    torch.manual_seed(1)
    return cls(**{'in_channels': WIDTHS, 'out_channels': 32, 'num_outs': 5, **options})


def stirred(module, scale=0.3):
    """All weights random, those that start at zero, too."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module
