"""The fetch unit: every instruction to its unit, in order, and never more words than there is room for."""

from collections import deque

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.fetch import FetchUnit
from bitwright.hw.sched.isa import Opcode, Unit
from bitwright.hw.sched.widths import kept_bits


def config(bus_bits, burst_beats, **changes):
    return EngineConfig(
        **changes,
        cols=4,
        lanes=16,
        bus_bits=bus_bits,
        burst_beats=burst_beats,
        activation_depth=16,
        weight_depth=16,
        channel_depth=16,
        output_depth=16,
    )


class Program:
    """Random instructions in memory, the benches of a run, and what came of it."""

    def __init__(self, dut, count, rng, gap=0.0, stalls=(0.0, 0.0, 0.0), address=None):
        self.dut = dut
        self.rng = rng
        self.gap = gap
        self.stalls = stalls
        self.bus_bits = len(dut.word)
        self.beats = 256 // self.bus_bits
        self.address = rng.randrange(1 << 20) if address is None else address
        known = [opcode for opcode in Opcode if opcode is not Opcode.WINDOW or dut.config.combined]
        self.opcodes = [rng.choice(known) for _ in range(count)]
        patterns = [
            rng.getrandbits(256) & kept_bits(dut.config, opcode) & ~15 | opcode for opcode in self.opcodes
        ]
        mask = (1 << self.bus_bits) - 1
        self.words = [
            pattern >> offset & mask for pattern in patterns for offset in range(0, 256, self.bus_bits)
        ]
        self.bursts = []
        self.found = {unit: [] for unit in Unit}
        self.illegal = False

    def set_opcode(self, index, opcode):
        self.words[index * self.beats] = self.words[index * self.beats] & ~15 | opcode

    @property
    def expected(self):
        found = {unit: [] for unit in Unit}
        for index, opcode in enumerate(self.opcodes):
            found[opcode.unit] += self.words[index * self.beats : (index + 1) * self.beats]
        return found

    async def memory(self, ctx):
        dut = self.dut
        pending = deque()
        while True:
            answers = bool(pending) and self.rng.random() >= self.gap
            ready = self.rng.random() >= self.gap
            ctx.set(dut.request.ready, ready)
            ctx.set(dut.word_valid, answers)
            ctx.set(dut.word, pending.popleft() if answers else self.rng.getrandbits(self.bus_bits))
            _, _, valid, burst = await ctx.tick().sample(dut.request.valid, dut.request.payload)
            if valid and ready:
                start = burst["memory"] - self.address
                assert start >= 0
                assert start + burst["length"] <= len(self.words)
                pending.extend(self.words[start : start + burst["length"]])
                self.bursts.append((burst["memory"], burst["length"]))
            # What has been asked for and not handed on fits the buffer.
            asked = sum(length for _, length in self.bursts)
            assert asked - sum(map(len, self.found.values())) <= dut.BUFFER

    def queue(self, unit):
        stream = self.dut.o[unit]

        async def bench(ctx):
            while True:
                ready = self.rng.random() >= self.stalls[unit]
                ctx.set(stream.ready, ready)
                _, _, valid, word = await ctx.tick().sample(stream.valid, stream.payload)
                if valid and ready:
                    self.found[unit].append(word)

        return bench

    async def faults(self, ctx):
        while True:
            _, _, illegal = await ctx.tick().sample(self.dut.illegal)
            assert illegal or not self.illegal
            self.illegal = illegal

    @property
    def benches(self):
        return [*(self.queue(unit) for unit in Unit), self.memory, self.faults]

    async def start(self, ctx):
        ctx.set(self.dut.program, self.address)
        ctx.set(self.dut.count, len(self.opcodes))
        ctx.set(self.dut.start, 1)
        assert not ctx.get(self.dut.idle)
        await ctx.tick()
        ctx.set(self.dut.start, 0)
        ctx.set(self.dut.program, 0)
        ctx.set(self.dut.count, 0)

    async def run(self, ctx):
        await self.start(ctx)
        while not ctx.get(self.dut.idle):
            await ctx.tick()
        await ctx.tick()


@pytest.mark.parametrize("gap", [0.0, 0.6])
@pytest.mark.parametrize("stalls", [(0, 0, 0), (0.5, 0.9, 0.2)], ids=["ready", "stalls"])
@pytest.mark.parametrize(("bus_bits", "burst_beats"), [(32, 4), (32, 64), (64, 8), (128, 4), (128, 256)])
@pytest.mark.parametrize("count", [1, 2, 23])
def test_routing(count, bus_bits, burst_beats, stalls, gap, rng, simulate):
    dut = FetchUnit(config(bus_bits, burst_beats))
    program = Program(dut, count, rng, gap, stalls)
    simulate(dut, program.run, background=program.benches)
    assert program.found == program.expected
    assert not program.illegal
    # Each word was asked for once, in order, in bursts that the bus takes.
    longest = min(dut.BURST, burst_beats)
    position = program.address
    for address, length in program.bursts:
        assert address == position
        assert address // longest == (address + length - 1) // longest
        position += length
    assert position == program.address + len(program.words)


def test_long_program(rng, simulate):
    """More instructions than eight bits count."""
    dut = FetchUnit(config(128, 64))
    program = Program(dut, 300, rng, address=0)
    simulate(dut, program.run, background=program.benches)
    assert program.found == program.expected


def test_empty_program_and_then_another(rng, simulate):
    dut = FetchUnit(config(64, 16))
    empty, program = Program(dut, 0, rng), Program(dut, 5, rng)

    async def drive(ctx):
        assert ctx.get(dut.idle)
        await empty.run(ctx)
        assert ctx.get(dut.idle)
        assert not program.bursts
        await program.run(ctx)

    simulate(dut, drive, background=program.benches)
    assert program.found == program.expected


@pytest.mark.parametrize(("bus_bits", "burst_beats"), [(32, 4), (64, 64), (128, 8)])
def test_asks_for_no_more_than_its_buffer_holds(bus_bits, burst_beats, rng, simulate):
    dut = FetchUnit(config(bus_bits, burst_beats))
    program = Program(dut, 80, rng, stalls=(1, 1, 1), address=3)

    async def drive(ctx):
        await program.start(ctx)
        await ctx.tick().repeat(300)
        asked = sum(length for _, length in program.bursts)
        # Less than a burst's room is left.
        assert dut.BUFFER - min(dut.BURST, burst_beats) < asked <= dut.BUFFER
        assert not ctx.get(dut.idle)
        # When there is room again, the rest follows.
        program.stalls = (0, 0, 0)
        while not ctx.get(dut.idle):
            await ctx.tick()

    simulate(dut, drive, background=program.benches)
    assert program.found == program.expected


@pytest.mark.parametrize(
    ("opcode", "combine"),
    [*((opcode, ("sum",)) for opcode in range(16) if opcode not in set(Opcode)), (Opcode.WINDOW, ())],
)
def test_illegal_opcode(opcode, combine, rng, simulate):
    """What comes before it is handed on, and nothing after. No windows in an engine that combines nothing."""
    dut = FetchUnit(config(64, 16, combine=combine))
    program = Program(dut, 12, rng)
    at = rng.randrange(12)
    program.set_opcode(at, opcode)

    async def drive(ctx):
        await program.start(ctx)
        await ctx.tick().repeat(120)
        assert ctx.get(dut.illegal)
        assert not ctx.get(dut.idle)

    simulate(dut, drive, background=program.benches)
    program.opcodes = program.opcodes[:at]
    assert program.found == program.expected


def test_later_words_are_no_opcodes(rng, simulate):
    """Only an instruction's first word says what it is."""
    dut = FetchUnit(config(32, 16))
    program = Program(dut, 6, rng)
    for index in range(len(program.words)):
        if index % program.beats:
            program.words[index] &= ~15
    simulate(dut, program.run, background=program.benches)
    assert program.found == program.expected


@pytest.mark.parametrize(
    ("bus_bits", "opcode"), [(32, Opcode.COMPUTE), (64, Opcode.STORE), *((128, opcode) for opcode in Opcode)]
)
def test_every_bit_that_must_be_zero(bus_bits, opcode, rng, simulate):
    """Each in an instruction of its own; the others of the same program are legal."""
    dut = FetchUnit(config(bus_bits, 16))
    kept = kept_bits(dut.config, opcode)
    reserved = [bit for bit in range(256) if not kept >> bit & 1]
    program = Program(dut, 2 * len(reserved), rng)
    for index, bit in enumerate(reserved):
        pattern = rng.getrandbits(256) & kept & ~15 | opcode | 1 << bit
        program.opcodes[2 * index] = opcode
        for word in range(program.beats):
            part = pattern >> word * bus_bits & (1 << bus_bits) - 1
            program.words[2 * index * program.beats + word] = part
    seen = 0

    async def count(ctx):
        nonlocal seen
        while True:
            _, _, illegal = await ctx.tick().sample(dut.illegal)
            seen += illegal

    simulate(dut, program.run, background=[*program.benches[:-1], count])
    assert seen == len(reserved)
