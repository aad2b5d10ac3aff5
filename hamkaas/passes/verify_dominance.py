"""Checks that values are defined before they are used."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.traits import IsolatedFromAbove
from xdsl.utils.exceptions import VerifyException


class DominanceException(VerifyException):
    """A use without a definition before it, in the operation `op`."""

    def __init__(self, op: Operation, message: str):
        super().__init__(f"'{op.name}' does not verify: {message}")
        self.op = op


@dataclass(frozen=True)
class VerifyDominancePass(ModulePass):
    """Fail if an operation uses a value that is defined later, or in a region that does not enclose it.

    xDSL's own verifier does not check this. All HamKaas IR is structured (one block per region), so a value dominates
    its use if it comes earlier in the block of the use, or in a block around it.
    """

    name = "verify-dominance"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        verify_dominance(op)


def verify_dominance(root: Operation) -> None:
    """Raises `DominanceException` at the first operand under `root` that is not defined before its use."""
    for region in root.regions:
        for block in region.blocks:
            _verify_block(block, set())


def _verify_block(block: Block, visible: set[SSAValue]) -> None:
    visible = visible | set(block.args)
    for op in block.ops:
        for number, operand in enumerate(op.operands):
            if operand not in visible:
                name = f"%{operand.name_hint}" if operand.name_hint else "a value"
                raise DominanceException(op, f"expected operand {number} to be defined before its use, got {name}")
        inner = set[SSAValue]() if op.has_trait(IsolatedFromAbove) else visible
        for region in op.regions:
            for nested in region.blocks:
                _verify_block(nested, inner)
        visible.update(op.results)
