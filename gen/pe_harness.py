"""Dot-product units as designs of their own, to be measured: one between registers, or an array of them."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bitwright.hw.emission import never_elaborated, share
from bitwright.hw.pe.contract import DotProduct

from .verilog import convert

__all__ = ["ArrayHarness", "UnitHarness", "harness_verilog"]


def _registered(m: Module, value: Any, name: str) -> Signal:
    """The bits of a port, a cycle later."""
    bits = Value.cast(value)
    register = Signal(len(bits), name=name, reset_less=True)
    m.d.sync += register.eq(bits)
    return register


class UnitHarness(wiring.Component):  # type: ignore[misc]  # Amaranth has no type information
    """A unit whose inputs come from registers, as its contract asks for.

    Parameters
    ----------
    spec
        The unit.

    Members
    -------
    as the unit's; outputs come a cycle later, measured from the inputs
    """

    def __init__(self, spec: DotProduct):
        self.spec = spec
        super().__init__(dict(never_elaborated(spec.unit()).signature.members))

    def elaborate(self, platform: object) -> Module:
        """As the class says."""
        m = Module()
        m.submodules.unit = unit = self.spec.unit()
        for name, member in self.signature.members.items():
            port, pin = getattr(self, name), getattr(unit, name)
            if member.flow == Out:
                m.d.comb += port.eq(pin)
            else:
                m.d.comb += Value.cast(pin).eq(_registered(m, port, f"{name}_in"))
        return m


class ArrayHarness(wiring.Component):  # type: ignore[misc]  # Amaranth has no type information
    """``rows`` x ``cols`` units that share operands, and the chain that their results leave by.

    ::

                      w[0]         w[1]      ...
                      [reg]        [reg]
                        │            │
        a[0] ─ [reg] ─ unit 0,0 ── unit 0,1 ── ...      control, valid, last ─ [reg] ─ every unit
        a[1] ─ [reg] ─ unit 1,0 ── unit 1,1 ── ...
                        │            │
        o ◄─ result 0,0 ◄ 0,1 ◄ … ◄ 1,0 ◄ 1,1 ◄ …       row by row, a result per cycle

    Operands, one register for a row or a column, are what the units of that row or column read. Results go
    into the drain chain together and leave one per cycle, that of row 0 and column 0 first, so that the last
    beats of two dot products are at least ``rows * cols`` cycles apart.

    Parameters
    ----------
    spec
        The units.
    rows, cols
        How many.

    Members
    -------
    a, w : word of each row, of each column
    control, valid, last : the beat's, as the unit's
    o : a result
    captured : ``o`` is the first result; that of unit ``k`` follows k cycles later. Set ``latency`` cycles
        after the last beat
    """

    def __init__(self, spec: DotProduct, rows: int, cols: int):
        if rows < 1 or cols < 1:
            raise ValueError(f"rows x cols = {rows} x {cols}: must be at least 1 x 1")
        self.spec = spec
        self.rows = rows
        self.cols = cols
        self.latency = spec.latency + 2
        """Of the unit, and the registers in front of it and behind."""
        unit = dict(never_elaborated(spec.unit()).signature.members)
        members: dict[str, Any] = {name: unit[name] for name in ("valid", "last", "control") if name in unit}
        members |= {
            "a": In(data.ArrayLayout(spec.activation_word_bits, rows)),
            "w": In(data.ArrayLayout(spec.weight_word_bits, cols)),
            "o": unit["o"],
            "captured": Out(1),
        }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """As the class says."""
        m = Module()
        a = [_registered(m, self.a[row], f"a_{row}") for row in range(self.rows)]
        w = [_registered(m, self.w[col], f"w_{col}") for col in range(self.cols)]
        beat = {
            name: _registered(m, getattr(self, name), name)
            for name in ("valid", "last", "control")
            if name in self.signature.members
        }
        units = []
        for row in range(self.rows):
            for col in range(self.cols):
                unit = self.spec.unit()
                m.submodules[f"unit_{row}_{col}"] = share(platform, "dot_product_unit", unit)
                units.append(unit)
                m.d.comb += [unit.a.eq(a[row]), unit.w.eq(w[col])]
                m.d.comb += [Value.cast(getattr(unit, name)).eq(value) for name, value in beat.items()]

        capture = units[0].o_valid
        m.d.sync += self.captured.eq(capture)
        following: Value | None = None
        for index, unit in reversed(list(enumerate(units))):
            result = Value.cast(unit.o)
            drain = Signal(len(result), name=f"drain_{index}", reset_less=True)
            with m.If(capture):
                m.d.sync += drain.eq(result)
            if following is not None:
                with m.Else():
                    m.d.sync += drain.eq(following)
            following = drain
        m.d.comb += Value.cast(self.o).eq(following)
        return m


def harness_verilog(spec: DotProduct, array: tuple[int, int] | None = None) -> str:
    """Verilog of a unit between registers, or of an array of so many rows and columns.

    Raises
    ------
    ToolError
        There is no Yosys, or it failed.
    """
    return convert(ArrayHarness(spec, *array) if array else UnitHarness(spec))
