"""Effective receptive fields of any layers of a detector: sigma, the ratio of adjacent layers, heat pictures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.erf_command import main

if __name__ == '__main__':
    main()
