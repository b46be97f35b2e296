"""Write a detector to one ONNX file: ``python tools/deploy/export_onnx.py`` (see docs/deployment.md)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))  # this checkout's

from mmscale.deploy.command import main

if __name__ == '__main__':
    main()
