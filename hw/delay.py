"""Values from some cycles ago."""

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value

from .memory.lut_ram import LutRam

__all__ = ["delay", "held_delay", "pulses", "ring_delay"]


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


def ring_delay(m: Module, value: Value, stages: int, name: str) -> Value:
    """The value ``stages`` cycles ago, as :func:`delay` has it: long delays of wide values from LUT RAM.

    ::

        place      0  1  2  …  stages - 2  0  1  …       written a cycle before it is overwritten: read there
        register   ◄── contents[place], then contents[place] := value

    Parameters
    ----------
    m, value, stages, name
        As above; the submodule has the name.
    """
    if stages < 4 or len(value) < 8:
        return delay(m, value, stages, name)
    depth = stages - 1
    place = Signal(range(depth), name=f"{name}_place")
    register = Signal(value.shape(), name=f"{name}_late", reset_less=True)
    m.submodules[name] = ring = LutRam(width=len(value), depth=depth)
    m.d.comb += [
        ring.write_enable.eq(1),
        ring.write_address.eq(place),
        ring.read_address.eq(place),
        ring.write_data.eq(value),
    ]
    m.d.sync += [place.eq(Mux(place == depth - 1, 0, place + 1)), register.eq(ring.read_data)]
    return register
