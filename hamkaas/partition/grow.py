"""Grows the regions that become cuDNN graphs, in this order: products, norms, attention, then what is left."""

from collections.abc import Iterable, Iterator

from xdsl.dialects import func
from xdsl.ir import Block, Operation, SSAValue

from hamkaas.dialects import hamkaas
from hamkaas.dialects.hamkaas import tensor_type
from hamkaas.partition.clusters import Cluster, Clusters, users
from hamkaas.partition.policy import KINDS, NORM_ROW_BYTES, Policy, norm_stands_alone, refusal
from hamkaas.partition.views import widens
from hamkaas.remarks import remark

NOT_CANDIDATES = (
    hamkaas.GetOp,
    hamkaas.SetOp,
    hamkaas.ConstantOp,
    hamkaas.ExecuteOp,
    *hamkaas.VIEW_OPS,
    func.ReturnOp,
)
"""Operations that compute nothing: of them no remark is made."""


class Regions:
    """The regions of one function."""

    def __init__(self, block: Block, policy: Policy, max_nodes: int, tf32: bool, where: str):
        self.policy = policy
        self.max_nodes = min(max_nodes, policy.max_nodes)
        self.where = where
        self.clusters = Clusters(block)
        self.refused: set[Operation] = set()
        self.why: dict[Operation, tuple[str, Cluster | None]] = {}
        """Why an operation is not in a region: that one, or any if it is None."""
        self.sums: dict[Cluster, SSAValue] = {}
        """For a product whose result is normed: the value whose row sums of squares it gives too."""
        candidates = [op for op in block.ops if op.dialect_name() == "hamkaas" and not isinstance(op, NOT_CANDIDATES)]
        for op in candidates:
            if (why := refusal(op, policy, tf32)) is not None:
                self.refused.add(op)
                self._note(op, why)
        self._grow([op for op in candidates if op not in self.refused])
        for op in candidates:
            self._explain(op)

    def remark(self, op: Operation, why: str) -> None:
        """Makes a remark about an operation."""
        name = op.results[0].name_hint
        place = f"%{name}" if name else f"(operation {self.clusters.order[op]})"
        remark(self.where, f"{op.name} {place}", why)

    def _note(self, op: Operation, why: str, wanted: Cluster | None = None) -> None:
        self.why.setdefault(op, (why, wanted))

    def _explain(self, op: Operation) -> None:
        """Makes a remark about an operation that is in no region, or not in one that reached out for it."""
        why, wanted = self.why.get(op, ("", None))
        found = self.clusters.of(op)
        if why and (found is None or (wanted is not None and op not in wanted)):
            self.remark(op, why if wanted is None else f"apart from its {wanted.kind}: {why}")

    def _grow(self, candidates: list[Operation]) -> None:
        for op in candidates:
            if isinstance(op, hamkaas.MatmulOp):
                self._grow_product(op)
        for op in candidates:
            if isinstance(op, hamkaas.RmsNormOp) and not self._is_summed(op):
                self._grow_norm(op)
            elif isinstance(op, hamkaas.AttentionOp):
                self.clusters.add(Cluster("attention", op))
        for op in candidates:
            if type(op) in KINDS and self.clusters.of(op) is None:
                self._grow_pointwise(op)
        for cluster in list(self.clusters):
            count = sum(not isinstance(op, hamkaas.CastOp) for op in cluster.members)
            if cluster.kind == "pointwise" and count < self.policy.min_pointwise:
                self.clusters.dissolve(cluster)
                for op in cluster.members:
                    self._note(op, "pointwise operations alone gain nothing over a kernel of ours")
        if self.policy.anchored and not any(one.kind in ("product", "attention") for one in self.clusters):
            for cluster in list(self.clusters):
                self.clusters.dissolve(cluster)
                for op in cluster.members:
                    self._note(op, f"its {cluster.kind} is left to our kernels: no product or attention goes to cuDNN")

    # products

    def _grow_product(self, op: hamkaas.MatmulOp) -> None:
        cluster = Cluster("product", op)
        self.clusters.add(cluster)
        self._grow_prologue(cluster, op)
        epilogue = self._grow_chain(cluster, op)
        last = epilogue[-1] if epilogue else op
        if self.policy.sums and any(isinstance(user, hamkaas.RmsNormOp) for user in normed(last.results[0])):
            self.sums[cluster] = last.results[0]
            return
        if not self.policy.lone_add and all(isinstance(one, hamkaas.AddOp | hamkaas.CastOp) for one in epilogue):
            while any(isinstance(one, hamkaas.AddOp) for one in epilogue):
                self._cut(epilogue, cluster, "additions alone are slower than cuBLAS and a kernel of ours")
        while epilogue and widens(epilogue[-1]):
            self._cut(epilogue, cluster, "whoever reads it reads fewer bytes")

    def _cut(self, chain: list[Operation], cluster: Cluster, why: str) -> None:
        """Takes the last operation of a chain out of its cluster."""
        self.clusters.remove(cluster, op := chain.pop())
        self._note(op, why, cluster)

    def _is_summed(self, op: hamkaas.RmsNormOp) -> bool:
        return op.input in self.sums.values()

    def _grow_prologue(self, cluster: Cluster, product: hamkaas.MatmulOp) -> None:
        """Takes what the left side is computed from, as far as nobody else reads it."""
        todo = [product.lhs.owner]
        while todo:
            op = todo.pop()
            if not isinstance(op, Operation) or type(op) not in KINDS or self.clusters.of(op) is not None:
                continue
            if not self.policy.prologue:
                self._note(op, "a prologue is slower than a kernel in front of the product", cluster)
            elif not _feeds_only(op, cluster, product):
                self._note(op, "a prologue can have no other reader", cluster)
            elif self._joins(op, cluster, tensor_type(product.lhs).get_shape()):
                todo.extend(value.owner for value in op.operands)

    def _grow_chain(self, cluster: Cluster, first: Operation) -> list[Operation]:
        """Takes pointwise consumers, one behind the other, as long as each is the only one."""
        chain: list[Operation] = []
        last = first
        shape = tensor_type(first.results[0]).get_shape()
        while True:
            readers = dict.fromkeys(users(last))
            wanted = [op for op in readers if type(op) in KINDS and self.clusters.of(op) is None]
            if not wanted:
                return chain
            if len(readers) > 1:
                for op in wanted:
                    self._note(op, "it is not the only reader", cluster)
                return chain
            if not self._joins(wanted[0], cluster, shape):
                return chain
            last = wanted[0]
            chain.append(last)

    # norms

    def _grow_norm(self, op: hamkaas.RmsNormOp) -> None:
        cluster = Cluster("norm", op)
        self.clusters.add(cluster)
        front = op.input.owner
        shape = tensor_type(op.input).get_shape()
        if norm_stands_alone(op):
            for one in (front, *users(op)):
                if isinstance(one, Operation) and type(one) in KINDS and self.clusters.of(one) is None:
                    self._note(one, f"a norm with neighbours has rows of a multiple of {NORM_ROW_BYTES} bytes", cluster)
            return
        if isinstance(front, hamkaas.AddOp) and self.clusters.of(front) is None:
            if tensor_type(front.lhs) != tensor_type(front.rhs):
                self._note(front, "the sum in front of a norm takes no operand that broadcasts", cluster)
            else:
                self._joins(front, cluster, shape)
        self._grow_chain(cluster, op)

    # pointwise

    def _grow_pointwise(self, op: Operation) -> None:
        """Joins the pointwise regions that the operands are computed in, as far as they go together."""
        cluster = Cluster("pointwise", op)
        self.clusters.add(cluster)
        for value in op.operands:
            other = self.clusters.of(value.owner) if isinstance(value.owner, Operation) else None
            if other is None or other is cluster or other.kind != "pointwise":
                continue
            shape = tensor_type(other.seed.results[0]).get_shape()
            why = self._mismatch([*other.members, *cluster.members], shape)
            if why is None:
                self.clusters.dissolve(cluster)
                self.clusters.add(other, cluster.members)
                cluster = other
            else:
                self._note(op, why, other)

    # what all have in common

    def _joins(self, op: Operation, cluster: Cluster, shape: Iterable[int]) -> bool:
        """Adds an operation to a cluster if it may be there; notes why if not."""
        if op in self.refused:
            return False
        why = self._mismatch([*cluster.members, op], shape)
        if why is not None:
            self._note(op, why, cluster)
            return False
        self.clusters.add(cluster, [op])
        return True

    def _mismatch(self, ops: list[Operation], shape: Iterable[int]) -> str | None:
        """Why these operations cannot be one region; `shape` is what the pointwise ones must compute."""
        if len(ops) > self.max_nodes:
            return f"a region has at most {self.max_nodes} operations"
        if sum(isinstance(op, hamkaas.SiluOp) for op in ops) > self.policy.max_silus:
            return f"a region has at most {self.policy.max_silus} silu"
        if len(set(outer_values(ops))) > self.policy.max_inputs:
            return f"a region has at most {self.policy.max_inputs} inputs"
        if tensor_type(ops[-1].results[0]).get_shape() != tuple(shape):
            return f"expected a result of shape {list(shape)}, got {tensor_type(ops[-1].results[0])}"
        if self.clusters.closes_cycle(ops):
            return "the region would wait for itself"
        return None


def normed(value: SSAValue) -> Iterator[Operation]:
    """The norms that read a value as their input."""
    return (use.operation for use in value.uses if isinstance(use.operation, hamkaas.RmsNormOp) and use.index == 0)


def outer_values(ops: Iterable[Operation]) -> Iterator[SSAValue]:
    """What these operations read from outside."""
    inside = set(ops)
    return (value for op in inside for value in op.operands if value.owner not in inside)


def _feeds_only(op: Operation, cluster: Cluster, product: hamkaas.MatmulOp) -> bool:
    """Whether an operation is read in front of the product's left side only."""
    return all(use.index == 0 if use.operation is product else use.operation in cluster for use in op.results[0].uses)
