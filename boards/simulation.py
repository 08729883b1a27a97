"""A board in a simulation, behind a TCP port: the host's software talks to it as it does to a real one.

::

    Accelerator ── socket://127.0.0.1:N ── boards/uart_bridge.cpp ── uart_rx, uart_tx ── Verilog

The Verilog may be a board's top as it is generated, or the netlist that Yosys wrote with models of its cells.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.gen.verilog import TOP, convert, emit
from bitwright.hw.bus.link import HostLink
from bitwright.hw.bus.uart import UartReceiver, UartTransmitter
from bitwright.hw.bus.wishbone import AxiLiteBridge, WishboneSignature
from bitwright.hw.config import EngineConfig
from bitwright.sim.native import compile_native
from bitwright.sim.rtl import SimulationError, primitive_models

__all__ = ["REFERENCE_TOP", "LinkEnd", "SimulatedBoard", "reference_sources"]

REFERENCE_TOP = "reference_top"
"""Name of the top module that :func:`reference_sources` makes."""


class LinkEnd(wiring.Component):  # type: ignore[misc]
    """A serial line, the host link behind it, and what it reaches: a memory, and the engine's registers.

    Parameters
    ----------
    divisor
        Clock cycles of a bit.
    address_bits
        Width of the memory's word address.

    Members
    -------
    clk, rst : clock; reset, synchronous
    uart_rx, uart_tx : the line
    memory : :class:`~bitwright.hw.bus.wishbone.WishboneSignature`
    m_* : AXI4-Lite, to the engine's registers
    """

    def __init__(self, *, divisor: int, address_bits: int):
        self.divisor = divisor
        self._bridge = AxiLiteBridge()
        super().__init__(
            {
                "clk": In(1),
                "rst": In(1),
                "uart_rx": In(1),
                "uart_tx": Out(1),
                "memory": Out(WishboneSignature(address_bits=address_bits)),
                **{
                    name: member
                    for name, member in self._bridge.signature.members.items()
                    if name.startswith("m_")
                },
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The module."""
        m = Module()
        m.domains.sync = sync = ClockDomain("sync")
        sync.clk, sync.rst = self.clk, self.rst
        bits = self.memory.signature.address_bits
        m.submodules.bridge = bridge = self._bridge
        m.submodules.receiver = receiver = UartReceiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.link = link = HostLink(address_bits=bits + 1)
        wiring.connect(m, receiver.o, link.i)
        wiring.connect(m, link.o, transmitter.i)
        m.d.comb += [receiver.rx.eq(self.uart_rx), self.uart_tx.eq(transmitter.tx)]
        for target, chosen in ((self.memory, ~link.bus.adr[-1]), (bridge.bus, link.bus.adr[-1])):
            for name in ("we", "sel", "dat_w", "adr"):
                m.d.comb += getattr(target, name).eq(getattr(link.bus, name))
            m.d.comb += [target.cyc.eq(link.bus.cyc & chosen), target.stb.eq(link.bus.stb & chosen)]
            with m.If(chosen):
                for name in ("dat_r", "ack", "err"):
                    m.d.comb += getattr(link.bus, name).eq(getattr(target, name))
        for name, member in bridge.signature.members.items():
            if name.startswith("m_"):
                inner, outer = getattr(bridge, name), getattr(self, name)
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        return m


def reference_sources(config: EngineConfig, *, divisor: int, memory_bytes: int) -> dict[str, str]:
    """Verilog of an engine, a memory and the host link, for simulation: a board without a board.

    The top is :data:`REFERENCE_TOP`, with `clk`, `uart_rx` and `uart_tx`. The memory is at address 0.

    Parameters
    ----------
    config
        The engine's.
    divisor
        Clock cycles of a bit on the line.
    memory_bytes
        Size of the memory, a power of two; the program's window has to fit it.
    """
    if memory_bytes & (memory_bytes - 1) or memory_bytes < 4096:
        raise ValueError(f"memory_bytes must be a power of two of 4096 or more, not {memory_bytes!r}")
    address_bits = (memory_bytes // 4).bit_length() - 1
    engine = emit(config)
    link = LinkEnd(divisor=divisor, address_bits=address_bits)
    return {
        "reference_top.v": _top(config, link, address_bits),
        "shared_memory.v": (Path(__file__).parent / "shared_memory.v").read_text(),
        "engine.v": engine,
        "link.v": convert(link, name="link_end"),
        **primitive_models(engine),
    }


_AXI = {
    "aw": {"valid": 1, "ready": -1, "id": 1, "addr": 32, "len": 8},
    "w": {"valid": 1, "ready": -1, "data": 0, "strb": 0, "last": 1},
    "b": {"valid": -1, "ready": 1, "id": -1, "resp": -2},
    "ar": {"valid": 1, "ready": -1, "id": 1, "addr": 32, "len": 8},
    "r": {"valid": -1, "ready": 1, "id": -1, "data": 0, "resp": -2, "last": -1},
}
"""Signals between engine and memory, by channel: bits, negative from the memory, 0 as the bus has."""


def _top(config: EngineConfig, link: LinkEnd, address_bits: int) -> str:
    wires: list[str] = []
    engine = [".clk(clk)", ".rst(1'b0)"]
    memory = [".clk(clk)"]
    near = [".clk(clk)", ".rst(1'b0)", ".uart_rx(uart_rx)", ".uart_tx(uart_tx)"]
    for channel, signals in _AXI.items():
        for name, width in signals.items():
            bits = abs(width) or (config.bus_bits if name == "data" else config.bus_bytes)
            wires.append(f"wire [{bits - 1}:0] axi_{channel}{name};")
            engine.append(f".m_axi_{channel}{name}(axi_{channel}{name})")
            memory.append(f".{channel}{name}(axi_{channel}{name})")
    for name, member in link.signature.members.items():
        if name.startswith("m_"):
            wires.append(f"wire [{member.shape - 1}:0] lite_{name[2:]};")
            near.append(f".{name}(lite_{name[2:]})")
            engine.append(f".s_axil_{name[2:]}(lite_{name[2:]})")
    for name, member in WishboneSignature(address_bits=address_bits).members.items():
        wires.append(f"wire [{member.shape - 1}:0] wb_{name};")
        near.append(f".memory__{name}(wb_{name})")
        if name != "cyc":
            memory.append(f".wb_{name}(wb_{name})")
    parameters = f"#(.DATA_BITS({config.bus_bits}), .BYTES({4 << address_bits}))"
    instances = (
        ("link_end", "link", near),
        (TOP, "engine", engine),
        (f"shared_memory {parameters}", "memory", memory),
    )
    lines = [f"module {REFERENCE_TOP} (input wire clk, input wire uart_rx, output wire uart_tx);"]
    lines += ["  " + wire for wire in wires]
    for module, name, connections in instances:
        lines += [f"  {module} {name} (", ",\n".join("    " + item for item in connections), "  );"]
    return "\n".join([*lines, "endmodule", ""])


class SimulatedBoard:
    """A process that simulates a design with a serial line, behind a TCP port; a context manager.

    Compiled with Verilator (``sim/native.py``), and found compiled the next time.

    Parameters
    ----------
    sources
        Contents of the Verilog files by name, or their paths: the design and models of its cells.
    top
        Name of the top module. It has the inputs `clk` and `uart_rx` and the output `uart_tx`; further inputs
        stay 0.
    bit_cycles
        Clock cycles of a bit on the line.

    Raises
    ------
    ToolError
        A program is missing.
    SimulationError
        The Verilog does not compile, or the simulation does not start.
    """

    def __init__(self, sources: Mapping[str, str] | Sequence[Path], top: str, *, bit_cycles: int):
        if not isinstance(sources, Mapping):
            sources = {f"{number}_{path.name}": path.read_text() for number, path in enumerate(sources)}
        main = (Path(__file__).parent / "uart_bridge.cpp").read_text()
        self.bit_cycles = bit_cycles
        self.cycles = 0
        """Clock cycles of the simulation, once it is closed."""
        self._program = compile_native(sources, top, main)
        self._process: subprocess.Popen[str] | None = subprocess.Popen(
            [str(self._program), str(bit_cycles)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        words = self._output.readline().split()
        if len(words) != 2 or words[0] != "port":
            self.close()
            raise SimulationError(f"{self._program}: the simulation does not start")
        self.port = f"socket://127.0.0.1:{words[1]}"
        """What to open: a URL for pyserial."""

    @property
    def _output(self) -> IO[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    def close(self) -> None:
        """End the simulation."""
        if self._process is None:
            return
        try:
            output, _ = self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        self._process = None
        words = output.split()
        if words[:1] == ["cycles"]:
            self.cycles = int(words[1])

    def __enter__(self) -> "SimulatedBoard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
