"""Checkpoints of RT-DETR between its official code, Hugging Face's transformers and this project."""

from .architecture import Architecture
from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .convert import convert

__all__ = ['Architecture', 'Checkpoint', 'convert', 'read_checkpoint', 'write_checkpoint']
