"""A metric of one or several detectors under Gaussian noise of growing sigma: table, JSON, plot."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.analysis.noise_robustness_command import main

if __name__ == '__main__':
    main()
