"""What the device is asked about: the shapes of products of one row."""

from pathlib import Path

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.models.llama2 import Config, Quantized, Transformer
from hamkaas.remarks import collect

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

CONFIG = Config(1024, 2752, 4, 8, 8, 4096, 128, True)


def weights(precision: str) -> dict[str, np.ndarray | Quantized]:
    rng = np.random.default_rng(0)

    def weight(shape: tuple[int, ...]) -> np.ndarray | Quantized:
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        if precision == "i8":
            scales = np.full((shape[0], shape[1] // 32), 3e-4, np.float16)
            return Quantized(rng.integers(-127, 128, shape, np.int8), scales)
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)

    return {name: weight(shape) for name, shape in CONFIG.weight_shapes()}


def run(precision: str) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """The logits of a few tokens on, what was said meanwhile, and the shapes that were chosen."""
    said: list[str] = []
    graphs = Transformer(CONFIG, weights(precision)).decode()
    with hk.compile(graphs, target="cuda", cudnn=False, progress=said.append) as model:
        model["start"](token=np.array([1]), position=np.array([0]))
        *_, logits = model["next"].evaluate({}, times=8)
        return logits, said, model.options.shapes


@pytest.mark.parametrize("precision", ["f32", "i8"])
def test_what_is_chosen_changes_times_only(precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected, _, shapes = run(precision)
    assert shapes == ()
    monkeypatch.setenv("HAMKAAS_TUNE", "1")
    monkeypatch.setenv("HAMKAAS_CACHE_DIR", str(tmp_path / "cache"))
    with collect() as remarks:
        logits, said, shapes = run(precision)
    assert "timing kernels in several shapes" in said
    assert len(shapes) == len({remark.what for remark in remarks if remark.why.startswith("is better as")})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    again, said, same = run(precision)  # nothing is timed twice
    assert same == shapes
    assert "timing kernels in several shapes" not in said
    np.testing.assert_array_equal(again, logits)
