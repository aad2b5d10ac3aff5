"""Random graphs over all operations, on the CPU, as CUDA kernels in the kernel interpreter, and as groups and regions.

`python tests/differential.py --count 50000` goes on from here, with `--gpu` on a GPU.
"""

import numpy as np
import pytest
from differential import VARIANTS, Batch, Expected, Options, difference
from random_graphs import OPS, Generator

SEEDS = range(0, 32, 16)
"""Each for a batch of 16 graphs."""


@pytest.mark.parametrize("first", SEEDS, ids=lambda first: f"seeds-{first}-to-{first + 15}")
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda o: f"{o.target}-{o.weights}-{o.activations}-{o.schedule}")
def test_random_graphs(variant: Options, first: int) -> None:
    assert Batch(range(first, first + 16), variant).run() > 8


def test_every_operation_takes_part() -> None:
    drawn = {name for seed in range(150) for name in Generator(seed).graph().ops}
    assert {op.name for op in OPS} <= drawn
    assert {"dense", "gated", "attended", "written_out", "followed"} <= drawn


# the comparison itself


def test_elementwise_results_must_be_the_same_bits() -> None:
    want = np.array([1.0, np.nan, np.inf], np.float32)
    assert difference(want.copy(), want, []) is None
    near = want * np.float32(1 + 2**-23)
    assert difference(near, want, []) == "1 of 3 differ, the first at (0,): expected 1.0, got 1.0000001192092896"
    # noise of that size makes it right, also where the noise happens to be less
    assert difference(near, want, [want * np.float32(1 - 2**-23)]) is None
    assert difference(want * 2, want, [want * np.float32(1 - 2**-23)]) is not None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 7.0])
def test_what_is_not_finite_must_be_that(wrong: float) -> None:
    want = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    for place in range(4):
        got = want.copy()
        got[place] = wrong
        same = (got[place] == want[place]) or (np.isnan(wrong) and place == 1)
        assert (difference(got, want, [want]) is None) == same


def test_an_index_may_differ_where_noise_decides() -> None:
    want, other = np.array([3]), np.array([5])
    assert difference(other, want, []) is not None
    assert difference(other, want, [want, want]) is not None
    assert difference(other, want, [want, other]) is None


def test_a_wrong_shape_or_type_is_a_difference() -> None:
    want = np.zeros((2, 3), np.float32)
    for got in (want.reshape(3, 2), want.astype(np.float16)):
        assert Expected([[want]]).difference([[got]]) is not None


def test_a_seed_gives_the_same_graph() -> None:
    first, second = Generator(7).graph(), Generator(7).graph()
    assert first.ops == second.ops
    assert [x.type for x in first.outputs] == [x.type for x in second.outputs]
    assert first.inputs.keys() == second.inputs.keys()
    for name, array in first.inputs.items():
        np.testing.assert_array_equal(array, second.inputs[name])
