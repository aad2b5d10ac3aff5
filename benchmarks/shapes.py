"""Shapes of llama models, and random weights for them."""

from math import gcd, prod

import ml_dtypes
import numpy as np

from hamkaas.models.llama2 import Config, Quantized, Weight

SHAPES = {
    "260K": Config(64, 172, 5, 8, 4, 512, 512, True),
    "15M": Config(288, 768, 6, 6, 6, 32000, 256, True),
    "42M": Config(512, 1376, 8, 8, 8, 32000, 1024, True),
    "110M": Config(768, 2048, 12, 12, 12, 32000, 1024, True),
    "1B": Config(2048, 8192, 16, 32, 8, 128256, 2048, True),
    "7B": Config(4096, 11008, 32, 32, 32, 32000, 2048, False),
}
"""By name: the models of tinyllamas, Llama-3.2-1B and Llama-2-7B."""

CACHES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""What keys and values may be stored as: element types by their short names."""

PRECISIONS = {"bf16": "bf16", "f16": "f16", "tf32": "f32", "f32": "f32"}
"""Of the weights and of the cache of a prompt, by that of its activations."""

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8}
"""Of matrices, by their precision."""


def random_weights(config: Config, precision: str = "f32", *, shared: bool = False) -> dict[str, Weight]:
    """Random weights whose activations stay finite.

    `precision` is that of the matrices: f32, f16, bf16 or i8 (Q8_0: groups of 32 with f16 scales). With `shared` all
    arrays are one piece of host memory, which spares it where weights are uploaded; on the CPU it would stay in the
    caches, and that is what would be measured.
    """
    shapes = dict(config.weight_shapes())
    largest = max(prod(shape) for shape in shapes.values())
    block = np.random.default_rng(0).standard_normal(min(largest, 1 << 24), np.float32) * np.float32(0.02)
    numbers = np.resize((block * 1000 if precision == "i8" else block).astype(DTYPES[precision]), largest)

    def weight(shape: tuple[int, ...]) -> Weight:
        if len(shape) == 1:
            return block[: shape[0]]
        matrix = numbers[: prod(shape)].reshape(shape)
        matrix = matrix if shared else matrix.copy()
        if precision != "i8":
            return matrix
        return Quantized(matrix, np.full((shape[0], shape[1] // gcd(shape[1], 32)), 1e-3, np.float16))

    return {name: weight(shape) for name, shape in shapes.items()}


def blank_weights(config: Config, precision: str) -> dict[str, Weight]:
    """Weights to compile with: all are 0, and take no memory until they are read."""

    def weight(shape: tuple[int, ...]) -> Weight:
        if len(shape) == 1:
            return np.zeros(shape, np.float32)
        matrix = np.zeros(shape, DTYPES[precision])
        if precision != "i8":
            return matrix
        return Quantized(matrix, np.zeros((shape[0], shape[1] // gcd(shape[1], 32)), np.float16))

    return {name: weight(shape) for name, shape in config.weight_shapes()}
