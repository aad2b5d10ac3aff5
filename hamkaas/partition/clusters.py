"""Clusters of a block's operations that can each run as one, in some order: no cluster waits for itself."""

from collections.abc import Iterable, Iterator

from xdsl.ir import Block, Operation, SSAValue


class Cluster:
    """Operations that run as one; `kind` says what they are grown around."""

    def __init__(self, kind: str, seed: Operation):
        self.kind = kind
        self.seed = seed
        self.members: dict[Operation, None] = {seed: None}

    def __contains__(self, op: Operation) -> bool:
        return op in self.members

    def __len__(self) -> int:
        return len(self.members)

    @property
    def inputs(self) -> dict[SSAValue, None]:
        """What the members read from outside."""
        return {value: None for op in self.members for value in op.operands if value.owner not in self.members}


class Clusters:
    """The clusters of one block. An operation is in at most one."""

    def __init__(self, block: Block):
        self.order = {op: number for number, op in enumerate(block.ops)}
        self._cluster_of: dict[Operation, Cluster] = {}
        self._span: dict[Cluster, tuple[int, int]] = {}
        """The first and the last place of a cluster's members in the block."""

    def __iter__(self) -> Iterator[Cluster]:
        return iter(sorted(self._span, key=lambda cluster: self._span[cluster][0]))

    def of(self, op: Operation) -> Cluster | None:
        """The cluster that an operation is in."""
        return self._cluster_of.get(op)

    def add(self, cluster: Cluster, ops: Iterable[Operation] = ()) -> None:
        """Puts operations into a cluster, which is new or known."""
        cluster.members.update((op, None) for op in ops)
        cluster.members = {op: None for op in sorted(cluster.members, key=self.order.__getitem__)}
        for op in cluster.members:
            self._cluster_of[op] = cluster
        places = [self.order[op] for op in cluster.members]
        self._span[cluster] = (places[0], places[-1])

    def dissolve(self, cluster: Cluster) -> None:
        """Sets the members of a cluster free."""
        for op in cluster.members:
            del self._cluster_of[op]
        del self._span[cluster]

    def remove(self, cluster: Cluster, op: Operation) -> None:
        """Sets one member free."""
        self.dissolve(cluster)
        del cluster.members[op]
        self.add(cluster)

    def closes_cycle(self, ops: Iterable[Operation]) -> bool:
        """Whether these operations, as one, would wait for themselves: a path leads out of them and back in."""
        merged = set(ops)
        horizon = self._horizon(merged)
        todo = [user for op in merged for user in users(op) if user not in merged]
        seen = set[Operation]()
        while todo:
            op = todo.pop()
            if op in merged:
                return True
            if op in seen or self.order[op] > horizon:
                continue
            cluster = self._cluster_of.get(op)
            one = (op,) if cluster is None else tuple(cluster.members)
            seen.update(one)
            todo.extend(user for member in one for user in users(member))
        return False

    def _horizon(self, ops: set[Operation]) -> int:
        """A place in the block behind which nothing leads back to these operations: no cluster reaches over it."""
        horizon, grows = max(self.order[op] for op in ops), True
        while grows:
            grows = False
            for first, last in self._span.values():
                if first <= horizon < last:
                    horizon, grows = last, True
        return horizon


def users(op: Operation) -> Iterator[Operation]:
    """The operations that read the results of one."""
    return (use.operation for result in op.results for use in result.uses)


def sort_topologically(block: Block) -> None:
    """Moves operations behind what they read; what may stay where it is keeps its order."""
    done: dict[Operation, None] = {}
    opened = set[Operation]()
    for first in list(block.ops):
        todo = [first]
        while todo:
            op = todo[-1]
            owners = (operand.owner for operand in op.operands)
            waiting = [o for o in owners if isinstance(o, Operation) and o.parent is block and o not in done]
            if waiting and op not in done:
                assert op not in opened, f"{op.name} waits for itself"
                opened.add(op)
                todo.extend(reversed(waiting))
            else:
                done[op] = None
                todo.pop()
    for op in done:
        op.detach()
        block.add_op(op)
