"""What functions do on a real device, for networks on torch's meta device: fused attention, and `torch.autocast`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LOWERED = {
    functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.scaled_dot_product_attention,
    torch.matmul, torch.bmm, torch.mm, torch.addmm, torch.baddbmm, Tensor.matmul, Tensor.__matmul__,
}  # fmt: skip
_IN_FLOAT32 = {functional.group_norm, functional.layer_norm, functional.softmax, torch.softmax, functional.mse_loss}
_HALF = torch.bfloat16  # float16 has as many bytes


class autocast(TorchFunctionMode):
    """The dtypes that `torch.autocast` gives on a CUDA device, which it does not give to meta tensors.

    Products take two bytes a number, norms and softmax four, and all else what it is given.

    Attributes
    ----------
    copies : dict of int to Tensor
        The copies of weights that it made, by the `_cdata` of their storages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        dtype = _HALF if function in _LOWERED else torch.float32 if function in _IN_FLOAT32 else None
        if dtype is not None:
            args = tuple(self._cast(value, dtype) for value in args)
            options = {name: self._cast(value, dtype) for name, value in options.items()}
        return function(*args, **options)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        cast = value.to(dtype)
        if isinstance(value, nn.Parameter):
            self.copies[cast.untyped_storage()._cdata] = cast
        return cast


class fused_attention(TorchFunctionMode):
    """On the meta device attention would build its matrix of N x N; real devices have fused kernels, which do not."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            query, key, value = (args + tuple(options.get(n) for n in ("query", "key", "value"))[len(args) :])[:3]
            return _Attention.apply(query, key, value)
        return function(*args, **options)


class _Attention(torch.autograd.Function):
    """Shapes of fused attention: it saves its inputs, its output and a number for each row (Dao et al. 2022)."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        context.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("only the forward pass is measured")
