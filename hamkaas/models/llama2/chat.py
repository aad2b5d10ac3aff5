"""Conversations: what a model's template makes of them, with the positions kept that it has already seen."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from hamkaas.errors import CheckpointError, InputError
from hamkaas.models.llama2.checkpoint import Checkpoint
from hamkaas.models.llama2.generate import Source, generate
from hamkaas.models.llama2.tokenizer import BOS, EOS, ScoredTokenizer, StopStrings, TextStream

TEMPLATES = {
    "llama2": (
        "{% set system = '' %}"
        "{% if messages[0].role == 'system' %}"
        "{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}{% set messages = messages[1:] %}"
        "{% endif %}"
        "{% for message in messages %}{% if message.role == 'user' %}"
        "{{ bos_token }}[INST] {% if loop.first %}{{ system }}{% endif %}{{ message.content }} [/INST]"
        "{% else %} {{ message.content }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
"""Templates by name, for models whose file has none."""


def with_template(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The model with a template of `TEMPLATES`. Tokenizers of llama2.c have no control tokens: BOS and EOS become some.

    Raises `KeyError` for a template that does not exist.
    """
    tokenizer = checkpoint.tokenizer
    if isinstance(tokenizer, ScoredTokenizer) and not tokenizer.control and len(tokenizer.pieces) > EOS:
        bos_text, eos_text = (tokenizer.pieces[token].decode(errors="replace") for token in (BOS, EOS))
        tokenizer = replace(tokenizer, control=frozenset((BOS, EOS)))
        stop = checkpoint.stop | {EOS}
        checkpoint = replace(checkpoint, tokenizer=tokenizer, bos_text=bos_text, eos_text=eos_text, stop=stop)
    return replace(checkpoint, chat_template=TEMPLATES[name])


class Chat:
    """A conversation with a model.

    The whole conversation is put through the template for every turn; the model is fed what follows the tokens that it
    has seen already. That holds for any template, also for one that rewrites what came before.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: Source,
        system: str | None = None,
        stop_strings: Sequence[str] = (),
    ):
        """`stop_strings` end an answer, and are no part of it.

        Raises `CheckpointError` for a model without a tokenizer, and without a template or with a broken one.
        """
        if checkpoint.tokenizer is None or checkpoint.chat_template is None:
            raise CheckpointError(
                "expected a model with a chat template, such as a GGUF file of a chat model has, got none"
            )
        self._template = _Template(checkpoint.chat_template, checkpoint.bos_text, checkpoint.eos_text)
        self._tokenizer = checkpoint.tokenizer
        self._stop = checkpoint.stop
        self._context = checkpoint.config.max_positions
        self._source = source
        self._system = system
        self._stop_strings = stop_strings
        self._seen: list[int] = []
        self.messages: list[dict[str, str]] = []
        """The conversation so far: role and content of each message."""
        self.reset()

    @property
    def positions(self) -> int:
        """Positions of the context that are taken."""
        return len(self._seen)

    @property
    def is_full(self) -> bool:
        """Whether no position of the context is left."""
        return len(self._seen) >= self._context

    def reset(self) -> None:
        """Forgets the conversation, but not what is common to all: the system prompt stays in the cache."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def reply(self, message: str) -> Iterator[str]:
        """The model's answer, piece by piece. Raises `InputError` if the conversation does not fit the context."""
        messages = [*self.messages, {"role": "user", "content": message}]
        prompt = self._tokenizer.encode_turn(self._template.render(messages))
        if len(prompt) >= self._context:
            raise InputError(f"the conversation has {len(prompt)} tokens, the context {self._context}: it is full")
        common = 0
        while common < min(len(self._seen), len(prompt) - 1) and self._seen[common] == prompt[common]:
            common += 1
        del self._seen[common:]
        answer = ""
        try:
            for text in self._answer(prompt, common):
                answer += text
                yield text
        finally:  # an answer that was interrupted is part of the conversation too
            self.messages = [*messages, {"role": "assistant", "content": answer}]

    def _answer(self, prompt: list[int], common: int) -> Iterator[str]:
        """The text that follows the prompt, of which the model has seen `common` tokens."""
        stream, stop = TextStream(self._tokenizer), StopStrings(self._stop_strings)
        tokens = generate(self._source, prompt[common:], self._context, self._stop, self._seen)
        for token, previous in islice(tokens, len(prompt) - common - 1, None):
            if text := stop.push(stream.push(token, previous)):
                yield text
            if stop.found:
                return
        if text := stop.push(stream.finish()) + stop.finish():
            yield text


class _Template:
    """A template of the model's file. It is not trusted, and runs in a sandbox."""

    def __init__(self, text: str, bos_text: str, eos_text: str):
        try:
            import jinja2
            import jinja2.sandbox
        except ImportError as error:
            raise CheckpointError(f"chats need more packages ({error}): pip install 'hamkaas[hf]'") from None

        def refuse(why: str) -> None:
            raise jinja2.TemplateError(why)

        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse  # pyright: ignore[reportArgumentType]
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"the chat template of the model is broken: {error}") from None
        self._error = jinja2.TemplateError
        self._names = {"bos_token": bos_text, "eos_token": eos_text}

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text of a conversation, up to where the model's answer begins."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except (self._error, TypeError) as error:
            raise InputError(f"the chat template of the model refuses this conversation: {error}") from None
