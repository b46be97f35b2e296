"""Official state dicts of YOLOv8, YOLOv10 and YOLOv12 into checkpoints of ours."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.convert.ultralytics.command import main

if __name__ == '__main__':
    main()
