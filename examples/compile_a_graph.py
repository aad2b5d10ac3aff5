#!/usr/bin/env python3
"""A tour: build a graph, compile it, run it, and look at what the compiler made of it."""

import numpy as np

import hamkaas as hk

# A graph is built from inputs and constants with operators and methods; nothing is computed yet
x = hk.InputTensor("x", "float32", [4, 8])
w = hk.ConstantTensor(np.eye(8, dtype=np.float32) * 2, "w")
y = (x @ w + 1).relu()

# Compiling takes the GPU if there is one; "cpu" and "cuda" ask for a target
with hk.compile(y, target="cpu") as model:
    print(model(x=np.ones((4, 8), np.float32)))

    # Every stage of the way is there to be read; the first shows what was meant, the second what is fused
    print(model.ir("graph"))
    print(model.ir("partitioned"))

    # ... and so is the plan: which kernels run, in which order, on which memory
    print(model.memory_plan)

# A mistake is reported where it was made
try:
    _ = x @ hk.ConstantTensor(np.zeros((7, 3), np.float32))
except hk.GraphError as error:
    print(error)
