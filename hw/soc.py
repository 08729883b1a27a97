"""An engine with its memory and a serial line to a host: what a board needs beside its clock."""

from typing import Literal

from amaranth.hdl import ClockDomain, DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .bus.link import HostLink
from .bus.uart import UartReceiver, UartTransmitter
from .bus.wishbone import AxiLiteBridge, WishboneSignature
from .config import EngineConfig
from .engine import Engine
from .memory.main import MainMemory

__all__ = ["MemoryKind", "System"]

MemoryKind = Literal["block", "single", "external"]
"""Main memory of block RAM, of RAM with a single port, or outside."""

# Signals of the engine's port that the memory does not look at: always the same, or not needed.
_UNUSED = (
    *("awlen", "awsize", "awburst", "awcache", "awprot"),
    *("arsize", "arburst", "arcache", "arprot"),
)


class System(wiring.Component):
    """An engine, its memory, and a host at a serial line.

    ::

        uart_rx ──► UartReceiver ────► HostLink ──► bus ─┬─► MainMemory ◄── AXI4 ── Engine
        uart_tx ◄── UartTransmitter ◄──┘                 └─► bridge ──── AXI4-Lite ──┘

    The host's byte addresses: bit 31 clear: memory, from 0 on; set: the engine's registers
    (:mod:`bitwright.hw.sched.registers`). The engine's window lies in the same memory; whoever grants it
    keeps to ``memory_bytes``, as what a burst finds behind that is undefined.

    Parameters
    ----------
    config
        The engine's configuration.
    memory
        What the memory is made of.
    memory_bytes
        Its size, a multiple of 4096; the size of what is outside, where it is.
    divisor
        Clock cycles of a bit on the serial line.

    Members
    -------
    clk, rst : clock; reset, synchronous
    uart_rx, uart_tx : the serial line: 8 data bits, no parity, one stop bit
    busy, fault : what the engine's ``status`` says
    m_axi_* : the engine's AXI4 port; only where the memory is outside
    host : Wishbone, 32 bits: the host's accesses to that memory; likewise
    """

    def __init__(self, config: EngineConfig, *, memory: MemoryKind, memory_bytes: int, divisor: int):
        if not 4096 <= memory_bytes <= 1 << 31 or memory_bytes % 4096:
            raise ValueError(f"memory_bytes must be a multiple of 4096 up to 2**31, not {memory_bytes!r}")
        self.config = config
        self.memory = memory
        self.memory_bytes = memory_bytes
        self.divisor = divisor
        self.address_bits = (memory_bytes // 4 - 1).bit_length()
        """Width of a word's address in memory."""
        self._engine = Engine(config)
        members: dict[str, wiring.Member] = {
            "clk": In(1),
            "rst": In(1),
            "uart_rx": In(1, init=1),
            "uart_tx": Out(1, init=1),
            "busy": Out(1),
            "fault": Out(1),
        }
        if memory == "external":
            members |= {
                name: member for name, member in self._engine.signature.members.items() if name[:2] == "m_"
            }
            members["host"] = Out(WishboneSignature(address_bits=self.address_bits))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.domains.sync = sync = ClockDomain("sync")
        sync.clk = self.clk
        sync.rst = self.rst
        # The engine makes its domain itself, which must not have the name of ours.
        engine = self._engine
        m.submodules.engine = DomainRenamer({"sync": "engine"})(engine)
        m.submodules.receiver = receiver = UartReceiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.link = link = HostLink(address_bits=self.address_bits + 1)
        m.submodules.bridge = bridge = AxiLiteBridge()
        m.d.comb += [
            engine.clk.eq(self.clk),
            engine.rst.eq(self.rst),
            receiver.rx.eq(self.uart_rx),
            self.uart_tx.eq(transmitter.tx),
            self.busy.eq(engine.busy),
            self.fault.eq(engine.fault),
        ]
        wiring.connect(m, receiver.o, link.i)
        wiring.connect(m, link.o, transmitter.i)

        # The host's bus: the highest bit of the address chooses.
        bus = link.bus
        if self.memory == "external":
            host = wiring.flipped(self.host)
            for name, member in engine.signature.members.items():
                if name.startswith("m_"):
                    inside, outside = getattr(engine, name), getattr(self, name)
                    m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
        else:
            m.submodules.memory = memory = MainMemory(
                kind=self.memory,
                size=self.memory_bytes,
                bus_bits=config.bus_bits,
                burst_beats=config.burst_beats,
                host_address_bits=self.address_bits,
            )
            host = memory.host
            for name, member in engine.signature.members.items():
                if name.startswith("m_axi_") and name.removeprefix("m_axi_") not in _UNUSED:
                    inside, other = getattr(engine, name), getattr(memory, "s_" + name.removeprefix("m_axi_"))
                    m.d.comb += other.eq(inside) if member.flow == Out else inside.eq(other)
        registers = bus.adr[-1]
        for target, chosen in ((host, ~registers), (bridge.bus, registers)):
            m.d.comb += [
                target.cyc.eq(bus.cyc & chosen),
                target.stb.eq(bus.stb & chosen),
                target.we.eq(bus.we),
                target.adr.eq(bus.adr[:-1]),
                target.sel.eq(bus.sel),
                target.dat_w.eq(bus.dat_w),
            ]
        with m.If(registers):
            m.d.comb += [
                bus.ack.eq(bridge.bus.ack),
                bus.err.eq(bridge.bus.err),
                bus.dat_r.eq(bridge.bus.dat_r),
            ]
        with m.Else():
            m.d.comb += [bus.ack.eq(host.ack), bus.err.eq(host.err), bus.dat_r.eq(host.dat_r)]
        for name, member in bridge.signature.members.items():
            if name.startswith("m_"):
                inside, other = getattr(bridge, name), getattr(engine, "s_axil_" + name.removeprefix("m_"))
                m.d.comb += other.eq(inside) if member.flow == Out else inside.eq(other)
        return m
