"""What the hardware tests share: a simulation in one call, both ends of a stream, and an AXI4 memory."""

import gc
import itertools
import json
import os
import random
import types
import warnings
from collections import deque
from pathlib import Path

import pytest
from allpairspy import AllPairs
from amaranth.back import rtlil
from amaranth.hdl import UnusedElaboratable, Value
from amaranth.lib import data, wiring
from amaranth.sim import Simulator


@pytest.fixture
def rng():
    """Random numbers of the test; ``BITWRIGHT_SEED`` repeats a failed one."""
    seed = int(os.environ.get("BITWRIGHT_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)


# The others are functions, so that hypothesis does not mind them.


@pytest.fixture(scope="session")
def simulate():
    """``simulate(dut, *benches, background=(), cycles=20000)`` runs until every bench has ended."""
    return _simulate


@pytest.fixture(scope="session")
def recorder():
    """The class :class:`Recorder`."""
    return Recorder


@pytest.fixture(scope="session")
def pairwise():
    """``pairwise(choices)``: rows, as dictionaries, that have every two values of every two of the keys."""

    def rows(choices):
        return [dict(zip(choices, row, strict=True)) for row in AllPairs([list(v) for v in choices.values()])]

    return rows


@pytest.fixture(scope="session")
def bed():
    """The class :class:`Bed`, for a design that many tests share, as it takes long to elaborate."""
    return Bed


@pytest.fixture(scope="session")
def stream_put():
    """``await stream_put(ctx, stream, payload)``: one transfer; returns in the cycle after it."""
    return _put


@pytest.fixture(scope="session")
def stream_get():
    """``await stream_get(ctx, stream)``: the payload of one transfer; returns in the cycle after it."""
    return _get


@pytest.fixture(scope="session")
def sender():
    """``sender(stream, payloads, rng, idle)``: a bench; ``idle`` is the share of cycles without a payload."""
    return _sender


@pytest.fixture(scope="session")
def receiver():
    """``receiver(stream, found, rng, stall, count=None)``: a bench that takes ``count`` payloads, or all.

    It checks that a payload on offer stays until it is taken.
    """
    return _receiver


@pytest.fixture(scope="session")
def watch():
    """``watch(trace, *signals)``: a background bench that appends their values in every cycle."""
    return _watch


@pytest.fixture(scope="session")
def plain():
    """``plain(value)``: a struct's constant as a dictionary, an array's as a list."""
    return _plain


@pytest.fixture(scope="session")
def refuses():
    """``refuses(match, component, *arguments)``: its constructor raises ValueError."""
    return _refuses


@pytest.fixture(scope="session")
def axi_memory():
    """The class :class:`AxiMemory`."""
    return AxiMemory


def _refuses(match, make, *arguments, **named):
    with warnings.catch_warnings():
        # The component is never elaborated, and that is meant.
        warnings.simplefilter("ignore", UnusedElaboratable)
        with pytest.raises(ValueError, match=match):
            make(*arguments, **named)
        gc.collect()


def _simulate(dut, *benches, background=(), cycles=20_000):
    Bed(dut).run(*benches, background=background, cycles=cycles)


class Recorder:
    """Keeps what a test does to a component, and what it answers, where ``BITWRIGHT_TRACES`` names a folder.

    A file per simulation: the netlist before any optimisation, the ports, their values in every cycle.
    :mod:`bitwright.gen.mutation` replays that on mutants of the netlist.

    Parameters
    ----------
    dut
        The component; others are not recorded.
    reset
        The signal that resets it, where a test does that.
    """

    _numbers = itertools.count()

    def __init__(self, dut, reset=None):
        folder = os.environ.get("BITWRIGHT_TRACES")
        self.folder = Path(folder) if folder and isinstance(dut, wiring.Component) else None
        if self.folder is None:
            return
        members = [("__".join(map(str, path)), *rest) for path, *rest in dut.signature.flatten(dut)]
        self._signals = [Value.cast(value) for *_, value in members]
        self._ports = [
            (name, len(signal), member.flow == wiring.In)
            for (name, member, _), signal in zip(members, self._signals, strict=True)
        ]
        self._ports.append(("rst", 1, True))
        self._reset = reset
        self._netlist = rtlil.convert(dut, name="dut", emit_src=False)
        self._cycles = []

    async def bench(self, ctx):
        """To be run in the background."""
        if self.folder is None:
            return
        self._cycles = []
        signals = self._signals if self._reset is None else [*self._signals, self._reset]
        async for _, _, *values in ctx.tick().sample(*signals):
            values = [
                int(value) & (1 << width) - 1
                for value, (_, width, _) in zip(values, self._ports, strict=False)
            ]
            self._cycles.append(values if self._reset is not None else [*values, 0])

    def save(self):
        """Write the file, when a simulation has ended."""
        if self.folder is not None:
            trace = {"netlist": self._netlist, "ports": self._ports, "cycles": self._cycles}
            (self.folder / f"{os.getpid()}-{next(self._numbers)}.json").write_text(json.dumps(trace))


class Bed:
    """A simulation that can be run again, from the initial state, with as many benches as the first time."""

    def __init__(self, dut):
        self._recorder = Recorder(dut)
        self._simulator = Simulator(dut)
        self._simulator.add_clock(1e-6)
        self._benches = []

    def run(self, *benches, background=(), cycles=20_000):
        """Run until every bench has ended; those in the background need not."""

        async def limit(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError(f"the simulation has not ended after {cycles} cycles")

        again = bool(self._benches)
        self._benches = [*benches, *background, self._recorder.bench, limit]
        self._ended = set()
        if again:
            self._simulator.reset()
        else:
            for index in range(len(self._benches)):
                self._simulator.add_testbench(self._bench(index), background=index >= len(benches))
        try:
            self._simulator.run()
        except Exception as error:
            raise error.with_traceback(_without_simulator(error.__traceback__)) from None
        assert self._ended >= set(range(len(benches)))
        self._recorder.save()

    def _bench(self, index):
        async def run(ctx):
            await self._benches[index](ctx)
            self._ended.add(index)

        return run


def _without_simulator(traceback):
    """The frames of the tests only: those of the simulator say nothing, and pytest chokes on some."""
    if traceback is None:
        return None
    rest = _without_simulator(traceback.tb_next)
    if "amaranth" in traceback.tb_frame.f_code.co_filename.split(os.sep):
        return rest
    return types.TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)


def _plain(value):
    if not isinstance(value, data.Const):
        return value
    layout = value.shape()
    if isinstance(layout, data.ArrayLayout):
        return [_plain(value[index]) for index in range(layout.length)]
    return {name: _plain(value[name]) for name, _ in layout}


async def _put(ctx, stream, payload):
    ctx.set(stream.payload, payload)
    ctx.set(stream.valid, 1)
    ready = False
    while not ready:
        _, _, ready = await ctx.tick().sample(stream.ready)
    ctx.set(stream.valid, 0)


async def _get(ctx, stream):
    ctx.set(stream.ready, 1)
    valid = False
    while not valid:
        _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
    ctx.set(stream.ready, 0)
    return _plain(payload)


def _sender(stream, payloads, rng, idle=0.0):
    async def bench(ctx):
        for payload in payloads:
            while rng.random() < idle:
                await ctx.tick()
            await _put(ctx, stream, payload)

    return bench


def _receiver(stream, found, rng, stall=0.0, count=None):
    async def bench(ctx):
        offered = None
        while count is None or len(found) < count:
            ready = rng.random() >= stall
            ctx.set(stream.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
            payload = _plain(payload)
            if offered is not None:
                assert valid, "a payload was withdrawn"
                assert payload == offered, "a payload changed while it was on offer"
            offered = payload if valid and not ready else None
            if valid and ready:
                found.append(payload)
        ctx.set(stream.ready, 0)

    return bench


def _watch(trace, *signals):
    async def bench(ctx):
        while True:
            _, _, *values = await ctx.tick().sample(*signals)
            trace.append(tuple(_plain(value) for value in values))

    return bench


class AxiMemory:
    """An AXI4 memory with random delays that checks the master's side of the protocol.

    Parameters
    ----------
    port, prefix
        Component and what its signals' names begin with.
    contents
        Bytes from ``base`` on; writes go into them.
    bus_bits, burst_beats
        Of the master; no burst may cross a multiple of ``burst_beats`` words.
    stall
        Share of cycles in which a channel does not move.

    Members
    -------
    reads, writes : (byte address, beats) of every burst, in order
    log : the same beside each other, as ("read", address) and ("write", address), and ("done", None) for each
        write that has been answered
    beats : (byte address, word, strobes) of every word written
    deaf : take and answer nothing from now on
    pace : least cycles from one word read to the next
    patience : cycles from a burst's last word to its answer
    bad_read, bad_write : byte addresses that are answered with an error
    """

    def __init__(self, port, prefix, contents, *, bus_bits, burst_beats, rng, base=0, stall=0.0):
        self.contents = contents
        self.base = base
        self.bus_bytes = bus_bits // 8
        self.burst_beats = burst_beats
        self.rng = rng
        self.stall = stall
        self.reads = []
        self.writes = []
        self.beats = []
        self.log = []
        self.deaf = False
        self.pace = 1
        self.patience = 0
        self.bad_read = set()
        self.bad_write = set()
        self._signals = {
            name: getattr(port, prefix + name)
            for channel, names in {
                "ar": "valid ready id addr len size burst",
                "r": "valid ready id data resp last",
                "aw": "valid ready id addr len size burst",
                "w": "valid ready data strb last",
                "b": "valid ready id resp",
            }.items()
            for name in (channel + rest for rest in names.split())
            if hasattr(port, prefix + name)
        }
        self._driven = {}  # what the signals have been set to
        self._offered = {}
        self._reading = {0: deque(), 1: deque()}  # by ID: addresses of words, and whether last
        self._announced = deque()  # addresses of words, None after each burst's last
        self._given = deque()
        self._answers = deque()
        self._failed = False  # a word of the burst being written

    def forget(self):
        """As a reset: nobody is owed anything. To be called in a cycle without transfers."""
        self._offered.clear()
        for queue in (*self._reading.values(), self._announced, self._given, self._answers):
            queue.clear()
        self._failed = False

    @property
    def quiet(self):
        """Nothing is owed to the master, nor by it."""
        return not (any(self._reading.values()) or self._announced or self._given or self._answers)

    def word(self, address):
        """The word at a byte address."""
        place = address - self.base
        return int.from_bytes(self.contents[place : place + self.bus_bytes], "little")

    async def run(self, ctx):
        """The bench; to be run in the background."""
        names = list(self._signals)
        r = b = None  # what is on offer to the master
        since = kept = 0  # cycles since the last word read, and that an answer has been kept
        while True:
            since += 1
            kept = kept + 1 if self._answers else 0
            move = {
                name: not self.deaf and self.rng.random() >= self.stall
                for name in ("ar", "r", "aw", "w", "b")
            }
            driven = {name + "ready": int(move[name]) for name in ("ar", "aw", "w")}
            if r is None and move["r"] and since >= self.pace:
                ids = [ident for ident, words in self._reading.items() if words]
                if ids:
                    ident = self.rng.choice(ids)
                    address, last = self._reading[ident].popleft()
                    r = {"rid": ident, "rdata": self.word(address), "rlast": last}
                    r["rresp"] = 2 if address in self.bad_read else 0
                    since = 0
            if b is None and move["b"] and kept > self.patience:
                kept = 0
                b = {"bid": 0, "bresp": self._answers.popleft()}
            driven |= {"rvalid": int(r is not None), **(r or {})}
            driven |= {"bvalid": int(b is not None), **(b or {})}
            for name, value in driven.items():
                if name in self._signals and self._driven.get(name) != value:
                    ctx.set(self._signals[name], value)
                    self._driven[name] = value
            _, _, *values = await ctx.tick().sample(*self._signals.values())
            now = dict(zip(names, values, strict=True))
            if now.get("rvalid") and now["rready"]:
                r = None
            if now.get("bvalid") and now["bready"]:
                b = None
                self.log.append(("done", None))
            for channel in ("ar", "aw", "w"):
                if channel + "valid" in now:
                    self._take(channel, now)
            self._write()

    def _take(self, channel, now):
        payload = {
            name: value
            for name, value in now.items()
            if name.startswith(channel) and name[len(channel) :] not in ("valid", "ready")
        }
        offered = self._offered.pop(channel, None)
        if offered is not None:
            assert now[channel + "valid"], f"{channel}valid was withdrawn"
            assert payload == offered, f"{channel} changed while it was on offer"
        if not now[channel + "valid"]:
            return
        if not now[channel + "ready"]:
            self._offered[channel] = payload
            return
        if channel == "w":
            self._given.append((payload["wdata"], payload["wstrb"], payload["wlast"]))
            return
        address, beats = payload[channel + "addr"], payload[channel + "len"] + 1
        word = address // self.bus_bytes
        assert address % self.bus_bytes == 0
        assert 1 << payload[channel + "size"] == self.bus_bytes
        assert payload[channel + "burst"] == 1
        assert word // self.burst_beats == (word + beats - 1) // self.burst_beats
        assert self.base <= address, "below the memory"
        assert address + beats * self.bus_bytes <= self.base + len(self.contents), "beyond the memory"
        words = [address + index * self.bus_bytes for index in range(beats)]
        if channel == "ar":
            self.reads.append((address, beats))
            self.log.append(("read", address))
            self._reading[payload["arid"]] += [(place, int(place == words[-1])) for place in words]
        else:
            self.writes.append((address, beats))
            self.log.append(("write", address))
            self._announced += [(place, place == words[-1]) for place in words]

    def _write(self):
        # Words may come before their address.
        while self._announced and self._given:
            address, last = self._announced.popleft()
            word, strobes, said_last = self._given.popleft()
            assert said_last == last
            self.beats.append((address, word, strobes))
            for byte in range(self.bus_bytes):
                if strobes >> byte & 1 and address not in self.bad_write:
                    self.contents[address - self.base + byte] = word >> 8 * byte & 255
            self._failed |= address in self.bad_write
            if last:
                self._answers.append(2 if self._failed else 0)
                self._failed = False
