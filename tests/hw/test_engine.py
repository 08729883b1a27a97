"""A tiny engine with a memory and a host: whole programs, every fault, and what comes after one."""

from math import log2

import numpy as np
import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.engine import Engine
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.quant.arithmetic import requantise
from bitwright.hw.quant.requantise import encode_channel
from bitwright.hw.sched.isa import Buffer, Instruction, Opcode
from bitwright.hw.sched.registers import COUNTER_BASE, COUNTERS, ID_VALUE, REGISTERS, Fault

TINY = EngineConfig(
    cols=2,
    lanes=4,
    bus_bits=32,
    burst_beats=4,
    activation_depth=32,
    patch_depth=16,
    weight_depth=32,
    channel_depth=16,
    output_depth=32,
    queue_depth=2,
)

MARGIN = 0x1000
"""Bytes on either side of the window that are not the engine's."""
BASE = 0x4_0000
SIZE = 0x3000
LOAD, COMPUTE, STORE = 1, 2, 4  # bits of `wait` and `post`
OFFSETS = {register.name: register.offset for register in REGISTERS} | {
    "counter_" + name: COUNTER_BASE + 4 * index for index, (name, _) in enumerate(COUNTERS)
}


class Work:
    """A matrix product in tiles, its program, and where everything lies in the window."""

    PROGRAM = 0x0000
    ACTIVATIONS = 0x0800
    WEIGHTS = 0x1000
    CHANNELS = 0x1800
    OUTPUT = 0x2000
    SNAPSHOT = 0x2F00

    def __init__(self, config, rng, *, tiles=3, groups=2, steps=3, col_groups=2):
        self.config = config
        self.columns = config.cols * col_groups
        rows = tiles * groups * config.rows
        numbers = np.random.default_rng(rng.getrandbits(32))
        ((a, w),) = config.formats
        reduction = steps * config.lanes
        self.x = numbers.integers(a.min, a.max + 1, (rows, reduction))
        self.w = numbers.integers(w.min, w.max + 1, (reduction, self.columns))
        # About half of the outputs' range is used.
        spread = reduction**0.5 * a.min * w.min / 3
        shift = round(log2(-a.min / 2 / spread))
        self.channels = [
            {
                "bias": rng.randint(-int(spread), int(spread)),
                "multiplier": rng.randint(2**30, 2**31 - 1),
                "shift": shift,
                "rounding": rng.choice(["tflite", "half_even"]),
                "zero_point": rng.randint(a.min // 4, a.max // 4),
                "low": a.min,
                "high": a.max,
            }
            for _ in range(self.columns)
        ]
        pads = geometries(config)
        bus_bits, bus_bytes = config.bus_bits, config.bus_bytes

        # Activations: a row takes whole scratchpad rows.
        pad = pads[Buffer.ACTIVATIONS]
        scratch_row = -(-steps // pad.ratio)
        row_words = scratch_row * pad.banks
        padded = np.zeros((rows, row_words * bus_bits // a.bits), int)
        padded[:, :reduction] = self.x
        activations = a.pack(padded).tobytes()
        stride = scratch_row * pad.ratio

        # Weights: group by group, step by step, column by column
        pad = pads[Buffer.WEIGHTS]
        words = self.w.reshape(steps, config.lanes, col_groups, config.cols).transpose(2, 0, 3, 1)
        words = words.reshape(col_groups * steps, -1)
        words = np.pad(words, ((0, -len(words) % pad.ratio), (0, 0)))
        codes = w.pack(words.reshape(len(words) // pad.ratio, -1))
        codes = np.pad(codes, ((0, 0), (0, pad.banks * bus_bytes - codes.shape[1])))
        weights = codes.tobytes()

        # Parameters of as many channels as there are requantisers side by side
        pad = pads[Buffer.CHANNELS]
        parameters = b""
        for first in range(0, self.columns, config.requantisers):
            word = sum(
                encode_channel(**self.channels[first + index]) << 96 * index
                for index in range(config.requantisers)
            )
            parameters += word.to_bytes(pad.banks * bus_bytes, "little")

        # Outputs: rows of whole bus words, one bus word apart in memory
        self.storage = config.storages[a]
        per_row = config.granule(self.storage, self.columns)
        out_words = -(-per_row // config.granules_per_word)
        out_row = out_words * config.granules_per_word
        self.out_words = out_words
        self.out_stride = out_words + 1
        tile_rows = groups * config.rows
        tile_words = tile_rows * out_words

        def word_of(address):
            return address // bus_bytes

        def load(buffer, address, data, **fields):
            beats = len(data) // bus_bytes
            return Instruction(
                Opcode.LOAD,
                {"buffer": buffer, "memory": word_of(address), "beats": beats, "row_beats": beats, **fields},
            )

        self.instructions = [
            load(Buffer.WEIGHTS, self.WEIGHTS, weights),
            load(Buffer.CHANNELS, self.CHANNELS, parameters),
        ]
        # A matrix product's pixels are its rows, in one line, and have one tap.
        self.instructions.append(
            Instruction(
                Opcode.GEOMETRY,
                {
                    **dict.fromkeys(("taps_inner", "taps_outer", "limit_inner", "limit_outer"), 1),
                    "words": steps,
                    "pixels_inner": groups * config.rows,
                    "pixel_inner": stride,
                },
            )
        )
        # Two tiles are under way at a time, in one half of each scratchpad.
        for tile in range(tiles):
            half = tile % 2
            size = len(activations) // tiles
            data = activations[tile * size : (tile + 1) * size]
            scratch = half * groups * config.rows * scratch_row
            output = half * tile_words
            later = tile >= 2
            self.instructions += [
                load(
                    Buffer.ACTIVATIONS,
                    self.ACTIVATIONS + tile * size,
                    data,
                    scratch=scratch,
                    wait=COMPUTE * later,
                    post=COMPUTE,
                ),
                Instruction(
                    Opcode.COMPUTE,
                    {
                        "wait": LOAD + STORE * later,
                        "post": LOAD + STORE,
                        "drain": 1,
                        "steps": steps,
                        "row_groups": groups,
                        "col_groups": col_groups,
                        "activations": scratch * pads[Buffer.ACTIVATIONS].ratio,
                        "output": output * config.granules_per_word,
                        "output_row": out_row,
                        "output_group": out_row * config.rows,
                    },
                ),
                Instruction(
                    Opcode.STORE,
                    {
                        "wait": COMPUTE,
                        "post": COMPUTE,
                        "memory": word_of(self.OUTPUT) + tile * tile_rows * self.out_stride,
                        "beats": tile_words,
                        "row_beats": out_words,
                        "stride": self.out_stride,
                        "scratch": output,
                    },
                ),
            ]
        snapshot_words = 512 // bus_bits
        self.instructions.append(
            Instruction(
                Opcode.SNAPSHOT,
                {
                    "memory": word_of(self.SNAPSHOT),
                    "beats": snapshot_words,
                    "row_beats": snapshot_words,
                },
            )
        )
        self.data = {
            self.ACTIVATIONS: activations,
            self.WEIGHTS: weights,
            self.CHANNELS: parameters,
        }
        # What the counters must come to
        self.counts = {
            "fetch_beats": len(self.instructions) * config.instruction_beats,
            "load_beats": sum(map(len, self.data.values())) // bus_bytes,
            "compute_beats": tiles * groups * col_groups * steps,
            "results": rows * per_row,
            "store_beats": tiles * tile_words + snapshot_words,
        }

    def replace(self, index, **fields):
        """Another value of some fields of one instruction; negative indices count from the end."""
        old = self.instructions[index]
        self.instructions[index] = Instruction(old.opcode, {**old.fields, **fields})

    def put(self, memory):
        """Program and data into the window; nothing where the output goes."""
        window = memory.contents
        program = b"".join(instruction.encode() for instruction in self.instructions)
        for address, data in ({self.PROGRAM: program} | self.data).items():
            place = MARGIN + address
            window[place : place + len(data)] = data
        window[MARGIN + self.OUTPUT : MARGIN + self.SNAPSHOT + 64] = bytes(self.SNAPSHOT + 64 - self.OUTPUT)

    def check(self, memory):
        """Every output is right, and what lies between the rows has been left alone."""
        c = self.config
        acc = self.x @ self.w
        expected = np.empty_like(acc)
        for column, channel in enumerate(self.channels):
            scaled = requantise(
                acc[:, column] + channel["bias"], channel["multiplier"], channel["shift"], channel["rounding"]
            )
            expected[:, column] = np.clip(scaled + channel["zero_point"], channel["low"], channel["high"])
        rows = len(acc)
        size = rows * self.out_stride * c.bus_bytes
        data = np.frombuffer(memory.contents, np.uint8)[MARGIN + self.OUTPUT :][:size]
        data = data.reshape(rows, self.out_stride * c.bus_bytes)
        found = self.storage.decode(np.unpackbits(data, axis=-1, bitorder="little"), self.columns)
        np.testing.assert_array_equal(found, expected)
        assert not data[:, self.out_words * c.bus_bytes :].any()
        # The test would tell little if they were all the same.
        assert len(np.unique(expected)) > 3

    def snapshot(self, memory):
        """The counters that the program has left in memory, by name."""
        data = bytes(memory.contents[MARGIN + self.SNAPSHOT :][:64])
        return {
            name: int.from_bytes(data[4 * i : 4 * i + 4], "little") for i, (name, _) in enumerate(COUNTERS)
        }


class Host:
    """The other side of the register port."""

    def __init__(self, dut):
        self.dut = dut

    async def write(self, ctx, name, value, strobes=15):
        dut = self.dut
        ctx.set(dut.s_axil_awaddr, OFFSETS[name])
        ctx.set(dut.s_axil_wdata, value)
        ctx.set(dut.s_axil_wstrb, strobes)
        ctx.set(dut.s_axil_awvalid, 1)
        ctx.set(dut.s_axil_wvalid, 1)
        await ctx.tick()
        ctx.set(dut.s_axil_awvalid, 0)
        ctx.set(dut.s_axil_wvalid, 0)
        ctx.set(dut.s_axil_bready, 1)
        await ctx.tick().until(dut.s_axil_bvalid)
        ctx.set(dut.s_axil_bready, 0)

    async def read(self, ctx, name):
        dut = self.dut
        ctx.set(dut.s_axil_araddr, name if isinstance(name, int) else OFFSETS[name])
        ctx.set(dut.s_axil_arvalid, 1)
        await ctx.tick()
        ctx.set(dut.s_axil_arvalid, 0)
        ctx.set(dut.s_axil_rready, 1)
        (value,) = await ctx.tick().sample(dut.s_axil_rdata).until(dut.s_axil_rvalid)
        ctx.set(dut.s_axil_rready, 0)
        return value

    async def status(self, ctx):
        """Busy, done, fault, code."""
        status = await self.read(ctx, "status")
        assert status & ~0xFF07 == 0
        return status & 1, status >> 1 & 1, status >> 2 & 1, Fault(status >> 8)

    async def counters(self, ctx):
        return {name: await self.read(ctx, "counter_" + name) for name, _ in COUNTERS}

    async def grant(self, ctx, work, *, base=BASE, size=SIZE, watchdog=2000):
        await self.write(ctx, "memory_base", base)
        await self.write(ctx, "memory_size", size)
        await self.write(ctx, "program", work.PROGRAM)
        await self.write(ctx, "instructions", len(work.instructions))
        await self.write(ctx, "watchdog", watchdog)
        await self.write(ctx, "irq_enable", 1)

    async def start(self, ctx):
        await self.write(ctx, "control", 1)

    async def wait(self, ctx):
        """Until the interrupt, and until nothing is under way."""
        while not ctx.get(self.dut.irq):
            await ctx.tick()
        while (await self.status(ctx))[0]:
            pass
        return (await self.status(ctx))[1:]


DONE = (1, 0, Fault.NONE)


@pytest.fixture(scope="module")
def engines(bed):
    """Engines and their simulations, by configuration: most of a test's time is elaboration."""
    made = {}

    def make(config):
        if config not in made:
            dut = Engine(config)
            made[config] = dut, bed(dut)
        return made[config]

    return make


@pytest.fixture
def engine(rng, engines, axi_memory):
    """``engine(config, stall)``: engine, its memory, its host, and ``run(bench)``."""

    def make(config=TINY, stall=0.2):
        dut, bed = engines(config)
        margins = rng.randbytes(2 * MARGIN)
        contents = bytearray(margins[:MARGIN] + rng.randbytes(SIZE) + margins[MARGIN:])
        memory = axi_memory(
            dut,
            "m_axi_",
            contents,
            bus_bits=config.bus_bits,
            burst_beats=config.burst_beats,
            rng=rng,
            base=BASE - MARGIN,
            stall=stall,
        )

        def run(*benches):
            bed.run(*benches, background=[memory.run])
            # Nothing outside the window has been read or written, ever.
            for address, beats in memory.reads + memory.writes:
                assert address >= BASE
                assert address + beats * config.bus_bytes <= BASE + SIZE
            assert contents[:MARGIN] + contents[-MARGIN:] == margins

        return dut, memory, Host(dut), run

    return make


# Programs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rows": 2, "requantise_cycles": 4, "multiplier": "lut"},
        {"rows": 2, "requantisers": 2, "cols": 4, "bus_bits": 64, "burst_beats": 16},
        # Words narrower than the bus, of activations and of weights
        {"lanes": 2, "bus_bits": 128, "precisions": ("a8w4",), "cols": 4},
        {"lanes": 8, "precisions": ("a4w2",), "cols": 3, "rows": 3, "activation_depth": 64},
        {"cols": 1, "lanes": 4, "activation_depth": 16},
    ],
    ids=str,
)
def test_program(changes, rng, engine):
    config = TINY.replace(**changes)
    _, memory, host, run = engine(config)
    work = Work(config, rng, col_groups=3)
    work.put(memory)

    async def drive(ctx):
        assert await host.status(ctx) == (0, 0, 0, Fault.NONE)
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.status(ctx) == (1, 0, 0, Fault.NONE)
        assert await host.wait(ctx) == DONE
        assert memory.quiet
        work.check(memory)
        counters = await host.counters(ctx)
        assert counters | work.counts == counters
        assert counters["cycles"] > work.counts["compute_beats"]
        # They stand still when nothing runs.
        assert await host.counters(ctx) == counters
        # The snapshot was taken just before the end, and before its own words were written.
        snapshot = work.snapshot(memory)
        assert all(snapshot[name] <= counters[name] for name in counters)
        assert snapshot["store_beats"] == work.counts["store_beats"] - 512 // config.bus_bits
        for name in ("fetch_beats", "load_beats", "compute_beats", "results"):
            assert snapshot[name] == work.counts[name]

    run(drive)


def test_two_runs(rng, engine):
    """The second with other data, another program and no reset between them."""
    dut, memory, host, run = engine()
    works = [Work(TINY, rng), Work(TINY, rng, tiles=2, groups=3, steps=2, col_groups=2)]

    async def drive(ctx):
        for work in works:
            work.put(memory)
            await host.grant(ctx, work)
            await host.start(ctx)
            assert not ctx.get(dut.irq)
            assert await host.wait(ctx) == DONE
            work.check(memory)
            counters = await host.counters(ctx)
            assert counters | work.counts == counters

    run(drive)


def test_load_after_store(rng, engine):
    """A token of the store unit means that the memory has what was stored."""
    _, memory, host, run = engine()
    memory.patience = 50
    work = Work(TINY, rng)
    back = {"memory": 0x800, "beats": 8, "row_beats": 8}
    work.instructions = [
        Instruction(Opcode.STORE, {**back, "post": LOAD}),
        Instruction(Opcode.LOAD, {**back, "wait": STORE}),
    ]
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE

    run(drive)
    first, second = BASE + 0x2000, BASE + 0x2010
    assert [event for event in memory.log if event[1] is None or event[1] >= first] in [
        [("write", first), *middle, ("read", first), ("read", second)]
        for middle in (
            [("write", second), ("done", None), ("done", None)],
            [("done", None), ("write", second), ("done", None)],
        )
    ]


def test_program_anywhere_in_the_window(rng, engine):
    """The base's low bits count for nothing; the program's address is relative to it."""
    _, memory, host, run = engine(stall=0)
    work = Work(TINY, rng, tiles=1)
    work.PROGRAM = 0x0404
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work, base=BASE + 0xFFC)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)


def test_no_instructions(rng, engine):
    _, memory, host, run = engine()

    async def drive(ctx):
        await host.write(ctx, "irq_enable", 1)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE

    run(drive)
    assert not memory.reads


# Registers


@pytest.mark.parametrize("address_bits", [32, 20])
def test_registers_read_back(address_bits, rng, engine):
    """Each as wide as it needs to be; the bits above read zero."""
    dut, _, host, run = engine(TINY.replace(address_bits=address_bits))
    widths = {
        "memory_base": 32,  # whose low 12 bits are not kept either
        "memory_size": min(32, address_bits + 1),
        "program": address_bits,
        "instructions": 20,
        "watchdog": 32,
        "irq_enable": 1,
    }

    async def drive(ctx):
        assert await host.read(ctx, "id") == ID_VALUE
        assert await host.read(ctx, "control") == 0
        values = {}
        for name, width in widths.items():
            assert await host.read(ctx, name) == 0
            value = rng.getrandbits(32)
            await host.write(ctx, name, value)
            values[name] = value & (1 << width) - 1
        values["memory_base"] &= ~0xFFF
        for name in widths:
            assert await host.read(ctx, name) == values[name]
        # Bytes on their own
        for strobes in (0, 1, 6, 8, 15):
            value = rng.getrandbits(32)
            await host.write(ctx, "program", value, strobes)
            mask = sum(255 << 8 * byte for byte in range(4) if strobes >> byte & 1)
            values["program"] = (values["program"] & ~mask | value & mask) & (1 << address_bits) - 1
            assert await host.read(ctx, "program") == values["program"]
        await host.write(ctx, "memory_base", 0xFFFFFFFF, strobes=2)
        assert await host.read(ctx, "memory_base") == values["memory_base"] | 0xF000
        # What is not there, and what cannot be written
        assert await host.read(ctx, 0x24) == 0
        assert await host.read(ctx, 0x3C) == 0
        for name in ("id", "status"):
            await host.write(ctx, name, 0xFFFFFFFF)
        assert await host.read(ctx, "id") == ID_VALUE
        assert await host.status(ctx) == (0, 0, 0, Fault.NONE)
        # Only bit 0 of its own byte starts.
        await host.write(ctx, "control", 0xFFFFFFFE)
        await host.write(ctx, "control", 1, strobes=14)
        assert await host.status(ctx) == (0, 0, 0, Fault.NONE)
        assert not ctx.get(dut.irq)

    run(drive)


def test_writes_are_ignored_while_busy(rng, engine):
    _, memory, host, run = engine(stall=0.8)
    work = Work(TINY, rng)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        for name in ("memory_base", "memory_size", "program", "instructions", "watchdog", "irq_enable"):
            before = await host.read(ctx, name)
            await host.write(ctx, name, 0)
            assert await host.read(ctx, name) == before
        await host.start(ctx)
        assert (await host.status(ctx))[0]
        assert await host.wait(ctx) == DONE
        work.check(memory)
        counters = await host.counters(ctx)
        assert counters | work.counts == counters
        # And taken again now.
        await host.write(ctx, "program", 0x40)
        assert await host.read(ctx, "program") == 0x40

    run(drive)


def test_interrupt_only_if_enabled(rng, engine):
    dut, memory, host, run = engine(stall=0)
    work = Work(TINY, rng, tiles=1)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.write(ctx, "irq_enable", 0)
        await host.start(ctx)
        while (await host.status(ctx))[0]:
            assert not ctx.get(dut.irq)
        assert await host.status(ctx) == (0, *DONE)
        assert not ctx.get(dut.irq)
        await host.write(ctx, "irq_enable", 1)
        assert ctx.get(dut.irq)

    run(drive)


# Faults


def outside(work, index):
    """An instruction whose transfer leaves the window by one word."""
    i = work.instructions[index]
    rows, rest = divmod(i["beats"] - 1, i["row_beats"])
    last = rows * i["stride"] + rest
    work.replace(index, memory=SIZE // work.config.bus_bytes - last)


class Spoiled:
    """Ways to make a program fail. Each changes program or memory and tells the fault."""

    @staticmethod
    def opcode(work, memory):
        work.instructions[4] = type("Junk", (), {"encode": lambda self: bytes(32)})()
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def load_field(work, memory):
        work.replace(0, beats=0)
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def compute_field(work, memory):
        work.replace(4, steps=0)
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def geometry_bit(work, memory):
        # More words than the scratchpad has
        work.replace(2, words=2**10)
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def words_that_never_come(work, memory):
        work.replace(2, words=2)
        return Fault.WATCHDOG

    @staticmethod
    def taps_that_never_end(work, memory):
        # No tap at all is 256 of them; but there is no room for more than the patch buffer holds.
        work.replace(2, taps_inner=0, taps_outer=0)
        return Fault.WATCHDOG

    @staticmethod
    def store_field(work, memory):
        work.replace(5, row_beats=0)
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def load_outside(work, memory):
        outside(work, 3)
        return Fault.ADDRESS

    @staticmethod
    def load_far_outside(work, memory):
        work.replace(0, memory=2**29)
        return Fault.ADDRESS

    @staticmethod
    def reserved_bit(work, memory):
        work.replace(5, memory=2**31)
        return Fault.ILLEGAL_INSTRUCTION

    @staticmethod
    def load_stride_outside(work, memory):
        # Backwards over the window's first word
        work.replace(3, row_beats=1, stride=2**work.config.word_address_bits - 1, memory=0)
        return Fault.ADDRESS

    @staticmethod
    def store_outside(work, memory):
        outside(work, 5)
        return Fault.ADDRESS

    @staticmethod
    def snapshot_outside(work, memory):
        outside(work, -1)
        return Fault.ADDRESS

    @staticmethod
    def read_of_program(work, memory):
        memory.bad_read.add(BASE + work.PROGRAM + 0x24)
        return Fault.READ_ERROR

    @staticmethod
    def read_of_data(work, memory):
        memory.bad_read.add(BASE + work.ACTIVATIONS)
        return Fault.READ_ERROR

    @staticmethod
    def write(work, memory):
        memory.bad_write.add(BASE + work.OUTPUT)
        return Fault.WRITE_ERROR

    @staticmethod
    def last_write(work, memory):
        memory.bad_write.add(BASE + work.SNAPSHOT + 60)
        return Fault.WRITE_ERROR

    @staticmethod
    def token_that_never_comes(work, memory):
        work.replace(4, wait=LOAD + STORE)
        return Fault.WATCHDOG


WAYS = [name for name in vars(Spoiled) if not name.startswith("_")]


@pytest.mark.parametrize("way", WAYS)
def test_fault_and_another_run(way, rng, engine):
    dut, memory, host, run = engine()
    bad, good = Work(TINY, rng), Work(TINY, rng)

    async def drive(ctx):
        code = getattr(Spoiled, way)(bad, memory)
        bad.put(memory)
        await host.grant(ctx, bad, watchdog=150)
        await host.start(ctx)
        assert await host.wait(ctx) == (0, 1, code)
        # No more goes out, and the fault stays.
        assert memory.quiet
        sent = len(memory.reads), len(memory.writes)
        await ctx.tick().repeat(60)
        assert (len(memory.reads), len(memory.writes)) == sent
        assert await host.status(ctx) == (0, 0, 1, code)
        assert ctx.get(dut.irq)

        memory.bad_read.clear()
        memory.bad_write.clear()
        good.put(memory)
        await host.grant(ctx, good)
        await host.start(ctx)
        assert not ctx.get(dut.irq)
        assert await host.wait(ctx) == DONE
        good.check(memory)
        counters = await host.counters(ctx)
        assert counters | good.counts == counters
        snapshot = good.snapshot(memory)
        assert snapshot["fetch_beats"] == good.counts["fetch_beats"]
        assert all(snapshot[name] <= counters[name] for name in counters)

    run(drive)


def test_fault_just_before_a_store_begins(rng, engine):
    """A fault in one unit, in every cycle around that in which another asks for its first burst."""
    _, memory, host, run = engine(stall=0)
    good, bad = Work(TINY, rng), Work(TINY, rng)
    load = {"beats": 1, "row_beats": 1}
    compute = {"row_groups": 1, "col_groups": 1, "drain": 1}
    geometry = {**good.instructions[2].fields, "pixels_inner": 1}
    assert good.instructions[2].opcode is Opcode.GEOMETRY

    async def drive(ctx):
        stored = set()
        for steps in range(1, 17):
            bad.instructions = [
                Instruction(Opcode.LOAD, {**load, "wait": COMPUTE}),
                Instruction(Opcode.GEOMETRY, {**geometry, "words": 1}),
                Instruction(Opcode.COMPUTE, {**compute, "steps": 1, "post": LOAD}),
                Instruction(Opcode.GEOMETRY, {**geometry, "words": steps}),
                Instruction(Opcode.COMPUTE, {**compute, "steps": steps, "post": STORE}),
                Instruction(Opcode.STORE, {"memory": 0x800, "beats": 4, "row_beats": 4, "wait": COMPUTE}),
                Instruction(Opcode.LOAD, load),
                Instruction(Opcode.LOAD, load),
                Instruction(Opcode.LOAD, {**load, "beats": 0}),
            ]
            bad.put(memory)
            await host.grant(ctx, bad)
            memory.writes.clear()
            await host.start(ctx)
            assert await host.wait(ctx) == (0, 1, Fault.ILLEGAL_INSTRUCTION)
            sent = len(memory.writes)
            stored.add(sent)
            for _ in range(20):
                await ctx.tick()
            assert memory.quiet
            assert len(memory.writes) == sent
        # Both sides of it have been tried.
        assert stored == {0, 1}
        good.put(memory)
        await host.grant(ctx, good)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        good.check(memory)

    run(drive)


def test_program_outside(rng, engine):
    """The last instruction's last word is the first beyond the window."""
    _, memory, host, run = engine(stall=0)
    work = Work(TINY, rng)
    program = Instruction(Opcode.LOAD, {"beats": 1, "row_beats": 1}).encode() * 3
    start = SIZE - len(program) + 4
    memory.contents[MARGIN + start : MARGIN + SIZE] = program[:-4]
    work.PROGRAM = start
    work.instructions = work.instructions[:3]

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.wait(ctx) == (0, 1, Fault.ADDRESS)

    run(drive)
    assert max(address + 4 * beats for address, beats in memory.reads) <= BASE + SIZE
    assert not memory.writes


@pytest.mark.parametrize("size", [0, 3, 0x800, SIZE - 1])
def test_smaller_window(size, rng, engine):
    """The window is what the host said, whatever the program wants; a part of a word is none."""
    _, memory, host, run = engine()
    work = Work(TINY, rng)
    # The last word is wanted, so even one byte less is a fault.
    outside(work, -1)
    work.replace(-1, memory=work.instructions[-1]["memory"] - 1)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work, size=size)
        await host.start(ctx)
        assert await host.wait(ctx) == (0, 1, Fault.ADDRESS)

    run(drive)
    for address, beats in memory.reads + memory.writes:
        assert address + 4 * beats <= BASE + size


def test_window_to_its_very_end(rng, engine):
    _, memory, host, run = engine()
    work = Work(TINY, rng)
    outside(work, -1)
    work.replace(-1, memory=work.instructions[-1]["memory"] - 1)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)
    assert max(address + 4 * beats for address, beats in memory.writes) == BASE + SIZE


@pytest.mark.parametrize("moment", [0, 60, 140, 200])
def test_watchdog(moment, rng, engine):
    """A memory that falls silent. What is under way has to be ended, so the engine stays busy until then."""
    dut, memory, host, run = engine()
    work = Work(TINY, rng, tiles=4)
    work.put(memory)

    async def drive(ctx):
        # A snapshot takes some fifty cycles before its first word.
        await host.grant(ctx, work, watchdog=80)
        await host.start(ctx)
        for _ in range(moment):
            await ctx.tick()
        memory.deaf = True
        cycles = 0
        while not ctx.get(dut.irq):
            await ctx.tick()
            cycles += 1
        # What is still being computed or fed from the queues also counts as progress.
        assert 70 <= cycles <= 280
        await ctx.tick().repeat(100)
        assert await host.status(ctx) == (1, 0, 1, Fault.WATCHDOG)
        # A start is ignored as long as it is busy.
        await host.start(ctx)
        assert await host.status(ctx) == (1, 0, 1, Fault.WATCHDOG)
        memory.deaf = False
        assert await host.wait(ctx) == (0, 1, Fault.WATCHDOG)
        assert memory.quiet
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)


@pytest.mark.parametrize(("pace", "end"), [(40, DONE), (41, (0, 1, Fault.WATCHDOG))])
def test_watchdog_to_the_cycle(pace, end, rng, engine):
    """Forty cycles without progress are a fault, thirty-nine are not."""
    _, memory, host, run = engine(stall=0)
    work = Work(TINY, rng)
    work.instructions = [Instruction(Opcode.LOAD, {"beats": 1, "row_beats": 1})]
    work.put(memory)
    memory.pace = pace

    async def drive(ctx):
        await host.grant(ctx, work, watchdog=40)
        await host.start(ctx)
        assert await host.wait(ctx) == end

    run(drive)


def test_no_watchdog(rng, engine):
    """Zero is never."""
    _, memory, host, run = engine(stall=0)
    work = Work(TINY, rng, tiles=1)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work, watchdog=0)
        memory.deaf = True
        await host.start(ctx)
        await ctx.tick().repeat(500)
        assert await host.status(ctx) == (1, 0, 0, Fault.NONE)
        memory.deaf = False
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)


def test_token_overflow(rng, engine):
    """The unit's own test counts them; here, one too many."""
    _, memory, host, run = engine(stall=0)
    work = Work(TINY, rng)
    work.data = {}
    giving = Instruction(Opcode.LOAD, {"beats": 1, "row_beats": 1, "post": COMPUTE})
    limit = TINY.token_limit
    work.instructions = [giving] * (limit + 4)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.wait(ctx) == (0, 1, Fault.TOKEN_OVERFLOW)
        assert limit < await host.read(ctx, "counter_load_beats") < limit + 4

    run(drive)


def test_reset_in_the_middle_of_a_run(rng, engine):
    """Nothing of the old run is left, even when the host grants a window before it starts the next."""
    dut, memory, host, run = engine(stall=0)
    work = Work(TINY, rng)
    # Something to be stored when a long computation ends, which is after the reset.
    old = Work(TINY, rng)
    old.instructions = [
        Instruction(Opcode.GEOMETRY, {**old.instructions[2].fields, "words": 30, "pixels_inner": 20}),
        Instruction(
            Opcode.COMPUTE,
            {"steps": 30, "row_groups": 20, "col_groups": 1, "drain": 1, "output_row": 1, "post": STORE},
        ),
        Instruction(
            Opcode.STORE,
            {"memory": 0, "beats": 4, "row_beats": 4, "wait": COMPUTE},
        ),
    ]
    old.put(memory)

    async def drive(ctx):
        await host.grant(ctx, old)
        await host.start(ctx)
        await ctx.tick().repeat(100)
        assert memory.quiet
        ctx.set(dut.rst, 1)
        await ctx.tick()
        ctx.set(dut.rst, 0)
        assert await host.status(ctx) == (0, 0, 0, Fault.NONE)
        assert await host.read(ctx, "memory_size") == 0
        work.put(memory)
        await host.grant(ctx, work)
        await ctx.tick().repeat(650)
        assert not memory.writes
        assert await host.status(ctx) == (0, 0, 0, Fault.NONE)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)


def test_reset_with_bursts_under_way(rng, engine):
    """The bus is reset with the engine."""
    dut, memory, host, run = engine()
    work = Work(TINY, rng)
    work.put(memory)

    async def drive(ctx):
        await host.grant(ctx, work)
        await host.start(ctx)
        await ctx.tick().repeat(rng.randint(20, 150))
        memory.deaf = True
        await ctx.tick().repeat(5)
        ctx.set(dut.rst, 1)
        await ctx.tick()
        await ctx.tick()
        memory.forget()
        ctx.set(dut.rst, 0)
        memory.deaf = False
        work.put(memory)
        await host.grant(ctx, work)
        await host.start(ctx)
        assert await host.wait(ctx) == DONE
        work.check(memory)

    run(drive)
