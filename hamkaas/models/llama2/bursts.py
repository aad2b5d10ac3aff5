"""Generation on the device: the host enqueues several steps at once and reads their tokens afterwards."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hamkaas as hk
from hamkaas.models.llama2.config import Config
from hamkaas.models.llama2.generate import ModelFeed
from hamkaas.models.llama2.graph import NEXT, START
from hamkaas.models.llama2.sampler import Sampler, Xorshift

BURST = 16
"""Steps that are enqueued at once: the wait in between costs a few percent, and text still comes in small pieces."""


class Bursts:
    """A `Source` on a model of `build_burst_graphs`: the tokens that `Steps` gives, chosen on the device.

    The first burst of a text is one step, so that its first token comes soon; each one after it is twice as long. What
    was computed beyond the end of a text is dropped: a text that begins later writes over it.
    """

    def __init__(
        self,
        model: hk.Model,
        config: Config,
        sampler: Sampler,
        most: int = BURST,
        progress: Callable[[int, int], None] | None = None,
    ):
        """`most` steps are enqueued at once; `progress` is as in `ModelFeed`.

        Raises `ValueError` for a sampler that the graphs cannot stand in for.
        """
        self._start, self._next = model[START], model[NEXT]
        is_random = any(spec.name == "coins" for spec in self._start.inputs)
        if not sampler.fits_device or (sampler.temperature > 0 and not is_random):
            raise ValueError("expected a sampler that the graphs can stand in for: see `Sampler.fits_device`")
        self._feed = ModelFeed(model, config, progress, self._step)
        self._sampler = sampler
        self._most = most
        self._inputs: dict[str, Any] = {"token": np.zeros(1, np.int64), "position": np.zeros(1, np.int64)}
        if is_random:
            self._inputs["temperature"] = np.array([sampler.temperature], np.float32)
            self._inputs["top_p"] = np.array([sampler.top_p], np.float32)
            self._inputs["coins"] = np.zeros(config.max_positions, np.float32)
        self._prompt: Sequence[int] = ()
        self._position = self._end = 0
        self._size = 1
        self._tokens: deque[int] = deque()
        self._logits: NDArray[np.float32] | None = None

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """See `Source`. Those of the last step of a burst, which may have been dropped."""
        return self._logits

    def begin(self, prompt: Sequence[int], before: Sequence[int], end: int) -> None:
        """See `Source`."""
        self._prompt = prompt
        self._position, self._end = len(before), end
        self._size = 1
        self._tokens.clear()

    def next(self) -> int:
        """See `Source`."""
        if self._prompt:
            self._feed_prompt()
        if not self._tokens:
            self._run()
        if self._sampler.temperature > 0:
            self._sampler.rng.next_float()  # the coin of this token; those of dropped tokens are used again
        return self._tokens.popleft()

    def _feed_prompt(self) -> None:
        """Feeds all tokens of the prompt but the last, which is where generation starts."""
        *first, last = self._prompt
        if "coins" in self._inputs:
            self._draw(self._position + len(first))
        if first:
            self._feed(first, self._position)
        self._position += len(first)
        self._put(last, self._position)
        self._prompt = ()

    def _draw(self, begin: int) -> None:
        """Draws the coins of all positions from `begin` on, without moving the generator of the sampler."""
        rng = Xorshift(self._sampler.rng.state)
        self._inputs["coins"][begin : self._end] = [rng.next_float() for _ in range(begin, self._end)]

    def _put(self, token: int, position: int) -> None:
        self._inputs["token"][0], self._inputs["position"][0] = token, position
        self._start.evaluate(self._inputs)

    def _step(self, token: int, position: int) -> NDArray[np.float32]:
        """Feeds one token of a prompt; what the step chooses to follow is not used."""
        self._put(token, position)
        return self._next.evaluate({})[-1]

    def _run(self) -> None:
        """The next burst."""
        size = min(self._size, self._end - self._position)
        tokens, _, self._logits = self._next.evaluate({}, times=size)
        self._tokens.extend(tokens[self._position + 1 : self._position + size + 1].tolist())
        self._position += size
        self._size = min(2 * size, self._most)
