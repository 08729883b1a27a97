"""Runs an engine against cocotbext-axi's memory instead of ours: an outside opinion on its bus behaviour.

Imported by tests for :func:`run_with_axi_ram`, and by cocotb inside the simulator for the rest.
"""

import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import cocotb
from cocotb.clock import Clock

from bitwright.sim.rtl import (
    Result,
    Run,
    compile_bench,
    load_job,
    load_results,
    run_bench,
    save_job,
    save_results,
    testbench_verilog,
)
from bitwright.sim.testbench import PERIOD, Host, execute, reset


def run_with_axi_ram(
    verilog: str,
    bus_bits: int,
    memory_bytes: int,
    image: bytes,
    runs: Sequence[Run],
    *,
    simulator: str = "verilator",
    memory_base: int = 0x4000_0000,
    pauses: float = 0.0,
    seed: int = 1,
) -> list[Result]:
    """As ``Simulation.run``, on another memory: each channel pauses with probability ``pauses`` in a cycle.

    The memory wraps at the next power of two of its size, which ``memory_base`` must be a multiple of. It
    counts nothing: the counters of the results are zero.
    """
    bench = compile_bench(
        {"testbench.v": testbench_verilog(bus_bits, None), "engine.v": verilog}, "testbench", simulator
    )
    first = Run(**{**vars(runs[0]), "writes": ((0, image), *runs[0].writes)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_job(folder / "job.zip", [first, *runs[1:]], bus_bits, memory_base)
        run_bench(
            bench,
            Path(__file__).stem,
            folder,
            environment={
                "BITWRIGHT_JOB": str(folder / "job.zip"),
                "AXI_RAM_BYTES": str(1 << (memory_bytes - 1).bit_length()),
                "AXI_RAM_PAUSES": str(pauses),
                "AXI_RAM_SEED": str(seed),
                "PYTHONWARNINGS": "ignore::DeprecationWarning",  # cocotbext-axi uses what cocotb 2 will drop
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            },
        )
        return load_results(folder / "results.zip")


def pause_generator(seed, share):
    generator = random.Random(seed)
    while True:
        yield generator.random() < share


@cocotb.test()
async def do_job(dut):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cocotbext.axi import AxiBus, AxiRam
    logging.getLogger("cocotb.testbench.m_axi").setLevel(logging.WARNING)  # it would print every byte

    path = Path(os.environ["BITWRIGHT_JOB"])
    runs, _, _ = load_job(path)
    host = Host(dut)
    size = int(os.environ["AXI_RAM_BYTES"])
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=size)
    share, seed = float(os.environ["AXI_RAM_PAUSES"]), int(os.environ["AXI_RAM_SEED"])
    if share:
        write, read = ram.write_if, ram.read_if
        channels = (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel)
        for index, channel in enumerate(channels):
            channel.set_pause_generator(pause_generator(8 * seed + index, share))
    dut.rst.value = 1
    Clock(dut.clk, PERIOD, "ns", impl="gpi").start(start_high=False)
    await reset(dut)
    results = []
    for run in runs:
        for offset, contents in run.writes:
            ram.write(offset, contents)
        cycles, timed_out, registers = await execute(dut, host, run, len(results))
        data = [bytes(ram.read(offset, length)) for offset, length in run.reads]
        results.append(Result(registers, data, cycles, timed_out, 0, 0, 0, 0))
        if timed_out:
            break
    save_results(path.with_name("results.zip"), results)
