"""Dot-product units as designs of their own, to be measured: one between registers, or an array of them."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from bitwright.hw.array.output_stationary import OutputStationaryArray
from bitwright.hw.pe.contract import DotProduct

from .verilog import convert

__all__ = ["Harness", "harness_verilog"]


class Harness(wiring.Component):  # type: ignore[misc]  # Amaranth has no type information
    """A component whose inputs come from registers, as units and arrays ask for.

    Parameters
    ----------
    design
        The component. An input named ``shift`` is always set: an array's results leave one per cycle, so that
        the last beats of two dot products are at least as many cycles apart as it has units.

    Members
    -------
    as the component's but for ``shift``; inputs are a cycle earlier
    """

    def __init__(self, design: Any):
        self.design = design
        super().__init__(
            {name: member for name, member in design.signature.members.items() if name != "shift"}
        )

    def elaborate(self, platform: object) -> Module:
        """As the class says."""
        m = Module()
        m.submodules.design = self.design
        if hasattr(self.design, "shift"):
            m.d.comb += self.design.shift.eq(1)
        for name, member in self.signature.members.items():
            ports, pins = getattr(self, name), getattr(self.design, name)
            if not member.dimensions:
                ports, pins = [ports], [pins]
            for index, (port, pin) in enumerate(zip(ports, pins, strict=True)):
                port, pin = Value.cast(port), Value.cast(pin)
                if member.flow == Out:
                    m.d.comb += port.eq(pin)
                else:
                    register = Signal(len(port), name=f"{name}_{index}", reset_less=True)
                    m.d.sync += register.eq(port)
                    m.d.comb += pin.eq(register)
        return m


def harness_verilog(spec: DotProduct, array: tuple[int, int] | None = None) -> str:
    """Verilog of a unit between registers, or of an array of so many rows and columns.

    Raises
    ------
    ToolError
        There is no Yosys, or it failed.
    ValueError
        An array of no rows or columns.
    """
    return convert(Harness(OutputStationaryArray(spec, *array) if array else spec.unit()))
