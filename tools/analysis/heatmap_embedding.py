"""HMPE's heatmaps of images by a detector: class, box and mixed heat, the mask, the kept encoding, the queries."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.hmpe.heatmap_pictures_command import main

if __name__ == '__main__':
    main()
