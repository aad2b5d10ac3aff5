"""How the blocks of a persistent kernel wait for each other, as a model that is run in random orders.

The model has what `hamkaas/codegen/cuda_persistent.py` prints: slots, counters that are never cleared, a count of runs
for each block. Memory is one that all see at once: that a release and an acquire make it so is the machine's part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

Condition = Callable[[], bool]


@dataclass(frozen=True)
class Step:
    """A launch: its blocks, and how many of them one block that stays does at a time."""

    grid: int
    slots: int


@dataclass(frozen=True)
class Rules:
    """What may be wrong with a protocol; as it is by default, nothing is."""

    clears: bool = False
    """Counters start from 0 in each run: one is cleared two steps later, the last two in the next run."""
    expects_all: bool = False
    """A step is over when there is a 1 for each of its blocks, whoever does them."""
    joins: bool = True
    """A block tells of the end of its part when all of its slots are done."""
    waits_without_work: bool = True
    """Slots wait in each step in which they have work."""


class Fault(Exception):
    """The model did what must not be."""


class Device:
    """Memory, and the threads of all blocks that stay; each slot is one process."""

    def __init__(self, steps: list[Step], width: int, rules: Rules):
        self.steps, self.width, self.rules = steps, width, rules
        self.counters = [0] * len(steps)
        self.runs = [0] * width
        self.done: set[tuple[int, int]] = set()
        """(step, block) whose work has been done in this run."""

    def run(self, random: Random) -> None:
        """One launch of the kernel. Which process goes on is up to chance."""
        self.done = set()
        most = max(step.slots for step in self.steps)
        met = [[0] * len(self.steps) for _ in range(self.width)]
        processes = [self.slot(block, slot, most, met[block]) for block in range(self.width) for slot in range(most)]
        waiting: dict[Iterator[Condition | None], Condition | None] = dict.fromkeys(processes)
        while waiting:
            ready = [process for process, condition in waiting.items() if condition is None or condition()]
            if not ready:
                raise Fault("all blocks wait")
            process = random.choice(ready)
            try:
                waiting[process] = next(process)
            except StopIteration:
                del waiting[process]
        if len(self.done) != sum(step.grid for step in self.steps):
            raise Fault("work was left")

    def slot(self, block: int, slot: int, most: int, met: list[int]) -> Iterator[Condition | None]:
        """What the threads of one slot do; yields what they wait for, or None where others may come between."""
        run = 1 if self.rules.clears else self.runs[block] + 1
        yield None
        for number, step in enumerate(self.steps):
            if block >= step.grid:
                continue
            for work in range(
                block + slot * self.width, step.grid if slot < step.slots else 0, step.slots * self.width
            ):
                if work == block + slot * self.width and number and self.rules.waits_without_work:
                    yield self.ended(number - 1, run)
                if block == slot == 0 and self.rules.clears and work == 0:
                    self.counters[number - 2] = 0
                self.work(number, work)
                yield None
            met[number] += 1
            if self.rules.joins:
                yield lambda number=number: met[number] == most
            if slot == 0:
                self.counters[number] += 1
                yield None
        if slot == 0:
            self.runs[block] += 1

    def ended(self, number: int, run: int) -> Condition:
        """Whether a step has ended, as its counter says."""
        grid = self.steps[number].grid
        expected = run * (grid if self.rules.expects_all else min(grid, self.width))
        return lambda: self.counters[number] == expected

    def work(self, number: int, block: int) -> None:
        """The work of a block of a step, which needs all that came before."""
        for before in range(number):
            if any((before, other) not in self.done for other in range(self.steps[before].grid)):
                raise Fault(f"step {number} began before step {before} had ended")
        self.done.add((number, block))


def simulate(steps: list[Step], width: int, seed: int, rules: Rules | None = None, runs: int = 3) -> None:
    """Some runs in a row, on memory that is zero at first."""
    device, random = Device(steps, width, rules or Rules()), Random(seed)
    for _ in range(runs):
        device.run(random)


STEPS = st.lists(st.builds(Step, st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=7)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 5), st.integers(0, 1 << 32))
def test_a_step_sees_what_came_before_and_nobody_waits_forever(steps: list[Step], width: int, seed: int) -> None:
    simulate(steps, width, seed)


LATE = [*[Step(1, 1)] * 5, Step(5, 1)]
"""Most blocks have work in the last step alone."""


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(clears=True), "step 5 began before step"),  # what the last run left is taken for an end
        (Rules(expects_all=True), "all blocks wait"),
        (Rules(joins=False), "began before step"),
        (Rules(waits_without_work=False), "began before step"),
    ],
)
def test_the_model_finds_what_is_wrong(rules: Rules, message: str) -> None:
    def search() -> None:
        for seed in range(300):
            simulate(LATE, 4, seed, rules)
            simulate([Step(8, 2), Step(8, 1), Step(3, 1)], 3, seed, rules)

    with pytest.raises(Fault, match=message):
        search()
