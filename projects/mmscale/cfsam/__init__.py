"""CFSAM (Xie et al., arXiv 2510.14726): local feature extraction (:mod:`.lfe`), global feature extraction
(:mod:`.gfe`, :mod:`.partition`) and feature fusion restoration (:mod:`.ffr`), in one neck (:mod:`.cfsam`).
"""

from .cfsam import CFSAM

__all__ = ['CFSAM']
