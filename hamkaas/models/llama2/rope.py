"""Rotary embedding stretched to longer contexts: by what each frequency is divided."""

from collections.abc import Mapping
from math import pi
from typing import Any


def rope_divisors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """The divisor of each pair's frequency, as `rope_scaling` of a `config.json` describes it; empty for none.

    Raises `ValueError` for a kind that is not known and for numbers that are missing or make no sense.
    """
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return ()
    if kind not in ("linear", "llama3"):
        raise ValueError(f"expected rotary embedding scaled as default, linear or llama3, got {kind!r}")
    factor = _positive(scaling, "factor")
    if kind == "linear":
        return (factor,) * (head_dim // 2)
    return llama3_divisors(
        factor,
        _positive(scaling, "low_freq_factor"),
        _positive(scaling, "high_freq_factor"),
        _positive(scaling, "original_max_position_embeddings"),
        [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)],
    )


def llama3_divisors(
    factor: float, low: float, high: float, trained: float, frequencies: list[float]
) -> tuple[float, ...]:
    """Llama 3's: waves that turn often within the trained length stay, slow ones are stretched, between them a blend.

    A wave turns trained * frequency / 2 pi times: `high` times or more stays, `low` times or less is stretched.
    """

    def divisor(frequency: float) -> float:
        turns = trained * frequency / (2 * pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0) if high != low else float(turns > high)
        return 1 / ((1 - share) / factor + share)

    return tuple(map(divisor, frequencies))


def _positive(scaling: Mapping[str, Any], key: str) -> float:
    value: object = scaling.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"expected rope_scaling with a positive number for {key}, got {value!r}")
    return float(value)
