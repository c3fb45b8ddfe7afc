"""Read the tensors of a `torch.save` file that holds whole objects, running none of its code.

A pickle names the classes and functions it wants called. Here nothing but the few that rebuild
tensors is known; every other name becomes an inert stand-in that keeps the state it is given.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: What the authors' torch calls a storage of each dtype.
STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StandIn:
    """An object of a class that is not looked up: takes any arguments, keeps only its state."""

    state: object = None

    def __new__(cls, *_args: object, **_kwargs: object) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def _ignore(self, *items: object) -> None:
        pass

    append = extend = add = __setitem__ = _ignore


def rebuild_tensor(flat: Tensor, offset: int, size: Any, stride: Any, *_rest: object) -> Tensor:
    """A view of the storage `flat` [n]; torch refuses one that reaches beyond it."""
    return flat.as_strided(size, stride, offset)


def rebuild_parameter(tensor: Tensor, *_rest: object) -> Tensor:
    return tensor


KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("__builtin__", "set"): set,  # as pickle protocol 2 calls it
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    **{("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()},
}


class InertUnpickler(pickle.Unpickler):
    """Rebuilds plain data and tensors; imports nothing, calls nothing else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        return type(name, (StandIn,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a record of unknown kind {kind!r}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            if len(data) != numel * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} holds {len(data)} bytes")
            self.storages[key] = torch.frombuffer(data or bytearray(8), dtype=dtype)[:numel]
        return self.storages[key]


def read_inert(path: str | Path) -> Any:
    """The pickled object of a `torch.save` file, its unknown classes as `StandIn`.

    Raises ValueError, naming the file, if it is absent, no such archive, or damaged.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a zip archive as torch.save writes it since torch 1.6")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise pickle.UnpicklingError(f"{len(pickles)} entries data.pkl, expected 1")
            return InertUnpickler(archive, pickles[0].removesuffix("/data.pkl")).load()
    except Exception as error:  # a damaged pickle may raise anything at all
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read ({reason})") from None


def module_tensors(module: StandIn, prefix: str = "") -> dict[str, Tensor]:
    """The state_dict of a stand-in for an `nn.Module`: parameters and persistent buffers."""
    parameters, buffers, children = (
        _part(module, name) for name in ("_parameters", "_buffers", "_modules")
    )
    passing = _part(module, "_non_persistent_buffers_set")
    tensors = {
        prefix + name: tensor
        for name, tensor in {**parameters, **buffers}.items()
        if isinstance(tensor, Tensor) and name not in passing
    }
    for name, child in children.items():
        if isinstance(child, StandIn):
            tensors |= module_tensors(child, f"{prefix}{name}.")
    return tensors


def _part(module: StandIn, name: str) -> Any:
    """An attribute that every `nn.Module` pickles; empty where this object has none."""
    return module.state.get(name, {}) if isinstance(module.state, dict) else {}
