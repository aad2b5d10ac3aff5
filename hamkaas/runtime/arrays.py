"""Arrays of other libraries: where they are, and as numpy arrays."""

from typing import Any, cast

import numpy as np

from hamkaas.errors import InputError

_CUDA_DEVICES = (2, 13)
"""DLPack's numbers for CUDA memory and CUDA managed memory."""


def device_of(value: Any) -> str:
    """'cuda' for an array in the memory of a GPU, else 'cpu'."""
    if hasattr(value, "__cuda_array_interface__"):
        return "cuda"
    describe = getattr(value, "__dlpack_device__", None)
    return "cuda" if describe is not None and describe()[0] in _CUDA_DEVICES else "cpu"


def host_array(value: Any) -> np.ndarray[Any, Any]:
    """A numpy array over the memory of anything with `__array__`, the buffer protocol or `__dlpack__`.

    Raises `InputError` for anything else, Python lists and numbers included: they have no dtype to hold them to.
    """
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(cast("Any", value))
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    try:
        return np.asarray(memoryview(value))
    except TypeError:
        raise InputError(f"expected an array, got {type(value).__name__}") from None
