"""What is proved of the whole engine, whatever its core does: it keeps to the window that is granted."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import DomainRenamer, Fragment, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from bitwright.hw import engine as engine_module
from bitwright.hw.config import EngineConfig
from bitwright.hw.emission import never_elaborated
from bitwright.hw.engine import Core, Engine

from .bench import Bench
from .bus import aligned, asked, inside_window, judged

__all__ = ["FreeCore", "window"]


class FreeCore(wiring.Component):  # type: ignore[misc]  # Amaranth has no type information
    """In the place of a core: asks and says whatever it likes, but nothing after it has said that it is idle.

    Its bursts are as a burst splitter makes them.

    What holds of an engine with this, holds with every core of which that is true.

    Parameters
    ----------
    config
        The engine's configuration.
    bench
        Where what it does comes from.
    """

    def __init__(self, config: EngineConfig, bench: Bench):
        self.bench = bench
        self.burst_beats = config.burst_beats
        super().__init__(dict(never_elaborated(Core(config)).signature.members))

    def elaborate(self, platform: object) -> Module:
        """Every output free, while it is not quiet."""
        m = Module()
        quiet = Signal(init=1)
        m.d.sync += quiet.eq(~self.start & (quiet | self.bench.anything()))
        for path, member, value in self.signature.flatten(self):
            if member.flow == Out:
                value = Value.cast(value)
                free = self.bench.anything(len(value))
                if path[-1] == "valid":
                    m.d.comb += value.eq(free & ~quiet)
                elif path[-1] != "idle":
                    m.d.comb += value.eq(free)
        m.d.comb += self.idle.eq(quiet & ~self.start)
        for request in (*self.reads, self.writes):
            asked(self.bench, request.valid, request.payload, self.burst_beats)
        return m


def window(bench: Bench, *, config: EngineConfig, kind: Any = Engine) -> None:
    """No address outside the window is ever on the bus, for reads or writes, whatever core and host do.

    The core is taken out (:class:`FreeCore`), and what comes from outside may be anything at any time: writes
    to registers while the engine runs, starts, answers late or with errors. Assumed is that memory answers
    only what it was asked, and that the host grants windows that end within the address space.

    Parameters
    ----------
    bench
        Where it is added.
    config
        The engine.
    kind
        The engine's class.
    """
    m = bench.m
    dut = kind(config)
    with patch.object(engine_module, "Core", lambda config: FreeCore(config, bench)):
        m.submodules.dut = Fragment.get(DomainRenamer({"sync": "engine"})(dut), None)
    m.d.comb += [dut.clk.eq(bench.clk), dut.rst.eq(bench.reset)]
    bench.rest(dut, dut.clk, dut.rst)
    bench.show(dut, "dut")
    word = config.bus_bytes
    shift = (word - 1).bit_length()
    base = Signal(32)
    size = Signal(33)
    register = bench.inside("dut.memory_base", 20)
    granted = bench.inside("dut.memory_size", config.address_bits + 1)
    m.d.comb += [base.eq(register << 12), size.eq((granted >> shift) << shift)]
    bench.assume(base + size <= 1 << 32)
    # The core is in reset for a cycle behind that of the engine, in which it may still ask for what it likes.
    age = Signal(range(3))
    m.d.sync += age.eq(Mux(age == 2, 2, age + 1))
    young = age != 2

    state = bench.inside("dut.fsm_state", 3)
    busy = bench.inside("dut.busy", 1)
    bench.claim("inside: it is busy when it does something", busy == (state != 0))
    bench.claim(
        "the window stays as it is while the engine is busy",
        ~bench.before(busy) | ((register == bench.before(register)) & (granted == bench.before(granted))),
    )
    quiet = bench.inside("dut.core.quiet", 1)
    settled = bench.inside("dut.settled", 1)
    bench.claim("inside: the core is quiet while the engine is not busy", (age == 0) | busy | quiet)
    bench.claim("inside: the core is quiet when all has settled", ~settled | quiet)
    bench.claim(
        "inside: at first there is no window",
        ~young
        | (state == 0)
        & (granted == 0)
        & ((age != 0) | ~settled & ~bench.inside("dut.registers.address_held", 1)),
    )
    bits = config.word_address_bits
    for letter, path in (("r", "dut.read"), ("w", "dut.write")):
        valid, address, length = (getattr(dut, f"m_axi_a{letter}{name}") for name in ("valid", "addr", "len"))
        summed = bench.inside(f"{path}.check.summed", 1)
        under_way = bench.inside(f"{path}.under_way", 12)
        many = bench.inside(f"{path}.many", 1)
        name = "read" if letter == "r" else "write"
        offered = judged(
            bench,
            f"{path}.check",
            base,
            size,
            word=word,
            burst_beats=config.burst_beats,
            address_bits=bits,
            name=name,
        )
        if letter == "r":
            bench.assume(~dut.m_axi_rvalid | (under_way != 0))
            pending = valid
            # An address that waits is the check's own.
            bound = under_way + summed + offered
            bench.claim(
                "inside: a word that comes out was under way",
                young | (busy & ~settled) | ~bench.inside("dut.read.valid", 2).any(),
            )
        else:
            active = bench.inside("dut.write.active", 1)
            beats = bench.inside("dut.write.beats_left", (config.burst_beats).bit_length())
            last = bench.inside("dut.write.last_beat", 1)
            unfinished = Signal(2)
            m.d.comb += unfinished.eq(
                Mux(active, 1 + (dut.m_axi_wvalid & dut.m_axi_wlast), dut.m_axi_wvalid | valid)
            )
            bench.assume(~dut.m_axi_bvalid | (under_way > unfinished))
            bench.claim("inside: what is not through is under way", under_way >= unfinished)
            bench.claim("inside: the last word is known", ~active | ((last == (beats == 1)) & (beats != 0)))
            bench.claim(
                "inside: behind the last word the next burst may begin",
                ~dut.m_axi_wvalid | dut.m_axi_wlast | active,
            )
            pending = valid | dut.m_axi_wvalid | (under_way != 0) | bench.inside("dut.write.error", 1)
            bound = under_way + summed + offered
        half = 1 << 11
        bench.claim(f"inside: {name}s are counted", (bound <= half + 2) & (many | (bound <= half + 1)))
        if letter == "r":
            pending = valid | (under_way != 0)
        bench.claim(
            f"inside: no {name} is judged or under way while it is not busy",
            Mux(young, (age == 1) | ~summed, busy) & ~settled & ~(young & (offered | pending))
            | ~(summed | offered | pending),
        )
        bench.claim(
            f"no {name} leaves the window that the host has granted",
            ~valid | inside_window(base, size, address, length, word),
        )
        bench.claim(f"no {name} crosses 4 KiB", ~valid | aligned(address, length, word, config.burst_beats))
        bench.claim(f"no {name} is on the bus while the engine is not busy", ~valid | busy)
        bench.claim(
            f"the address of a {name} stays until it is taken",
            bench.stays(valid, getattr(dut, f"m_axi_a{letter}ready"), address, length),
        )
        bench.goal(f"a {name} is on the bus", valid)
