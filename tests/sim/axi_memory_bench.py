"""Run by cocotb inside the simulator, on `axi_memory` alone: what test_axi_memory.py asks for."""

import json
import logging
import os
import random
import warnings

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from cocotbext.axi import AxiBus, AxiMaster, AxiResp

OPTIONS = json.loads(os.environ["BENCH"])
BYTES = OPTIONS["bus_bits"] // 8
SIZE = BYTES.bit_length() - 1
BASE = OPTIONS["base"]
WORDS = OPTIONS["words"]
LATENCY = OPTIONS["latency"]

logging.getLogger("cocotb.axi_memory").setLevel(logging.WARNING)

COUNTERS = ("read_beats", "write_beats", "out_of_range", "violations", "hazards")


class Counts:
    """Changes of the counters since the last look."""

    def __init__(self, dut):
        self.dut = dut
        self.before = {}
        self.look()

    def look(self):
        now = {name: int(getattr(self.dut, name).value) for name in COUNTERS}
        change = {name: value - self.before.get(name, 0) for name, value in now.items()}
        self.before = now
        return change


async def start(dut):
    """Clock, reset, everything idle."""
    for name in ("awvalid", "wvalid", "bready", "arvalid", "rready", "backdoor_load", "backdoor_store"):
        getattr(dut, name).value = 0
    for channel in ("aw", "ar"):
        for name, value in {"id": 0, "addr": BASE, "len": 0, "size": SIZE, "burst": 1}.items():
            getattr(dut, channel + name).value = value
    dut.wdata.value = 0
    dut.wstrb.value = (1 << BYTES) - 1
    dut.wlast.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, "ns").start(start_high=False)
    for _ in range(4):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)
    return Counts(dut)


class Monitor:
    """Cycle numbers of all handshakes. After the falling edge all is as the next rising edge will see it."""

    def __init__(self, dut):
        self.dut = dut
        self.cycle = 0
        self.seen = {channel: [] for channel in ("aw", "w", "b", "ar", "r")}
        cocotb.start_soon(self.watch())

    async def watch(self):
        while True:
            await FallingEdge(self.dut.clk)
            await Timer(2, "ns")
            self.cycle += 1
            for channel, seen in self.seen.items():
                if getattr(self.dut, channel + "valid").value and getattr(self.dut, channel + "ready").value:
                    seen.append(self.cycle)


def master_of(dut):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AxiMaster(AxiBus.from_entity(dut), dut.clk, dut.rst)


def pauses(seed, share):
    generator = random.Random(seed)
    while True:
        yield generator.random() < share


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def master_random(dut):
    """Random reads and writes of all lengths and alignments, checked against a plain copy."""
    counts = await start(dut)
    master = master_of(dut)
    generator = random.Random(OPTIONS["seed"])
    share = OPTIONS["pauses"]
    if share:
        write, read = master.write_if, master.read_if
        channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
        for index, channel in enumerate(channels):
            channel.set_pause_generator(pauses(index, share))
    copy = bytearray(WORDS * BYTES)
    image = OPTIONS["image"]
    copy[: len(image) // 2] = bytes.fromhex(image)
    assert (await master.read(BASE, 64)).data == copy[:64]

    lengths = [1, 2, 3, BYTES, 2 * BYTES, 255 * BYTES, 256 * BYTES, 257 * BYTES]
    lengths += [generator.randrange(1, 40 * BYTES) for _ in range(OPTIONS["count"])]
    bytes_written = 0
    for length in lengths:
        address = generator.randrange(len(copy) - length)
        if generator.random() < 0.5:
            address -= address % BYTES
        data = generator.randbytes(length)
        copy[address : address + length] = data
        answer = await master.write(BASE + address, data)
        assert answer.resp == AxiResp.OKAY
        bytes_written += length
        # The same, and some more to either side
        low, high = max(0, address - 9), min(len(copy), address + length + 9)
        assert (await master.read(BASE + low, high - low)).data == copy[low:high]
    assert (await master.read(BASE, len(copy))).data == copy
    change = counts.look()
    assert change["violations"] == change["out_of_range"] == change["hazards"] == 0
    assert change["write_beats"] * BYTES >= bytes_written
    assert change["read_beats"] * BYTES >= len(copy)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def master_parallel(dut):
    """Several reads and writes at a time, in places apart."""
    await start(dut)
    counts = Counts(dut)
    master = master_of(dut)
    generator = random.Random(OPTIONS["seed"])
    part = 16 * BYTES
    old = [generator.randbytes(part) for _ in range(8)]
    new = [generator.randbytes(part) for _ in range(8)]
    for index, data in enumerate(old):
        await master.write(BASE + index * part, data)
    operations = []
    for index, data in enumerate(new):
        operations.append(cocotb.start_soon(master.write(BASE + (8 + index) * part, data)))
        operations.append(cocotb.start_soon(master.read(BASE + index * part, part)))
    answers = [await operation for operation in operations]
    assert [answer.data for answer in answers[1::2]] == old
    assert (await master.read(BASE + 8 * part, 8 * part)).data == b"".join(new)
    change = counts.look()
    assert change["violations"] == change["hazards"] == 0


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def master_latency(dut):
    """The first beat and the write response come exactly as late as asked, at any burst length."""
    counts = await start(dut)
    monitor = Monitor(dut)
    master = master_of(dut)
    for beats in (1, 2, 7, 64, 256):
        if beats * BYTES > 4096:
            continue
        await master.write(BASE, bytes(beats * BYTES))
        await master.read(BASE, beats * BYTES)
        await FallingEdge(dut.clk)
        seen = monitor.seen
        assert len(seen["aw"]) == len(seen["ar"]) == len(seen["b"]) == 1
        assert len(seen["w"]) == len(seen["r"]) == beats
        assert seen["b"][0] - seen["w"][-1] == OPTIONS["write_latency"], seen
        assert seen["r"][0] - seen["ar"][0] == LATENCY, seen
        assert seen["r"][-1] - seen["r"][0] == beats - 1
        monitor.seen = {channel: [] for channel in seen}
    assert counts.look()["violations"] == 0


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def master_throughput(dut):
    """Bursts in a row lose no cycle between them, and all wait for the latency together."""
    counts = await start(dut)
    monitor = Monitor(dut)
    master = master_of(dut)
    length = 4 * 4096
    await master.write(BASE, bytes(length))
    await master.read(BASE, length)
    await FallingEdge(dut.clk)
    seen = monitor.seen
    assert len(seen["ar"]) == len(seen["aw"]) >= 4
    assert len(seen["r"]) == len(seen["w"]) == length // BYTES
    assert seen["r"][-1] - seen["r"][0] == length // BYTES - 1
    assert seen["w"][-1] - seen["w"][0] == length // BYTES - 1
    assert seen["r"][0] - seen["ar"][0] == LATENCY
    assert seen["ar"][3] < seen["r"][-1] - 256, "later bursts are accepted while the first are answered"
    assert counts.look()["violations"] == 0


async def read_burst(dut, address, beats, burst=1, size=SIZE):
    """Send one read address, by hand."""
    dut.araddr.value = address
    dut.arlen.value = beats - 1
    dut.arburst.value = burst
    dut.arsize.value = size
    dut.arvalid.value = 1
    await taken(dut, "ar")
    dut.arvalid.value = 0


async def write_address(dut, address, beats, burst=1, size=SIZE):
    dut.awaddr.value = address
    dut.awlen.value = beats - 1
    dut.awburst.value = burst
    dut.awsize.value = size
    dut.awvalid.value = 1
    await taken(dut, "aw")
    dut.awvalid.value = 0


async def write_data(dut, *lasts, data=0):
    for last in lasts:
        dut.wdata.value = data
        dut.wlast.value = last
        dut.wvalid.value = 1
        await taken(dut, "w")
    dut.wvalid.value = 0


async def taken(dut, channel):
    """Wait, from one falling edge to another, until a channel has been through a handshake."""
    for _ in range(2000):
        ready = getattr(dut, channel + "ready").value
        await FallingEdge(dut.clk)
        if ready:
            return
    raise TimeoutError(channel)


async def wait(dut, cycles):
    for _ in range(cycles):
        await FallingEdge(dut.clk)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def hand_outstanding(dut):
    """At least 32 read bursts and 32 write bursts wait for their answers."""
    counts = await start(dut)
    dut.rready.value = 0
    for index in range(32):
        await read_burst(dut, BASE + index * 4 * BYTES, 4)
    for index in range(32):
        await write_address(dut, BASE + 4096 + index * BYTES, 1)
    await write_data(dut, *[1] * 32)
    monitor = Monitor(dut)
    await wait(dut, 1)
    dut.rready.value = 1
    dut.bready.value = 1
    await wait(dut, 200)
    assert len(monitor.seen["r"]) == 128
    assert monitor.seen["r"][-1] - monitor.seen["r"][0] == 127
    assert len(monitor.seen["b"]) == 32
    change = counts.look()
    assert change == {"read_beats": 128, "write_beats": 32, "out_of_range": 0, "violations": 0, "hazards": 0}


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def hand_violations(dut):
    """Every breach of the protocol is counted, once."""
    counts = await start(dut)
    dut.rready.value = 1
    dut.bready.value = 1

    def expect(number):
        assert counts.look()["violations"] == number

    # Bursts up to the limit are fine; one word more crosses it
    await read_burst(dut, BASE + 4096 - 4 * BYTES, 4)
    await read_burst(dut, BASE, min(256, 4096 // BYTES))
    await wait(dut, 300 + LATENCY)
    expect(0)
    await read_burst(dut, BASE + 4096 - 4 * BYTES, 5)
    expect(1)
    await write_address(dut, BASE + 4096 - BYTES, 2)
    await write_data(dut, 0, 1)
    await wait(dut, 2 * LATENCY)
    expect(1)

    await read_burst(dut, BASE, 1, burst=0)
    await read_burst(dut, BASE, 1, burst=2)
    expect(2)
    await read_burst(dut, BASE, 1, size=SIZE - 1)
    expect(1)
    await write_address(dut, BASE, 1, burst=0)
    await write_data(dut, 1)
    expect(1)
    await write_address(dut, BASE, 1, size=SIZE - 1)
    await write_data(dut, 1)
    expect(1)
    await wait(dut, 2 * LATENCY)

    # WLAST too early (and then missing), and not at all
    await write_address(dut, BASE, 2)
    await write_data(dut, 1, 0)
    expect(2)
    await write_address(dut, BASE, 1)
    await write_data(dut, 0)
    expect(1)
    await wait(dut, 2 * LATENCY)

    # Data may lead its address, but not for ever
    dut.wvalid.value = 1
    dut.wlast.value = 1
    await wait(dut, 50)
    await write_address(dut, BASE, 1)
    await taken(dut, "w")
    dut.wvalid.value = 0
    await wait(dut, 2 * LATENCY)
    expect(0)
    dut.wvalid.value = 1
    await wait(dut, 200)
    expect(1)
    await write_address(dut, BASE, 1)
    await taken(dut, "w")
    dut.wvalid.value = 0
    await wait(dut, 2 * LATENCY)
    expect(0)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def hand_waiting(dut):
    """What waits for READY stays as it is; run with stalls, so that there is waiting."""
    counts = await start(dut)
    dut.rready.value = 1
    dut.bready.value = 1
    violations = {}

    async def refused(channel):
        """Wait for a cycle in which the channel is not ready: what is offered in it must stay."""
        for _ in range(1000):
            if not getattr(dut, channel + "ready").value:
                return
            await FallingEdge(dut.clk)
        raise TimeoutError(channel)

    for channel, field in (
        ("ar", "addr"),
        ("ar", "len"),
        ("aw", "addr"),
        ("aw", "id"),
        ("w", "data"),
        ("w", "last"),
    ):
        for change in ("drop", "payload", "none"):
            if channel == "w":
                await write_address(dut, BASE, 1)
            await refused(channel)
            getattr(dut, channel + "valid").value = 1
            await FallingEdge(dut.clk)
            before = counts.look()["violations"]
            payload = getattr(dut, channel + field)
            value = int(payload.value)
            if change == "drop":
                getattr(dut, channel + "valid").value = 0
            elif change == "payload":
                payload.value = value ^ 1
            await FallingEdge(dut.clk)
            seen = counts.look()["violations"] + before
            assert seen == (change != "none"), (channel, field, change)
            violations[channel, field, change] = seen
            # Back to idle, in some lawful way
            getattr(dut, channel + "valid").value = 0
            payload.value = value
            dut.wlast.value = 1
            await wait(dut, 2)
            dut.rst.value = 1
            await wait(dut, 2)
            dut.rst.value = 0
            await wait(dut, 1)
            counts.look()
    assert sum(violations.values()) == 12


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def hand_hazards(dut):
    """A burst that overlaps one of the other direction in flight is counted."""
    counts = await start(dut)
    dut.rready.value = 1
    dut.bready.value = 1
    # A read while the write waits for its response, next to it and within it
    await write_address(dut, BASE + 16 * BYTES, 4)
    await write_data(dut, 0, 0, 0, 1)
    await read_burst(dut, BASE + 12 * BYTES, 4)
    await read_burst(dut, BASE + 20 * BYTES, 4)
    assert counts.look()["hazards"] == 0
    await read_burst(dut, BASE + 19 * BYTES, 1)
    assert counts.look()["hazards"] == 1
    await wait(dut, 2 * LATENCY)
    await read_burst(dut, BASE + 16 * BYTES, 4)
    assert counts.look()["hazards"] == 0
    # A write while a read is under way
    await write_address(dut, BASE + 19 * BYTES, 1)
    assert counts.look()["hazards"] == 1
    await write_data(dut, 1)
    await wait(dut, 2 * LATENCY)
    # Both in the same cycle
    dut.awaddr.value = BASE
    dut.awvalid.value = 1
    await read_burst(dut, BASE, 1)
    dut.awvalid.value = 0
    assert counts.look()["hazards"] == 1
    assert counts.look()["violations"] == 0


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def master_range(dut):
    """Outside the memory, on either side, nothing is read or written and the answer is DECERR."""
    counts = await start(dut)
    master = master_of(dut)
    end = BASE + WORDS * BYTES
    await master.write(end - BYTES, bytes(BYTES))
    await master.write(BASE, b"\xa5" * BYTES)
    for address in (end, end + 65536, BASE - BYTES, 0):
        assert (await master.read(address, BYTES)).resp == AxiResp.DECERR
        assert (await master.write(address, b"\xff" * BYTES)).resp == AxiResp.DECERR
    assert counts.look()["out_of_range"] == 8
    assert (await master.write(end - BYTES, b"\x11" * 2 * BYTES)).resp == AxiResp.DECERR
    assert (await master.read(end - BYTES, 2 * BYTES)).resp == AxiResp.DECERR
    change = counts.look()
    assert change["out_of_range"] == (
        2 if WORDS * BYTES % 4096 else 4
    )  # a burst that begins inside, and one not
    assert (await master.read(end - BYTES, BYTES)).data == b"\x11" * BYTES
    assert (await master.read(BASE, BYTES)).data == b"\xa5" * BYTES
    assert counts.look() == {
        "read_beats": 2,
        "write_beats": 0,
        "out_of_range": 0,
        "violations": 0,
        "hazards": 0,
    }


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def faults(dut):
    """Errors at the beat and at the burst that were asked for, and silence after the last beat."""
    counts = await start(dut)
    dut.bready.value = 1
    dut.rready.value = 1
    answers = []

    async def watch():
        while True:
            await FallingEdge(dut.clk)
            if dut.rvalid.value:
                answers.append(("r", int(dut.rresp.value), int(dut.rlast.value)))
            if dut.bvalid.value:
                answers.append(("b", int(dut.bresp.value)))

    cocotb.start_soon(watch())
    for _ in range(3):
        await write_address(dut, BASE, 2)
        await write_data(dut, 0, 1, data=1)
        await wait(dut, 2 * LATENCY)
    assert answers == [("b", 0), ("b", 2), ("b", 0)]  # +write_error_at=2
    answers.clear()
    await read_burst(dut, BASE, 4)
    await read_burst(dut, BASE, 4)
    await wait(dut, 3 * LATENCY)
    assert answers == [("r", 2 * (beat == 3), int(beat % 4 == 0)) for beat in range(1, 7)]  # +read_error_at=3
    await wait(dut, 100)
    assert len(answers) == 6  # +hang_after=6
    assert counts.look()["violations"] == 0


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def undefined(dut):
    """Where there is an x, its use is a violation. (Not in Verilator, which has none.)"""
    counts = await start(dut)
    await write_address(dut, BASE, 2)
    dut.wdata.value = cocotb.types.LogicArray("X" * 8 + "0" * (8 * BYTES - 8))
    dut.wlast.value = 0
    dut.wvalid.value = 1
    dut.wstrb.value = (1 << (BYTES - 1)) - 1
    await taken(dut, "w")
    assert counts.look()["violations"] == 0
    dut.wlast.value = 1
    dut.wstrb.value = (1 << BYTES) - 1
    await taken(dut, "w")
    dut.wvalid.value = 0
    assert counts.look()["violations"] == 1
    dut.araddr.value = cocotb.types.LogicArray("X" * 32)
    dut.arvalid.value = 1
    await taken(dut, "ar")
    dut.arvalid.value = 0
    assert counts.look()["violations"] >= 1
