"""Values from some cycles ago."""

from collections.abc import Sequence

from amaranth.hdl import Module, Signal, Value

__all__ = ["delay", "held_delay", "pulses"]


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


def pulses(m: Module, pulse: Value, stages: int, name: str) -> list[Value]:
    """The pulse 0, 1, … ``stages`` cycles ago."""
    return [
        pulse,
        *(pulse := delay(m, pulse, 1, f"{name}_{index}", reset_less=False) for index in range(stages)),
    ]


def held_delay(
    m: Module, value: Value, stages: int, name: str, *, pulses: Sequence[Value], every: int, held: int = 1
) -> Value:
    """The value that went with a pulse ``stages`` cycles ago, from as few registers as that takes.

    Pulses are at least ``every`` cycles apart, so a register that takes the value keeps it that long, and one
    register does for ``every`` cycles of delay.

    ::

        pulse    ▔▁▁▁▁▁▁▁▁▁▁▁       every = 4, held = 1
        value    v
        name_0    vvvv              takes it with pulses[0]
        name_1        vvvv          takes it with pulses[4]

    Parameters
    ----------
    m
        Where the registers go, domain ``sync``.
    value
        Valid with the pulse and for ``held`` - 1 cycles after it.
    stages, name
        As above.
    pulses
        The pulse 0, 1, … cycles ago; at least ``stages`` of them.
    every
        Least distance of pulses.
    held
        Cycles that the value stays, at most ``every``.
    """
    last = held - 1  # the value is valid up to so many cycles after the pulse
    index = 0
    while last < stages:
        register = Signal(value.shape(), name=f"{name}_{index}", reset_less=True)
        if every == 1:
            m.d.sync += register.eq(value)
        else:
            with m.If(pulses[last]):
                m.d.sync += register.eq(value)
        value = register
        last += every
        index += 1
    return value
