"""Canonicalization of the `hamkaas` dialect: each pattern is one equation."""

from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from hamkaas.dialects.hamkaas import PermuteOp, ReshapeOp, SliceOp, tensor_type


class ReshapeOfReshape(RewritePattern):
    """reshape(reshape(x)) -> reshape(x): only the last shape counts."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        if not isinstance(inner := op.input.owner, ReshapeOp):
            return
        rewriter.replace(op, ReshapeOp(inner.input, tensor_type(op.result).get_shape()))


class PermuteOfPermute(RewritePattern):
    """permute(permute(x, p), q) -> permute(x, p[q])."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: PermuteOp, rewriter: PatternRewriter) -> None:
        if not isinstance(inner := op.input.owner, PermuteOp):
            return
        rewriter.replace(op, PermuteOp(inner.input, [inner.permutation[axis] for axis in op.permutation]))


class SliceOfSlice(RewritePattern):
    """slice(slice(x, a, b), c, d) -> slice(x, a + c, a + d)."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: SliceOp, rewriter: PatternRewriter) -> None:
        if not isinstance(inner := op.input.owner, SliceOp):
            return
        offset = inner.begin.value.data
        rewriter.replace(op, SliceOp(inner.input, offset + op.begin.value.data, offset + op.end.value.data))
