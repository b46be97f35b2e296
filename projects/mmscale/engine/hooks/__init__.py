"""Hooks; importing this registers them."""
from .check_data import CheckDataHook

__all__ = ['CheckDataHook']
