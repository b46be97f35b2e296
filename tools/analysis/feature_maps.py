"""Activation maps and EigenCAM of any modules of a detector, over images, in one figure."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.feature_maps_command import main

if __name__ == '__main__':
    main()
