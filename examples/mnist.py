#!/usr/bin/env python3
"""A two-layer network of the kind that reads handwritten digits: 784 pixels, 128 hidden units, 10 classes.

The weights are made here: each hidden unit compares the picture with a random pattern, and the classes are the digits
whose template, seen through the same units, is most alike. No training, no data to fetch.
"""

import numpy as np

import hamkaas as hk

PIXELS, HIDDEN, CLASSES = 28 * 28, 128, 10


def templates(rng: np.random.Generator) -> np.ndarray:
    """One blurred random picture for each class: [classes, pixels]."""
    coarse = rng.random((CLASSES, 7, 7)) > 0.5
    return np.kron(coarse, np.ones((4, 4))).reshape(CLASSES, PIXELS).astype(np.float32)


def build(batch: int, digits: np.ndarray, rng: np.random.Generator) -> hk.Tensor:
    """Scores [batch, classes] of the pictures `images` [batch, pixels]."""
    w1 = (rng.standard_normal((PIXELS, HIDDEN)) / np.sqrt(PIXELS)).astype(np.float32)
    b1 = np.zeros((1, HIDDEN), np.float32)
    seen = np.maximum(digits @ w1, 0)
    w2 = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).T.copy()
    b2 = np.zeros((1, CLASSES), np.float32)
    images = hk.InputTensor("images", "float32", [batch, PIXELS])
    return (images @ w1 + b1).relu() @ w2 + b2


def main() -> None:
    """Classifies noisy pictures and prints how many are right."""
    rng = np.random.default_rng(0)
    digits = templates(rng)
    labels = rng.integers(CLASSES, size=64)
    images = digits[labels] + rng.standard_normal((64, PIXELS)).astype(np.float32) * 0.3
    scores = build(64, digits, rng)
    with hk.compile((scores, scores.argmax())) as model:
        values, guesses = model(images=images)
    print("scores of the first picture:", values[0].round(2))
    print(f"right: {np.mean(guesses == labels):.0%} of {len(labels)} on {model.target}")


if __name__ == "__main__":
    main()
