"""The methods that the papers compare with, each from its own paper, as necks with the interface of MMDetection's FPN
and in RT-DETR's hybrid encoder.

FINE's table 2 measures all four inside its own code base, in forms that its authors' repository
(github.com/HyungseopLee/FINE-FPN) shows; where those differ from a method's own paper, the paper's form is the default
and the other an option. docs/rivals.md has both costs.
"""

from .adafpn import AdaFPN
from .fapn import FaPN
from .hybrid_encoder import AdaFPNHybridEncoder, FaPNHybridEncoder, MGCHybridEncoder, SNIHybridEncoder
from .mgc import MGCFPN
from .sni import SNIFPN

__all__ = [
    'AdaFPN',
    'AdaFPNHybridEncoder',
    'FaPN',
    'FaPNHybridEncoder',
    'MGCFPN',
    'MGCHybridEncoder',
    'SNIFPN',
    'SNIHybridEncoder',
]
