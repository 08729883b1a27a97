"""The accelerator for systems with Wishbone buses."""

from amaranth.hdl import ClockDomain, DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .bus.axi4lite import ADDRESS_BITS
from .bus.axi_to_wishbone import AxiToWishbone
from .bus.wishbone import AxiLiteBridge, WishboneSignature
from .config import EngineConfig
from .engine import Engine

__all__ = ["WishboneEngine"]


class WishboneEngine(wiring.Component):
    """:class:`~bitwright.hw.engine.Engine` between a Wishbone target, registers, and an initiator, memory.

    ::

        s_wb_* ──► AxiLiteBridge ──► Engine ──► AxiToWishbone ──► wb_*

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    clk, rst : clock; reset, synchronous
    irq : done or fault, while ``irq_enable`` is set
    s_wb_* : Wishbone target, 32 bits; ``s_wb_adr`` counts words
    wb_* : Wishbone initiator, ``bus_bits`` wide; ``wb_adr`` counts words of that width from address 0
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        registers = WishboneSignature(address_bits=ADDRESS_BITS - 2)
        self._memory = AxiToWishbone(bus_bits=config.bus_bits)
        members: dict[str, wiring.Member] = {"clk": In(1), "rst": In(1), "irq": Out(1)}
        for name, member in registers.members.items():
            members[f"s_wb_{name}"] = member.flip()
        for name, member in self._memory.bus.signature.members.items():
            members[f"wb_{name}"] = member
        members |= {"wb_cti": Out(3), "wb_bte": Out(2)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The engine has a domain of its own, on the very same clock and reset.
        m.domains.bus = bus = ClockDomain("bus")
        bus.clk = self.clk
        bus.rst = self.rst
        m.submodules.engine = engine = Engine(self.config)
        registers, memory = AxiLiteBridge(address_bits=ADDRESS_BITS), self._memory
        m.submodules.registers = DomainRenamer("bus")(registers)
        m.submodules.memory = DomainRenamer("bus")(memory)
        m.d.comb += [
            engine.clk.eq(self.clk),
            engine.rst.eq(self.rst),
            self.irq.eq(engine.irq),
            self.wb_cti.eq(memory.cti),
            self.wb_bte.eq(memory.bte),
        ]
        for port, inside in (("s_wb_", registers.bus), ("wb_", memory.bus)):
            for name, member in inside.signature.members.items():
                outer, inner = getattr(self, port + name), getattr(inside, name)
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        for adapter, prefix, port in ((registers, "m_", "s_axil_"), (memory, "s_", "m_axi_")):
            for name, member in adapter.signature.members.items():
                if name.startswith(prefix):
                    inner, outer = getattr(adapter, name), getattr(engine, port + name.removeprefix(prefix))
                    m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        return m
