"""Run by cocotb inside the simulator: does the job that :class:`~bitwright.sim.rtl.Simulation` left."""

import os
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Event, FallingEdge, First, RisingEdge, Timer
from cocotb.utils import get_sim_time

from .rtl import Result, Run, load_job, save_results

__all__ = ["PERIOD", "Backdoor", "Host", "WishboneHost", "execute", "reset"]

PERIOD = 10
"""Clock period, in ns."""

_SETTLE = 2  # ns from the falling edge, where inputs change, to where outputs are looked at
_PATIENCE = 10_000  # cycles that the register port may take for an answer
_RESET_CYCLES = 4
_IRQ_FALL_CYCLES = 16  # that a start may take to clear an earlier irq
_REPORT_SECONDS = 0.25

_COUNTERS = ("read_beats", "write_beats", "violations", "out_of_range", "hazards")


class Host:
    """Reads and writes registers through AXI4-Lite.

    Everything is driven at the falling edge of the clock and looked at shortly after, when it has settled:
    nothing depends on the order in which a simulator wakes who waits for an edge.
    """

    def __init__(self, dut: Any):
        self._dut = dut
        for name in ("awvalid", "awaddr", "awprot", "wvalid", "wdata", "wstrb", "bready"):
            self._drive(name, 0)
        for name in ("arvalid", "araddr", "arprot", "rready"):
            self._drive(name, 0)

    def _drive(self, name: str, value: int) -> None:
        getattr(self._dut, "s_axil_" + name).value = value

    def _read(self, name: str) -> int:
        return int(getattr(self._dut, "s_axil_" + name).value)

    async def _exchange(
        self, what: str, requests: dict[str, dict[str, int]], answer: str
    ) -> tuple[float, Any]:
        """Send on some channels, wait for the answer on another.

        Returns the time, in ns, of the clock edge that took the last request, and the data read.
        """
        await FallingEdge(self._dut.clk)
        for channel, payload in requests.items():
            for name, value in payload.items():
                self._drive(name, value)
            self._drive(channel + "valid", 1)
        self._drive(answer + "ready", 1)
        waiting = set(requests)
        taken_at = 0.0
        for _ in range(_PATIENCE):
            await Timer(_SETTLE, "ns")
            taken = {channel for channel in waiting if self._read(channel + "ready")}
            answered = self._read(answer + "valid")
            status = self._read(answer + "resp") if answered else 0
            data = self._dut.s_axil_rdata.value
            if taken:
                taken_at = get_sim_time("ns") - _SETTLE + PERIOD / 2
            await FallingEdge(self._dut.clk)
            for channel in taken:
                self._drive(channel + "valid", 0)
            if answered:
                self._drive(answer + "ready", 0)
                if waiting:
                    raise RuntimeError(f"{what}: the register port answered before it was asked")
                if status:
                    raise RuntimeError(f"{what}: the register port answered error {status}")
                return taken_at, data
            waiting -= taken
        raise RuntimeError(f"{what}: the register port did not answer within {_PATIENCE} cycles")

    async def write(self, offset: int, value: int) -> float:
        """Write a register; returns the time, in ns, of the clock edge that took it."""
        requests = {"aw": {"awaddr": offset}, "w": {"wdata": value & 0xFFFFFFFF, "wstrb": 15}}
        taken_at, _ = await self._exchange(f"writing register {offset:#04x}", requests, "b")
        return taken_at

    async def read(self, offset: int) -> int:
        """Read a register."""
        what = f"reading register {offset:#04x}"
        _, data = await self._exchange(what, {"ar": {"araddr": offset}}, "r")
        if not data.is_resolvable:
            raise RuntimeError(f"{what}: {data} is undefined")
        return int(data)


class WishboneHost:
    """Reads and writes registers through Wishbone, in the manner of :class:`Host`."""

    def __init__(self, dut: Any):
        self._dut = dut
        for name in ("cyc", "stb", "we", "adr", "sel", "dat_w"):
            self._drive(name, 0)

    def _drive(self, name: str, value: int) -> None:
        getattr(self._dut, "s_wb_" + name).value = value

    async def _exchange(self, what: str, request: dict[str, int]) -> tuple[float, Any]:
        """One cycle of the bus: the time, in ns, of the clock edge that ended it, and the data read."""
        await FallingEdge(self._dut.clk)
        for name, value in {"cyc": 1, "stb": 1, "sel": 15, **request}.items():
            self._drive(name, value)
        for _ in range(_PATIENCE):
            await Timer(_SETTLE, "ns")
            done, failed = int(self._dut.s_wb_ack.value), int(self._dut.s_wb_err.value)
            data = self._dut.s_wb_dat_r.value
            ended_at = get_sim_time("ns") - _SETTLE + PERIOD / 2
            await FallingEdge(self._dut.clk)
            if done or failed:
                for name in ("cyc", "stb", "we"):
                    self._drive(name, 0)
                if failed:
                    raise RuntimeError(f"{what}: the register port answered an error")
                return ended_at, data
        raise RuntimeError(f"{what}: the register port did not answer within {_PATIENCE} cycles")

    async def write(self, offset: int, value: int) -> float:
        """Write a register; returns the time, in ns, of the clock edge that ended it."""
        request = {"we": 1, "adr": offset >> 2, "dat_w": value & 0xFFFFFFFF}
        ended_at, _ = await self._exchange(f"writing register {offset:#04x}", request)
        return ended_at

    async def read(self, offset: int) -> int:
        """Read a register."""
        what = f"reading register {offset:#04x}"
        _, data = await self._exchange(what, {"adr": offset >> 2})
        if not data.is_resolvable:
            raise RuntimeError(f"{what}: {data} is undefined")
        return int(data)


class Backdoor:
    """Reads and writes the memory model's contents, in two clock cycles.

    By way of files, with $readmemh and $writememh: both simulators read megabytes of these in well under a
    second, while each word through the simulator's programming interface takes microseconds.
    """

    def __init__(self, dut: Any, bus_bytes: int):
        self._dut = dut
        self._bytes = bus_bytes
        for name in ("load", "store", "first", "last"):
            getattr(dut, "backdoor_" + name).value = 0

    async def write(self, offset: int, contents: bytes) -> None:
        """Change memory from ``offset`` bytes after its start."""
        if not contents:
            return
        first, last = offset // self._bytes, (offset + len(contents) - 1) // self._bytes
        start = first * self._bytes
        if offset % self._bytes or len(contents) % self._bytes:
            around = bytearray(await self.read(start, (last - first + 1) * self._bytes))
            around[offset - start : offset - start + len(contents)] = contents
            contents = bytes(around)
        # A line has a word's last byte first: turn all bytes around, then the lines.
        lines = contents[::-1].hex("\n", self._bytes).split("\n")
        Path("load.hex").write_text("\n".join(reversed(lines)) + "\n")
        await self._command(self._dut.backdoor_load, first, last)

    async def read(self, offset: int, length: int) -> bytes:
        """Contents of memory from ``offset`` bytes after its start."""
        if not length:
            return b""
        first, last = offset // self._bytes, (offset + length - 1) // self._bytes
        await self._command(self._dut.backdoor_store, first, last)
        lines = [line for line in Path("store.hex").read_text().splitlines() if line[0] not in "/@"]
        try:
            contents = bytes.fromhex("".join(reversed(lines)))[::-1]
        except ValueError:
            raise RuntimeError(f"memory from {offset} on, {length} bytes: some are undefined") from None
        start = offset - first * self._bytes
        return contents[start : start + length]

    async def _command(self, signal: Any, first: int, last: int) -> None:
        await FallingEdge(self._dut.clk)
        self._dut.backdoor_first.value = first
        self._dut.backdoor_last.value = last
        signal.value = 1
        await FallingEdge(self._dut.clk)
        signal.value = 0


async def reset(dut: Any) -> None:
    """Hold `rst` high for some cycles; the clock runs already."""
    dut.rst.value = 1
    for _ in range(_RESET_CYCLES):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)


async def execute(
    dut: Any, host: Host | WishboneHost, run: Run, finished: int
) -> tuple[int, bool, dict[int, int]]:
    """Write the registers of a run, wait for `irq`, read registers.

    Returns the cycles that it took, whether it timed out and the registers read. ``finished`` is the number
    of runs to report as finished.
    """
    for offset, value in run.registers[:-1]:
        await host.write(offset, value)
    raised_at = 0.0
    raised = Event()

    async def wait_for_irq() -> None:
        nonlocal raised_at
        await RisingEdge(dut.irq)
        raised_at = get_sim_time("ns")
        raised.set()

    was_high = str(dut.irq.value) == "1"
    waiter = cocotb.start_soon(wait_for_irq())
    started_at = await host.write(*run.registers[-1])
    if was_high:
        await Timer(_IRQ_FALL_CYCLES * PERIOD, "ns")
        if not raised.is_set() and str(dut.irq.value) == "1":
            raise RuntimeError("irq was high before the start and stayed so: there is no edge to wait for")
    cycles = 0
    chunk = 1000  # cycles between reports of progress; follows the speed of the simulator
    while not raised.is_set() and cycles < run.timeout_cycles:
        chunk = min(chunk, run.timeout_cycles - cycles)
        before = time.monotonic()
        await First(raised.wait(), Timer(chunk * PERIOD, "ns"))
        cycles += chunk
        Path("progress").write_text(f"{finished} {cycles}")
        chunk = 2 * chunk if time.monotonic() - before < _REPORT_SECONDS else max(chunk // 2, 100)
    timed_out = not raised.is_set()
    if timed_out:
        waiter.cancel()
    else:
        cycles = round((raised_at - started_at) / PERIOD)
    registers = {offset: await host.read(offset) for offset in run.read_registers}
    return cycles, timed_out, registers


@cocotb.test()
async def do_job(dut: Any) -> None:
    """Do everything that the job says and save the results."""
    path = Path(os.environ["BITWRIGHT_JOB"])
    runs, bus_bits, _ = load_job(path)
    host = WishboneHost(dut) if hasattr(dut, "s_wb_cyc") else Host(dut)
    backdoor = Backdoor(dut, bus_bits // 8)
    await reset(dut)
    results: list[Result] = []
    before = dict.fromkeys(_COUNTERS, 0)
    for run in runs:
        for offset, contents in run.writes:
            await backdoor.write(offset, contents)
        cycles, timed_out, registers = await execute(dut, host, run, len(results))
        data = [await backdoor.read(offset, length) for offset, length in run.reads]
        now = {name: int(getattr(dut, name).value) for name in _COUNTERS}
        counts = {name: (now[name] - before[name]) & 0xFFFFFFFF for name in _COUNTERS}
        before = now
        results.append(Result(registers=registers, data=data, cycles=cycles, timed_out=timed_out, **counts))
        if timed_out:
            break
    save_results(path.with_name("results.zip"), results)
