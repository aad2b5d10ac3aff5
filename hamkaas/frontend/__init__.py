"""The Python frontend: tensors that record how they are computed, and their way into IR."""

from hamkaas.frontend.build import BuiltModule, build_module
from hamkaas.frontend.script import Script, dump_script, load_script
from hamkaas.frontend.tensor import BufferTensor, ConstantTensor, InputTensor, Tensor, dequantize, sample

__all__ = [
    "BufferTensor",
    "BuiltModule",
    "ConstantTensor",
    "InputTensor",
    "Script",
    "Tensor",
    "build_module",
    "dequantize",
    "dump_script",
    "load_script",
    "sample",
]
