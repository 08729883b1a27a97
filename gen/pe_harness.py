"""A dot-product unit between registers, as Verilog."""

import tempfile
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from bitwright.hw.emission import Emission, never_elaborated
from bitwright.hw.pe.contract import DotProduct

from .toolchain import run_tool


class Harness(wiring.Component):
    def __init__(self, spec: DotProduct):
        self.spec = spec
        super().__init__(dict(never_elaborated(spec.unit()).signature.members))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.spec.unit()
        for name, member in self.signature.members.items():
            if member.flow == Out:
                m.d.comb += getattr(self, name).eq(getattr(unit, name))
            else:
                register = Signal(len(Value.cast(getattr(self, name))), name=f"{name}_in", reset_less=True)
                m.d.sync += register.eq(getattr(self, name))
                m.d.comb += Value.cast(getattr(unit, name)).eq(register)
        return m


def harness_verilog(spec: DotProduct) -> str:
    emission = Emission()
    text = rtlil.convert(Harness(spec), name="bitwright", platform=emission, emit_src=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "engine.il").write_text(text)
        run_tool(
            "yosys",
            [
                "-q",
                "-p",
                "read_rtlil engine.il; hierarchy -top bitwright; proc; opt_expr; opt_merge; opt_dff; opt_clean; write_verilog -noattr engine.v",
            ],
            folder,
        )
        return "\n".join([(folder / "engine.v").read_text(), *emission.verilog.values()])
