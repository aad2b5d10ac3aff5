"""Every exception that a user of HamKaas can see.

The classes are picklable (plain constructor arguments only), so that they survive a process pool.
"""


class HamkaasError(Exception):
    """Base of all errors that HamKaas raises on purpose; its text is one line: what, where, expected, got."""


class GraphError(HamkaasError, ValueError):
    """A graph that makes no sense: a wrong shape, dtype or name. Names the line of the user's program."""


class ScriptError(HamkaasError, ValueError):
    """A HamKaas script that cannot be read: names the line and the column of the script."""


class CompileError(HamkaasError):
    """The compiler could not turn a valid graph into a program."""


class InputError(HamkaasError, ValueError):
    """A call of a compiled model with wrong inputs. Raised before anything runs; the state is untouched."""


class TargetError(HamkaasError):
    """The target that was asked for is not available on this machine: says why and names the other one."""


class RuntimeFault(HamkaasError):
    """The device or the driver reported an error while a compiled model was loaded or run."""


class CheckpointError(HamkaasError, ValueError):
    """A model file (checkpoint or tokenizer) that cannot be read: names the file, expected and got."""
