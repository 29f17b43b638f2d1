"""A second device on a machine that has only a CPU: tensors without values, on torch's device "meta"."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class OneDevice(TorchDispatchMode):
    """Mode in which an operation fails if its tensors are on different devices, as on a GPU.

    A number on the CPU may be combined with any tensor, as with CUDA. What is copied from "meta" to the
    CPU becomes ones. torch alone would compute with many such mixtures.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        copies = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.ones((), dtype=args[0].dtype).item()
        if (
            function is copies[0]
            and args[0].is_meta
            and kwargs.get("device") == torch.device("cpu")
        ):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        devices = {x.device.type for x in tensors if x.dim() or x.device.type != "cpu"}
        if len(devices) > 1 and function not in copies:
            raise RuntimeError(f"{function}: expected all tensors on one device, found {devices}")
        return function(*args, **kwargs)


@contextlib.contextmanager
def no_autocast(*_, **__):
    """In place of torch.autocast, which does not know the device "meta"."""
    yield
