"""CSF-Net: "Cross-Stage Fusion Network with Dual Backbone for Small Object Detection" (Wang, Li, Wei and Zhang).

Read in the paper's order: :mod:`.c_switch` (section 3.1), :mod:`.d_fuse` (3.2), :mod:`.cretonext` (3.3); they need no
MMYOLO. :mod:`.backbone` and :mod:`.neck` put them together on YOLOv8's (section 3, fig. 1) and do: their classes are
imported from these modules.
"""

from .c_switch import CSwitch
from .cretonext import CReToNeXt
from .d_fuse import DFuse

__all__ = ['CReToNeXt', 'CSwitch', 'DFuse']
