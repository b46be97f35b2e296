"""Hooks; importing this registers them."""
from .check_data import CheckDataHook
from .pipeline_switch import PipelineSwitchHook

__all__ = ['CheckDataHook', 'PipelineSwitchHook']
