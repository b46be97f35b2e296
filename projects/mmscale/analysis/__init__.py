"""What a detector costs: parameters, multiply-adds, latency, memory."""
from .benchmark import BenchmarkError, benchmark, benchmark_table
from .complexity import Complexity, complexity, complexity_table
from .files import markdown_table, write_json
from .op_counter import OpCounter

__all__ = [
    'BenchmarkError', 'Complexity', 'OpCounter', 'benchmark', 'benchmark_table', 'complexity', 'complexity_table',
    'markdown_table', 'write_json'
]
