"""Every quick proof holds, and fails where its component is broken on purpose.

With ``BITWRIGHT_ALL_MUTANTS=1`` in the environment the same is tried of every proof, in every way that is
listed.
"""

import inspect
import os
import sys

import pytest

from bitwright.gen.formal.catalogue import PROOFS
from bitwright.gen.formal.solver import DisprovedError
from bitwright.hw.bus.axi4 import ReadPort, WindowCheck, WritePort
from bitwright.hw.bus.axi4lite import RegisterPort
from bitwright.hw.bus.axi_to_wishbone import AxiToWishbone
from bitwright.hw.bus.burst import BurstSplitter
from bitwright.hw.bus.link import HostLink
from bitwright.hw.bus.wishbone import AxiLiteBridge
from bitwright.hw.engine import Engine
from bitwright.hw.memory.fifo import BlockFifo
from bitwright.hw.memory.load import LoadUnit
from bitwright.hw.memory.main import MainMemory
from bitwright.hw.memory.store import StoreUnit
from bitwright.hw.sched.decode import InstructionDecoder
from bitwright.hw.sched.fetch import FetchUnit
from bitwright.hw.sched.tokens import TokenBank
from bitwright.sim.tools import ToolError

# What is broken: class, text of its source, what stands there instead, and other parameters of the proof.
# Mistakes are sought in smaller components where it takes many cycles to make one.
SMALL_PORT = {"bus_bits": 32, "burst_beats": 4, "address_bits": 6, "under_way_bits": 3}
SECOND = "second.ready.eq(check.i.ready & ~many & ~first.valid)"
MUTANTS = {
    "fifo": [
        (BlockFifo, "some.eq(stored != 1)", "some.eq(1)", {}),
        (BlockFifo, "full.eq(stored == self.depth - 1)", "full.eq(stored == self.depth)", {}),
    ],
    "fifo-plain": [(BlockFifo, "some & (~loaded | move)", "some", {})],
    "fifo-8": [(BlockFifo, "loaded & (~self.o.valid | self.o.ready)", "loaded", {"depth": 4})],
    "splitter": [
        (BurstSplitter, "Mux(row_left <= room, row", "Mux(row_left <= room + 1, row", {}),
        (BurstSplitter, "row_end.eq(row_left <= room)", "row_end.eq(row_left < room)", {}),
    ],
    "splitter-wide": [(BurstSplitter, "beats_left <= row_beats", "beats_left < row_beats", {})],
    "window": [
        (WindowCheck, "(end <= self.size)", "(end <= self.size + 1)", {}),
        (WindowCheck, "end.eq(burst.memory + burst.length)", "end.eq(burst.memory)", {}),
        (WindowCheck, "o.valid.eq(inside & ~self.stop)", "o.valid.eq(~self.stop)", {}),
    ],
    "window-order": [(WindowCheck, "~summed & (~self.o.valid", "(~self.o.valid", {})],
    "read-port": [
        (ReadPort, "check.i.payload.id.eq(~first.valid)", "check.i.payload.id.eq(first.valid)", SMALL_PORT),
        (ReadPort, "many.eq(under_way[-1])", "many.eq(0)", SMALL_PORT),
        (ReadPort, SECOND, "second.ready.eq(check.i.ready & ~many)", SMALL_PORT),
    ],
    "write-port": [
        (WritePort, "last_beat.eq(beats_left == 2)", "last_beat.eq(beats_left == 1)", SMALL_PORT),
        (WritePort, "many.eq(under_way[-1])", "many.eq(0)", SMALL_PORT),
        (WritePort, "(~self.m_awvalid | self.m_awready) & ~active", "~active", SMALL_PORT),
    ],
    "registers": [(RegisterPort, "data_held & ~self.s_bvalid", "data_held", {})],
    "bridge": [(AxiLiteBridge, "asked & bus.we & ~data_taken", "asked & bus.we", {})],
    "bridged-registers": [(AxiLiteBridge, "asked & bus.we & ~address_taken", "asked & bus.we", {})],
    "axi-to-wishbone": [
        (AxiToWishbone, "write_next | ~self.s_arvalid", "write_next | 1", {}),
        (AxiToWishbone, "bus.stb.eq(~self.s_rvalid | self.s_rready)", "bus.stb.eq(1)", {}),
    ],
    "tokens": [(TokenBank, "present.eq(count != 1)", "present.eq(1)", {})],
    "tokens-63": [(TokenBank, "(count == self.limit)", "(count == self.limit - 1)", {"limit": 3})],
    "schedule": [(TokenBank, "with m.If(up & ~down):", "with m.If(up & ~down & ~count[0]):", {})],
    "fetch": [(FetchUnit, "enough = room >= burst", "enough = room >= burst - 1", {})],
    "read-arbiter": [(ReadPort, SECOND, "second.ready.eq(check.i.ready & ~many & first.valid)", {})],
    "decoder-load": [(InstructionDecoder, "m.If(count == place)", "m.If(count >= place)", {})],
    "decoder-store": [(InstructionDecoder, "self.i.ready.eq(~full)", "self.i.ready.eq(1)", {})],
    "load-unit": [
        (LoadUnit, "last_word.eq(words_left == 2)", "last_word.eq(words_left == 1)", {}),
        (LoadUnit, "bank + 2 == bank_counts[buffer]", "bank + 1 == bank_counts[buffer]", {}),
    ],
    "store-unit": [
        (StoreUnit, "sent & (~kept | self.forward_ready)", "sent", {}),
        (StoreUnit, "& ~loaded & ~held & ~kept", "& ~loaded & ~kept", {}),
    ],
    "host-link": [(HostLink, "special & ~escape, ESCAPE, byte", "special & escape, ESCAPE, byte", {})],
    "main-memory": [
        (MainMemory, "self.s_arready.eq(~waits)", "self.s_arready.eq(1)", {}),
        (MainMemory, "last = read_left == 0", "last = read_left == 1", {}),
        (MainMemory, "room.eq(~self.s_rvalid | self.s_rready)", "room.eq(1)", {}),
        (MainMemory, "self.s_awready.eq(~writing & ~self.s_bvalid)", "self.s_awready.eq(~writing)", {}),
    ],
    "engine-window": [(Engine, "offsets[name]) & ~busy", "offsets[name])", {})],
}
QUICK = [name for name, proof in PROOFS.items() if proof.quick]


def mutant(original: type, old: str, new: str) -> type:
    """The class with one place of its source changed, which has to be there once."""
    source = inspect.getsource(original)
    assert source.count(old) == 1, f"{original.__name__}: {old!r} is there {source.count(old)} times"
    names = dict(vars(sys.modules[original.__module__]))
    exec(compile(source.replace(old, new), inspect.getfile(original), "exec"), names)  # our own source
    made = names[original.__name__]
    assert isinstance(made, type)
    return made


def test_every_proof_has_a_mutant():
    assert set(MUTANTS) == set(PROOFS)


@pytest.mark.parametrize("name", QUICK)
def test_proved(name, tmp_path):
    result = PROOFS[name].run(tmp_path)
    assert result.claims
    assert all(cycle >= 0 for cycle in result.reached.values())


@pytest.mark.parametrize("name", MUTANTS)
def test_the_sources_of_mutants_are_there(name):
    for original, old, new, _ in MUTANTS[name]:
        assert mutant(original, old, new) is not original


# One for each quick proof is found in seconds; all of them take a quarter of an hour.
EVERYTHING = "BITWRIGHT_ALL_MUTANTS" in os.environ
CHECKED = [
    (name, index)
    for name in (PROOFS if EVERYTHING else QUICK)
    for index in range(len(MUTANTS[name]) if EVERYTHING else 1)
]


@pytest.mark.parametrize(("name", "index"), CHECKED, ids=[f"{name}-{index}" for name, index in CHECKED])
def test_disproved(name, index, tmp_path):
    original, old, new, changes = MUTANTS[name][index]
    if name == "host-link":
        # Its mistakes come hundreds of cycles behind the reset: no proof, but no short run either.
        with pytest.raises(ToolError, match="neither an induction"):
            PROOFS[name].run(tmp_path, **changes, kind=mutant(original, old, new))
        return
    with pytest.raises(DisprovedError) as caught:
        PROOFS[name].run(tmp_path, **changes, kind=mutant(original, old, new))
    assert caught.value.claim in str(caught.value)
    assert "$timescale" in caught.value.trace.read_text()
