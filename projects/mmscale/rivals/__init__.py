"""The methods that the papers compare with, each from its own paper. docs/rivals.md has their costs.

FINE's: SNI, FaPN, AdaFPN and MGC, as necks with the interface of MMDetection's FPN and in RT-DETR's hybrid encoder.
FINE's table 2 measures all four inside its own code base, in forms that its authors' repository
(github.com/HyungseopLee/FINE-FPN) shows; where those differ from a method's own paper, the paper's form is the default
and the other an option.

CFSAM's: an SE block, CFAM and a MobileViT block, as necks with CFSAM's interface, behind any detector's neck. Of what
CFSAM's tables measure only the cost is known.
"""

from .adafpn import AdaFPN
from .cfam import CFAM
from .fapn import FaPN
from .hybrid_encoder import AdaFPNHybridEncoder, FaPNHybridEncoder, MGCHybridEncoder, SNIHybridEncoder
from .mgc import MGCFPN
from .mobilevit import MobileViTNeck
from .se import SENeck
from .sni import SNIFPN

__all__ = [
    'AdaFPN',
    'AdaFPNHybridEncoder',
    'CFAM',
    'FaPN',
    'FaPNHybridEncoder',
    'MGCFPN',
    'MGCHybridEncoder',
    'MobileViTNeck',
    'SENeck',
    'SNIFPN',
    'SNIHybridEncoder',
]
