"""Questions that any detector of MMDetection can be asked; each module is one of them.

Here are those about cost: parameters, multiply-adds, latency, memory. ``mmscale.analysis.erf``, ``feature_maps``,
``error_analysis``, ``dataset_report``, ``loss_curves``, ``module_times`` and ``noise_robustness`` are imported by name.
"""

from mmscale.files import markdown_table, write_json

from .benchmark import BenchmarkError, benchmark, benchmark_table
from .complexity import Complexity, complexity, complexity_table
from .op_counter import OpCounter

__all__ = [
    'BenchmarkError',
    'Complexity',
    'OpCounter',
    'benchmark',
    'benchmark_table',
    'complexity',
    'complexity_table',
    'markdown_table',
    'write_json',
]
