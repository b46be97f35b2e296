"""What each operator costs in multiply-adds, and which operators are free.

The conventions are those of ``mmengine.analysis`` and fvcore, with which published figures are made, so the totals are
equal wherever those counters see everything:

==================  ===================================================================================================
operator            multiply-adds (N: elements of the operator's input or output)
==================  ===================================================================================================
convolution         output positions x weights (transposed: input positions x weights); the bias is free
matrix products     m x k x n, times the batch
attention           both products, queries x keys x width each; a causal or other mask saves nothing; softmax is free
batch norm          2 N_in in eval mode (1 without affine weights); 5 N_in (4) in training mode
layer/group norm    5 N_in (4 without affine weights)
interpolation       nearest 1, linear 2, bilinear 4, trilinear 8, bicubic 16, per output value
grid_sample         the same per sampled value; deformable convolution and attention sample bilinearly, too
==================  ===================================================================================================

One difference is left: mmengine adds N_in for an adaptive average pooling, which is free here, as all pooling is.
"""
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ['FORMULAS', 'FUNCTIONS', 'base_name', 'is_free']

# kind of operator, and (args, kwargs, out) -> multiply-adds
Formula = tuple[str, Callable[[tuple, dict, Any], int]]


def _from_torch(name: str) -> Callable[[tuple, dict, Any], int]:
    """PyTorch's own formula, halved: it counts the multiplication and the addition."""
    formula = flop_registry[getattr(torch.ops.aten, name)]
    return lambda args, kwargs, out: formula(*args, **kwargs, out_val=out) // 2


def _attention(args: tuple, kwargs: dict, out: Any) -> int:
    return sdpa_flop_count(*(tensor.shape for tensor in args[:3])) // 2


def _vector_product(position: int) -> Callable[[tuple, dict, Any], int]:
    """Matrix (or vector) times vector: one multiply-add per element of the argument at ``position``."""
    return lambda args, kwargs, out: args[position].numel()


def _norm(args: tuple, kwargs: dict, out: Any, weight: int, training: int | bool) -> int:
    affine = len(args) > weight and args[weight] is not None
    in_training = training if isinstance(training, bool) else args[training]
    return args[0].numel() * ((5 if in_training else 2) - (not affine))


def _per_output(args: tuple, kwargs: dict, out: torch.Tensor, cost: int) -> int:
    return out.numel() * cost


def _grid_sample(args: tuple, kwargs: dict, out: torch.Tensor, corners: int) -> int:
    mode = args[2] if len(args) > 2 else kwargs['interpolation_mode']
    return out.numel() * {0: corners, 1: 1, 2: 16}[mode]


def _named(kind: str, names: str, count: Callable | None = None) -> dict[str, Formula]:
    return {name: (kind, count or _from_torch(name)) for name in names.split()}


FORMULAS: dict[str, Formula] = {
    **_named('convolution', 'convolution _convolution cudnn_convolution _slow_conv2d_forward'),
    **_named('matrix product', 'mm addmm bmm baddbmm _scaled_mm'),
    **_named('matrix product', 'mv dot vdot', _vector_product(0)),
    **_named('matrix product', 'addmv', _vector_product(1)),
    **_named('attention', '_scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention '
             '_scaled_dot_product_cudnn_attention _flash_attention_forward _efficient_attention_forward'),
    **_named('attention', '_scaled_dot_product_flash_attention_for_cpu '
             '_scaled_dot_product_fused_attention_overrideable', _attention),
    **_named('normalisation', 'native_batch_norm _native_batch_norm_legit cudnn_batch_norm miopen_batch_norm',
             partial(_norm, weight=1, training=5)),
    **_named('normalisation', '_native_batch_norm_legit_no_training', partial(_norm, weight=1, training=False)),
    **_named('normalisation', '_batch_norm_with_update', partial(_norm, weight=1, training=True)),
    **_named('normalisation', 'native_layer_norm', partial(_norm, weight=2, training=True)),
    **_named('normalisation', 'native_group_norm', partial(_norm, weight=1, training=True)),
    **_named('interpolation', 'upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d '
             '_upsample_nearest_exact2d _upsample_nearest_exact3d', partial(_per_output, cost=1)),
    **_named('interpolation', 'upsample_linear1d', partial(_per_output, cost=2)),
    **_named('interpolation', 'upsample_bilinear2d', partial(_per_output, cost=4)),
    **_named('interpolation', 'upsample_trilinear3d', partial(_per_output, cost=8)),
    **_named('interpolation', 'upsample_bicubic2d', partial(_per_output, cost=16)),
    **_named('sampling', 'grid_sampler_2d cudnn_grid_sampler', partial(_grid_sample, corners=4)),
    **_named('sampling', 'grid_sampler_3d', partial(_grid_sample, corners=8)),
}


def _deform_conv(args: tuple, kwargs: dict, out: torch.Tensor, weight: int) -> dict[str, int]:
    """A convolution, and a bilinear sample for each value that its kernel reads."""
    kernel, positions = args[weight].shape, out.shape[0] * prod(out.shape[2:])
    return {'convolution': positions * prod(kernel), 'sampling': 4 * positions * args[1].shape[1] * prod(kernel[2:])}


def _deform_attention(args: tuple, kwargs: dict, out: torch.Tensor) -> dict[str, int]:
    """A bilinear sample of ``d`` values for each query, head, level and point; their weighted sum is free, as where
    MMCV writes it in PyTorch (``grid_sample``, multiplication, sum)."""
    value, locations = args[1], args[4]  # (B, keys, heads, d), (B, queries, heads, levels, points, 2)
    return {'sampling': 4 * value.shape[-1] * prod(locations.shape[:-1])}


# compiled operators of MMCV that are counted; the first argument of their forward is the autograd context
FUNCTIONS: dict[str, Callable[[tuple, dict, Any], dict[str, int]]] = {
    'DeformConv2dFunction': partial(_deform_conv, weight=3),
    'ModulatedDeformConv2dFunction': partial(_deform_conv, weight=4),
    'MultiScaleDeformableAttnFunction': _deform_attention,
}

# free, beside what PyTorch itself tags as pointwise or as a reduction, and beside views
_FREE = frozenset((
    '_adaptive_avg_pool2d', '_adaptive_avg_pool3d', '_assert_async', '_assert_scalar', '_assert_tensor_metadata',
    '_fused_sdp_choice', '_local_scalar_dense', '_log_softmax', '_pdist_forward', '_pin_memory', '_resize_output',
    '_safe_softmax', '_softmax', '_to_copy', '_unique2', '_unsafe_index', '_unsafe_view', 'adaptive_avg_pool2d',
    'adaptive_max_pool2d', 'adaptive_max_pool3d', 'alias', 'arange', 'argsort', 'as_strided', 'avg_pool1d',
    'avg_pool2d', 'avg_pool3d', 'bernoulli', 'bincount', 'bucketize', 'cat', 'channel_shuffle', 'clone', 'col2im',
    'constant_pad_nd', 'contiguous', 'copy', 'count_nonzero', 'cummax', 'cummin', 'cumprod', 'cumsum', 'detach',
    'diag_embed', 'embedding', 'empty', 'empty_like', 'empty_permuted', 'empty_strided', 'equal', 'expand', 'eye',
    'fill', 'flip', 'full', 'full_like', 'gather', 'im2col', 'index', 'index_add', 'index_copy', 'index_fill',
    'index_put', 'index_select', 'is_nonzero', 'is_same_size', 'item', 'kthvalue', 'lift_fresh', 'lift_fresh_copy',
    'linspace', 'logcumsumexp', 'masked_fill', 'masked_scatter', 'masked_select', 'max_pool2d',
    'max_pool2d_with_indices', 'max_pool3d_with_indices', 'median', 'mode', 'msort', 'multinomial', 'narrow_copy',
    'new_empty', 'new_empty_strided', 'new_full', 'new_ones', 'new_zeros', 'nonzero', 'nonzero_static', 'normal',
    'one_hot', 'ones', 'ones_like', 'permute', 'pixel_shuffle', 'pixel_unshuffle', 'put', 'rand', 'rand_like',
    'randint', 'randn', 'randn_like', 'random', 'randperm', 'reflection_pad1d', 'reflection_pad2d', 'repeat',
    'repeat_interleave', 'replication_pad1d', 'replication_pad2d', 'reshape', 'resize', 'roll', 'rot90',
    'scalar_tensor', 'scatter', 'scatter_add', 'scatter_reduce', 'searchsorted', 'select', 'select_scatter', 'set',
    'slice_scatter', 'sort', 'split_with_sizes', 'split_with_sizes_copy', 'squeeze', 'stack', 'sym_numel', 'sym_size',
    'sym_storage_offset', 'sym_stride', 'take', 'topk', 'tril', 'tril_indices', 'triu', 'triu_indices', 'unbind',
    'unfold', 'uniform', 'unique_consecutive', 'unique_dim', 'unique_dim_consecutive', 'unsafe_split',
    'unsafe_split_with_sizes', 'unsqueeze', 'where', 'zero', 'zeros', 'zeros_like'
))


def base_name(func: torch._ops.OpOverload) -> str:
    """``addmm_`` and ``addmm.out`` cost what ``addmm`` costs."""
    name = func.overloadpacket.__name__
    return name[:-1] if name.endswith('_') and not name.endswith('__') else name


def is_free(func: torch._ops.OpOverload) -> bool:
    """Whether an operator without a formula costs nothing by convention."""
    if func.namespace in ('prim', 'prims', 'profiler'):
        return True
    if func.namespace != 'aten':
        return False
    if func.is_view or torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags:
        return True
    if base_name(func) in _FREE:
        return True
    functional = getattr(torch.ops.aten, base_name(func), None)  # x.relu_() is tagged in-place only
    return functional is not None and any(
        torch.Tag.pointwise in getattr(functional, overload).tags for overload in functional.overloads())
