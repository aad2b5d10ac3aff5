"""Arrays in the memory of a GPU: those of other libraries, and those that a model gives back."""

import weakref
from importlib import import_module
from typing import Any

from hamkaas.artifact import TensorSpec
from hamkaas.errors import InputError, RuntimeFault

driver: Any = import_module("cuda.bindings.driver")
"""The bindings, which have no types: this is the one place that says so."""

_INTERFACE_VERSION = 3
_TYPE_STRINGS = {"float32": "<f4", "float16": "<f2", "int64": "<i8", "int8": "|i1", "bfloat16": "<V2"}
"""How `__cuda_array_interface__` spells element types; it has no bfloat16."""


def check(result: tuple[Any, ...]) -> Any:
    """The values behind a driver's return code. Raises `RuntimeFault` with the driver's own words if it failed."""
    code, *values = result
    if code != driver.CUresult.CUDA_SUCCESS:
        name, text = (driver.cuGetErrorName(code)[1], driver.cuGetErrorString(code)[1])
        raise RuntimeFault(f"CUDA: {text_of(name)}: {text_of(text)}")
    return values[0] if len(values) == 1 else tuple(values)


def text_of(value: Any) -> str:
    """What the driver calls a name, as text. It ends at the first NUL: behind it is the rest of a buffer."""
    return value.partition(b"\0")[0].decode() if isinstance(value, bytes) else str(value)


def device_pointer(array: Any, stream: int) -> int:
    """Where a CUDA array of another library starts, once what its library has enqueued is ordered before `stream`.

    Raises `InputError` for one that is not contiguous and row-major.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        pointer, shape, strides = interface["data"][0], interface["shape"], interface.get("strides")
        size = int(interface["typestr"][2:])
        if (producer := interface.get("stream")) is not None and producer > 2:
            _synchronize(producer)
        elif producer is not None or hasattr(array, "is_cuda"):
            _synchronize(0)
    else:
        # A look at a capsule, ordered with the producer's stream
        view = _strided_memory_view().from_dlpack(array, stream_ptr=stream)
        pointer, shape = view.ptr, view.shape
        size = view.dtype.itemsize
        strides = None if view.strides is None else tuple(stride * size for stride in view.strides)
    expected = size
    for length, stride in reversed(list(zip(shape, strides or (), strict=False))):
        if length != 1 and stride != expected:
            raise InputError(
                f"expected a contiguous CUDA array, got shape {tuple(shape)} with strides {tuple(strides or ())}"
            )
        expected *= length
    return int(pointer)


def _strided_memory_view() -> Any:
    """The class of cuda.core; only DLPack needs it."""
    return import_module("cuda.core.utils").StridedMemoryView


def _synchronize(stream: int) -> None:
    (code,) = driver.cuStreamSynchronize(driver.CUstream(stream))
    if code != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeFault(f"CUDA: waiting for the stream of an input: {code.name}")


class DeviceArray:
    """A dense array in device memory that other libraries can use through `__cuda_array_interface__`.

    `torch.as_tensor(x, device="cuda")` and `cupy.asarray(x)` share its memory. It is freed with the last reference.
    """

    def __init__(self, pointer: int, spec: TensorSpec):
        self.pointer = pointer
        """Address on the device."""
        self.shape = spec.shape
        self.dtype = spec.numpy_dtype
        self._type_string = _TYPE_STRINGS[spec.dtype]

    @staticmethod
    def empty(spec: TensorSpec, context: Any) -> "DeviceArray":
        """A new array, not initialized. Raises `RuntimeFault` if there is no memory for it."""
        code, pointer = driver.cuMemAlloc(max(spec.nbytes, 1))
        if code != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeFault(f"CUDA: memory for an output of {spec.nbytes:,} bytes: {code.name}")
        array = DeviceArray(int(pointer), spec)
        weakref.finalize(array, _free, int(pointer), context)
        return array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": _INTERFACE_VERSION,
            "shape": self.shape,
            "typestr": self._type_string,
            "data": (self.pointer, False),
            "strides": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **options: Any) -> Any:
        # The exporter of cuda.core writes the capsule; it keeps this array alive
        return _strided_memory_view().from_cuda_array_interface(self, stream_ptr=-1).__dlpack__(**options)


def _free(pointer: int, context: Any) -> None:
    driver.cuCtxSetCurrent(context)
    driver.cuMemFree(pointer)
