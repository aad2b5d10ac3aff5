"""Generation in one go: many runs of a graph whose token and position are states."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hamkaas as hk
from hamkaas.models.llama2 import BOS, TextStream, Transformer, load_checkpoint, load_tokenizer


def test_text_of_llama2c(models: Path) -> None:
    checkpoint = load_checkpoint(models / "stories260K.bin")
    tokenizer = load_tokenizer(models / "tok512.bin", checkpoint.config.vocab_size)
    stream = TextStream(tokenizer)
    with hk.compile(Transformer(checkpoint.config, checkpoint.weights).decode(), target="cpu") as model:
        model["start"](token=np.array([BOS]), position=np.array([0]))
        for part in (1, 100, 155):
            tokens, position = model["next"].evaluate({}, times=part)
        assert position[0] == 256
        text = "".join(stream.push(int(token), int(previous)) for previous, token in pairwise(tokens[:257]))
        assert text + stream.finish() + "\n" == (models / "expected" / "empty_prompt_t0_n256.txt").read_text()
        model["next"].evaluate({}, times=255)
        with pytest.raises(hk.RuntimeFault, match=r"replace_slice|gather"):
            model["next"].evaluate({})
        with pytest.raises(hk.InputError, match="expected at least one run, got 0"):
            model["next"].evaluate({}, times=0)
