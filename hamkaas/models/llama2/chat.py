"""Conversations: what a model's template makes of them, with the positions kept that it has already seen."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hamkaas.errors import CheckpointError, InputError
from hamkaas.models.llama2.checkpoint import Checkpoint
from hamkaas.models.llama2.generate import Feed, generate
from hamkaas.models.llama2.sampler import Sampler
from hamkaas.models.llama2.tokenizer import TextStream


class Chat:
    """A conversation with a model.

    The whole conversation is put through the template for every turn; the model is fed what follows the tokens that it
    has seen already. That holds for any template, also for one that rewrites what came before.
    """

    def __init__(self, checkpoint: Checkpoint, feed: Feed, sampler: Sampler, system: str | None = None):
        """Raises `CheckpointError` for a model without a tokenizer, and without a template or with a broken one."""
        if checkpoint.tokenizer is None or checkpoint.chat_template is None:
            raise CheckpointError(
                "expected a model with a chat template, such as a GGUF file of a chat model has, got none"
            )
        import jinja2  # these come with the readers of the files that have templates
        import jinja2.sandbox

        # The file is not trusted: its template runs in a sandbox
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(checkpoint.chat_template)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the chat template of the model is broken: {error}") from None
        self._template_error = jinja2.TemplateError
        self._tokenizer = checkpoint.tokenizer
        self._stop = checkpoint.stop
        self._context = checkpoint.config.max_positions
        self._feed = feed
        self._sampler = sampler
        self._system = system
        self._seen: list[int] = []
        self.messages: list[dict[str, str]] = []
        """The conversation so far: role and content of each message."""
        self.reset()

    @property
    def positions(self) -> int:
        """Positions of the context that are taken."""
        return len(self._seen)

    def reset(self) -> None:
        """Forgets the conversation, but not what is common to all: the system prompt stays in the cache."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def reply(self, message: str) -> Iterator[str]:
        """The model's answer, piece by piece. Raises `InputError` if the conversation does not fit the context."""
        messages = [*self.messages, {"role": "user", "content": message}]
        prompt = self._tokenizer.encode_turn(self._render(messages))
        if len(prompt) >= self._context:
            raise InputError(f"the conversation has {len(prompt)} tokens, the context {self._context}: it is full")
        common = 0
        while common < min(len(self._seen), len(prompt) - 1) and self._seen[common] == prompt[common]:
            common += 1
        del self._seen[common:]
        stream = TextStream(self._tokenizer)
        answer = ""
        number = 0
        for token, previous in generate(
            self._record, prompt[common:], self._sampler, self._context, self._stop, common
        ):
            number += 1
            if number < len(prompt) - common:
                continue
            answer += (text := stream.push(token, previous))
            if text:
                yield text
        answer += (text := stream.finish())
        if text:
            yield text
        self.messages = [*messages, {"role": "assistant", "content": answer}]

    def _record(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        logits = self._feed(tokens, start)
        self._seen.extend(tokens)
        return logits

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
        except self._template_error as error:
            raise InputError(f"the chat template of the model refuses this conversation: {error}") from None
