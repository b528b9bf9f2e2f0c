"""Rules for supports (see supports.py): how the functions between linear maps act on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add, mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pbt_bench.connectivity.supports import support
from pbt_bench.connectivity.torch_calls import changed, names, plain_name, tensors
from pbt_bench.errors import note_once

_KEEPS_ZERO = names("""
    relu leaky_relu relu6 elu selu celu gelu silu mish hardswish hardtanh softsign tanh tanhshrink hardshrink softshrink
    rrelu prelu threshold abs absolute neg negative positive pos sin sinh asinh tan atan arctan erf expm1 log1p sqrt
    square sign sgn floor ceil round trunc frac nan_to_num clamp clip clamp_min clamp_max detach
    requires_grad dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout
    rms_norm local_response_norm normalize
""")  # f(0) = 0
_LIFTS_ZERO = names("""
    sigmoid hardsigmoid softplus logsigmoid softmax softmin log_softmax gumbel_softmax exp exp2 log log2 log10 cos cosh
    acos reciprocal rsqrt logit erfc batch_norm layer_norm group_norm instance_norm
""")  # f(0) is another number, or a shift is added
_SUMS = names("""
    add radd iadd sub subtract rsub isub maximum minimum fmax fmin where masked_fill logaddexp hypot atan2
""")
PRODUCTS = names("mul multiply rmul imul")
_QUOTIENTS = names("div divide true_divide truediv itruediv rtruediv rdiv")
_POWERS = names("pow float_power ipow rpow")
REDUCED = dict.fromkeys(names("amax amin max min logsumexp std var"), 1) | {"norm": 2}  # index of the argument `dim`
MOVES = names("""
    get getitem iter view view_as reshape reshape_as flatten ravel unflatten squeeze unsqueeze select narrow chunk split
    split_with_sizes tensor_split unbind cat concat concatenate stack hstack vstack dstack pad permute transpose t
    movedim moveaxis swapaxes swapdims adjoint flip fliplr flipud roll rot90 index_select gather take_along_dim
    take_along_axis masked_select diagonal diag diag_embed tril triu expand expand_as broadcast_to broadcast_tensors
    repeat tile repeat_interleave contiguous clone alias unfold pixel_shuffle pixel_unshuffle channel_shuffle
    to type type_as float double bfloat16 cpu cuda size dim ndimension numel stride is_floating_point is_contiguous len
""")
NONNEGATIVE = names("""
    sum nansum mean nanmean cumsum trace avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d lp_pool1d lp_pool2d lp_pool3d interpolate upsample upsample_nearest upsample_bilinear fold
""")
BILINEAR = names("""
    matmul rmatmul mm bmm mv dot vdot inner outer einsum tensordot kron addmm addbmm baddbmm addmv addcmul bilinear
""")
CREATES = names("""
    zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor zero
""")
PASSED = _KEEPS_ZERO | _LIFTS_ZERO
_LINEAR = MOVES | NONNEGATIVE | BILINEAR
_KEEPS_LEVELS = MOVES | PASSED | _SUMS
COMBINES = _SUMS | PRODUCTS | _QUOTIENTS | _POWERS  # every number of the result is made of one number per operand
SOFTMAX = names("softmax softmin gumbel_softmax")


def result_of(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the result of a function of supports; for an unknown function see `_mixed`."""
    name = plain_name(function)
    if name in CREATES:
        return function(*args, **options)
    operands = [*args, *(options[key] for key in ("input", "other", "value", "exponent") if key in options)]
    first: Any = operands[0] if operands else None
    if name in PASSED and all(t is first for t in tensors((args, list(options.values()))) if t.requires_grad):
        return first + 1 if name in _LIFTS_ZERO else first
    if name == "copy":
        return support(operands[1])
    if name in _SUMS or (name in ("max", "min") and len(operands) > 1 and isinstance(operands[1], Tensor)):
        return reduce(add, (support(o) for o in operands if _is_operand(o)))
    if name in PRODUCTS:
        return support(first) * support(operands[1])
    if name in _QUOTIENTS:
        over, under = (operands[1], first) if name.startswith("r") else (first, operands[1])
        return support(over) * (under + 1) if isinstance(under, Tensor) and under.requires_grad else support(over)
    if name in _POWERS:
        if name != "rpow" and isinstance(operands[1], (int, float)) and operands[1] > 0:
            return first
        return support(first) + support(operands[1]) + 1
    if name in REDUCED:
        return reduced(function, name, args, options)
    if name.startswith("max_pool") or name.startswith("adaptive_max_pool"):
        return _averaged(function, name, args, options)
    if name == "setitem":
        return _set_item(*args)
    if name == "pad" and (value := options.get("value", args[3] if len(args) > 3 else None)):
        options = {"mode": "constant", **options, "value": float(value != 0)}
        args = args[:2]
    if name in _LINEAR:

        def constants(t: Tensor) -> Tensor:
            return t if t.requires_grad or not t.is_floating_point() else support(t)

        result = function(*changed(args, constants), **changed(options, constants))
        if not isinstance(result, Tensor) or result.is_floating_point():
            return result
    return _mixed(function, args, options)


def moves(function: Callable[..., Any]) -> bool:
    """Return whether a function only moves values or passes them on."""
    return plain_name(function) in _KEEPS_LEVELS


def _is_operand(value: Any) -> bool:
    """Return whether a value is an operand; a truth value that selects is not: every candidate counts."""
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dtype != torch.bool)


def reduced(function: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Reduce: the result depends on all reduced values, a maximum on all its candidates."""
    index = REDUCED[name]
    x, *rest = args or (options["input"],)
    dim = options.get("dim", rest[index - 1] if len(rest) >= index else None)
    keep = options.get("keepdim", rest[index] if len(rest) > index and name not in ("std", "var") else False)
    if dim is None or isinstance(dim, bool):
        return x.sum()
    total = x.sum(dim, keep)
    if name not in ("max", "min"):
        return total
    return torch.return_types.max((total, function(*changed(args, Tensor.detach), **options)[1]))


def _averaged(function: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Compute maximum pooling as average pooling, which depends on the same values; dilated pooling is unchanged."""
    average = getattr(F, name.replace("max", "avg"), None)
    if average is None or options.get("return_indices"):
        return _mixed(function, args, options)
    if name.startswith("adaptive"):
        return average(*args[:2], **{key: options[key] for key in ("input", "output_size") if key in options})
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = dict(zip(names, args, strict=False)) | options
    dilation = given.pop("dilation", 1)
    if any(d != 1 for d in (dilation if isinstance(dilation, (tuple, list)) else (dilation,))):
        return function(*args, **options)
    return average(**{key: given[key] for key in names if key in given})


def _set_item(target: Tensor, index: Any, value: Any) -> None:
    if not target.requires_grad:
        target.copy_(target != 0)
    target[index] = support(value)


def _mixed(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the result of an unknown function: every number depends on all supports among its arguments.

    A note names the function, once. Indices are unchanged.
    """
    plain = [changed(given, _indicator) for given in (args, options)]
    result = function(*plain[0], **plain[1])
    if not any(t.is_floating_point() or t.is_complex() for t in tensors(result)):
        return result
    name = getattr(function, "__name__", str(function))
    note_once(
        f"effective sparsity: {name!r} is not a function whose paths are known; each number that it gives "
        "is taken to depend on all that it is given"
    )
    total = reduce(mul, (1 + t.sum() for t in tensors((args, list(options.values()))) if t.requires_grad))

    def mixed(t: Tensor) -> Tensor:
        real = t.is_floating_point() or t.is_complex()
        return total.to(t.dtype).expand(t.shape).clone() if real else t

    return changed(result, mixed)


def _indicator(t: Tensor) -> Tensor:
    """Replace supports by small numbers, for functions that turn them into indices."""
    return (t.detach() > 0).to(t.dtype) if t.requires_grad else t
