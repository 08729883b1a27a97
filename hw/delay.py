"""Values from some cycles ago."""

from amaranth.hdl import Module, Signal, Value

__all__ = ["delay"]


def delay(m: Module, value: Value, stages: int, name: str, *, reset_less: bool = True) -> Value:
    """The value ``stages`` cycles ago: that many registers, named ``name_0`` and so on.

    Parameters
    ----------
    m
        Where the registers go, domain ``sync``.
    value, stages, name
        As above.
    reset_less
        Whether a reset leaves them alone, as it may where another signal says that the value counts.
    """
    for stage in range(stages):
        register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
