"""Tensors in safetensors files, memory-mapped: 8 bytes length, JSON, then the numbers of one tensor after the other."""

import json
from math import prod
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
"""Element types that are read, as the format names them."""

MAX_HEADER = 100_000_000
"""Bytes of JSON that the format allows."""


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name: views of the file. Those of other types than `DTYPES` are left out.

    Raises `CheckpointError` for a file that cannot be read or is damaged.
    """
    try:
        data = np.asarray(np.memmap(path, np.uint8, mode="r"))
    except (OSError, ValueError) as error:  # an empty file is a ValueError
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 0 < length <= min(len(data) - 8, MAX_HEADER):
        raise CheckpointError(f"{path}: no safetensors file: expected a header within {len(data)} bytes, got {length}")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no safetensors file: the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: no safetensors file: expected an object of tensors")
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in cast("dict[str, Any]", header).items():
        if name != "__metadata__" and (tensor := _tensor(path, name, entry, data[8 + length :])) is not None:
            tensors[name] = tensor
    return tensors


def _tensor(path: Path, name: str, entry: Any, data: NDArray[np.uint8]) -> NDArray[Any] | None:
    try:
        dtype, (begin, end) = DTYPES.get(entry["dtype"]), entry["data_offsets"]
        shape = tuple(entry["shape"])
        sizes = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {name}: expected dtype, shape and data_offsets: {error!r}") from None
    if dtype is None:
        return None
    if not all(type(size) is int and size >= 0 for size in sizes) or not begin <= end <= len(data):
        raise CheckpointError(f"{path}: {name}: expected bytes within {len(data)}, got {begin} to {end} for {shape}")
    if end - begin != prod(shape) * np.dtype(dtype).itemsize:
        raise CheckpointError(
            f"{path}: {name}: expected {prod(shape) * np.dtype(dtype).itemsize} bytes, got {end - begin}"
        )
    try:
        tensor = data[begin:end].view(dtype).reshape(shape)
    except (OverflowError, ValueError) as error:  # too many dimensions, or one that is huge beside one of 0
        raise CheckpointError(f"{path}: {name}: expected a shape that an array can have: {error}") from None
    return tensor if tensor.flags.aligned else tensor.copy()
