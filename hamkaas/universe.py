"""What HamKaas adds to xDSL: its dialects, passes and targets; and a context that knows all of them."""

from functools import cache

from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.dialects.math import Math
from xdsl.dialects.scf import Scf
from xdsl.dialects.vector import Vector
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe

from hamkaas.dialects.cudnn import CUDNN
from hamkaas.dialects.hamkaas import HAMKAAS
from hamkaas.dialects.kernel import KERNEL
from hamkaas.dialects.program import PROGRAM
from hamkaas.passes import ALL_PASSES
from hamkaas.pipeline import LowerToPass

OWN_DIALECTS: tuple[Dialect, ...] = (HAMKAAS, CUDNN, KERNEL, PROGRAM)
OWN_PASSES: tuple[type[ModulePass], ...] = (*ALL_PASSES, LowerToPass)


@cache
def context() -> Context:
    """A context with every dialect that HamKaas IR uses; shared, since passes only read it."""
    ctx = Context()
    for dialect in (Builtin, Func, Arith, Math, Scf, Vector, *OWN_DIALECTS):
        ctx.load_dialect(dialect)
    return ctx


HAMKAAS_UNIVERSE = Universe(
    all_dialects={dialect.name: lambda dialect=dialect: dialect for dialect in OWN_DIALECTS},
    all_passes={one.name: lambda one=one: one for one in OWN_PASSES},
)
