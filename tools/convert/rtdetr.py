"""Checkpoints of RT-DETR: official ones and Hugging Face's into ours, and back."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.convert.command import main

if __name__ == '__main__':
    main()
