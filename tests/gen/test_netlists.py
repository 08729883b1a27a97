"""Every unit as the cells of a device, in Icarus Verilog with Yosys' models, against integer arithmetic.

What is simulated is what Yosys makes with the flow's own commands, before the flow trims the carry chains of
ECP5 for nextpnr. At the end, an engine and a network on it.
"""

import itertools
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bitwright.gen import execute as executing
from bitwright.gen.cli import app
from bitwright.gen.netlist import cell_models, netlist
from bitwright.gen.pe_harness import harness_verilog
from bitwright.gen.synthesis import check_target, synthesis_script
from bitwright.gen.toolchain import run_tool
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import DotProduct, Order, Precision
from bitwright.hw.reduce.carry import FABRICS
from bitwright.sim.rtl import primitive_models
from bitwright.sim.tools import ToolError, find_simulator

# Several precisions where one unit changes between them in operation.
SMALL: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "parallel": (("a4w3",), {"lanes": 8, "multiplier": "lut"}),
    "bitfusion": (("a4w4", "au2w2"), {"lanes": 2}),
    "bitblade": (("a4w4", "a2wu2"), {"lanes": 2}),
    "stripes": (("a3w4", "au2w4"), {"lanes": 8}),
    "unpu": (("a4w2", "au3wu2"), {"lanes": 10, "outputs": 2}),
    "loom": (("a2w3", "au3w2"), {"lanes": 8}),
    "bismo": (("a2w3", "au1wu1"), {"lanes": 16}),
    "xnor": (("a4wb",), {"lanes": 8}),
    "ternary": (("a4wt",), {"lanes": 8}),
    "log2": (("a4wp3",), {"lanes": 8}),
}

# The plain form goes through one family or the other in turn.
TARGETS = {"ecp5": ("ecp5-85k",), "ice40": ("ice40-hx8k",), "generic": ("ecp5-85k", "ice40-up5k")}
CASES = [
    (name, fabric, TARGETS[fabric][index % len(TARGETS[fabric])])
    for fabric in FABRICS
    for index, name in enumerate(SMALL)
]

Cycle = dict[str, int]
"""Value of each port in a cycle; of ``o`` where there is a result."""


@pytest.fixture(scope="module")
def icarus() -> Path:
    try:
        return find_simulator("icarus").executable
    except ToolError as error:
        pytest.skip(str(error))


def build(name: str, **changes: Any) -> DotProduct:
    precisions, parameters = SMALL[name]
    built = tuple(map(Precision.parse, precisions))
    return UNITS[name](precisions=built, reduction=100, **{**parameters, **changes})


def test_every_unit_is_here() -> None:
    assert set(SMALL) == set(UNITS)


def as_number(bits: np.ndarray) -> int:
    return int("".join(map(str, bits[::-1])), 2)


def packed(values: np.ndarray, width: int) -> int:
    """Results side by side, the first lowest."""
    fields = enumerate(values.reshape(-1).tolist())
    return sum((value & (1 << width) - 1) << width * place for place, value in fields)


def operands(unit: DotProduct, precision: Precision, numbers: np.random.Generator) -> Iterator[Any]:
    """Matrices of dot products: the corners of both formats, then random."""
    several = (unit.outputs,) if unit.outputs > 1 else ()
    elements = unit.elements(precision)
    corners = itertools.product(*((format.min, format.max) for format in precision))
    for a, w in (*corners, *[(None, None)] * 6):
        steps = int(numbers.integers(1, 4))
        yield tuple(
            numbers.choice(format.values, shape) if corner is None else np.full(shape, corner)
            for format, corner, shape in zip(
                precision, (a, w), ((steps, elements), (steps, *several, elements)), strict=True
            )
        )


def stimulus(unit: DotProduct) -> list[Cycle]:
    """Dot products in random order, bubbles full of junk between their beats, and one that a reset ends."""
    rng = random.Random(1)
    numbers = np.random.default_rng(1)
    widths = {
        "a": unit.activation_word_bits,
        "w": unit.weight_word_bits,
        "control": unit.control_layout.size,
    }
    jobs = [(precision, a, w) for precision in unit.precisions for a, w in operands(unit, precision, numbers)]
    rng.shuffle(jobs)
    latency = unit.latency + 1  # the registers in front of the unit
    in_turn = unit.outputs > 1 and unit.outputs_per_beat == 1
    cycles: list[Cycle] = []
    results: dict[int, int] = {}

    def put(**values: int) -> None:
        junk = {name: rng.getrandbits(width) if width else 0 for name, width in widths.items()}
        cycles.append({"rst": 0, "valid": 0, "last": 0, **junk, **values})

    def play(precision: Precision, a: np.ndarray, w: np.ndarray, limit: int | None = None) -> None:
        sums = np.einsum("se,s...e->...", a, w)
        a_bits, w_bits = unit.activation_bits(a, precision), unit.weight_bits(w, precision)
        ends = unit.ends(precision)
        schedule = list(unit.schedule(len(a), precision))
        for index, (step, beat, shift) in enumerate(schedule[:limit]):
            while rng.random() < 0.2:
                put()
            place = index // len(a) if unit.order is Order.BEATS_OUTSIDE else index % len(ends)
            last = ends[place] and step == len(a) - 1
            if last:
                result = sums[beat.output] if in_turn else sums
                results[len(cycles) + latency] = packed(result, unit.accumulator_bits)
            put(
                valid=1,
                last=int(last),
                control=unit.encoded_control(beat, shift=shift),
                a=as_number(a_bits[step, beat.activation]),
                w=as_number((w_bits[step, beat.output] if in_turn else w_bits[step])[beat.weight]),
            )

    put(rst=1)
    for number, job in enumerate(jobs):
        if number == len(jobs) // 2:
            for _ in range(latency):
                put()
            if unit.order is Order.BEATS_OUTSIDE or not in_turn:
                longest = max(jobs, key=lambda job: len(list(unit.schedule(len(job[1]), job[0]))))
                beats = len(list(unit.schedule(len(longest[1]), longest[0])))
                play(*longest, limit=beats - 1)
            put(rst=1)
        play(*job)
    for _ in range(latency + 2):
        put()
    return [
        {**cycle, "o_valid": int(index in results), "o": results.get(index, 0)}
        for index, cycle in enumerate(cycles)
    ]


def mismatches(
    verilog: str, unit: DotProduct, cycles: list[Cycle], target: str, icarus: Path, folder: Path
) -> list[str]:
    """Plays the cycles to module `bitwright` and names those in which it says something else."""
    widths = {"rst": 1, "valid": 1, "last": 1, "a": unit.activation_word_bits, "w": unit.weight_word_bits}
    if unit.control:
        widths["control"] = unit.control_layout.size
    inputs = list(widths)
    widths |= {"o_valid": 1, "o": unit.accumulator_bits * unit.outputs_per_beat}
    words = ["".join(format(cycle[name], f"0{width}b") for name, width in widths.items()) for cycle in cycles]
    (folder / "cycles.bin").write_text("\n".join(words))
    ports = ", ".join(f".{name}({name})" for name in ("clk", *widths))
    (folder / "bench.v").write_text(
        f"""module bench;
  reg clk = 0;
  {" ".join(f"reg [{widths[name] - 1}:0] {name};" for name in inputs)}
  wire o_valid, o_valid_due;
  wire [{widths["o"] - 1}:0] o, o_due;
  bitwright dut ({ports});
  reg [{len(words[0]) - 1}:0] cycles [0:{len(cycles) - 1}], cycle = 0;
  assign {{o_valid_due, o_due}} = cycle[{widths["o"]}:0];
  integer i, results = 0;
  initial begin
    $readmemb("cycles.bin", cycles);
    for (i = 0; i < {len(cycles)}; i = i + 1) begin
      cycle = cycles[i];
      {{{", ".join(inputs)}}} = cycle[{len(words[0]) - 1}:{widths["o"] + 1}];
      #1000;
      if (o_valid !== o_valid_due || (o_valid_due && o !== o_due))
        $display("cycle %0d: o_valid %b o %b, due %b %b", i, o_valid, o, o_valid_due, o_due);
      if (o_valid === 1) results = results + 1;
      clk = 1;
      #1000 clk = 0;
    end
    $display("%0d results", results);
  end
endmodule
{verilog}
{cell_models(verilog, target)}"""
    )
    lines = run_icarus(icarus, folder)
    assert lines, "the simulation said nothing"
    due = sum(cycle["o_valid"] for cycle in cycles)
    return lines[:-1] if lines[-1] == f"{due} results" else lines


def run_icarus(icarus: Path, folder: Path) -> list[str]:
    """Lines that module `bench` of `bench.v` prints."""
    command: list[str | Path] = [icarus, "-g2005", "-s", "bench", "-o", "bench.vvp", "bench.v"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def check(unit: DotProduct, target: str, icarus: Path, folder: Path) -> str:
    """The netlist, found to be right."""
    cells = netlist(harness_verilog(unit), "bitwright", target)
    cycles = stimulus(unit)
    assert sum(cycle["o_valid"] for cycle in cycles) >= 10 * len(unit.precisions)
    assert mismatches(cells, unit, cycles, target, icarus, folder) == []
    return cells


@pytest.mark.parametrize(("name", "fabric", "target"), CASES)
def test_netlist(name: str, fabric: str, target: str, icarus: Path, tmp_path: Path) -> None:
    cells = check(build(name, fabric=fabric), target, icarus, tmp_path)
    carry = "CCU2C" if target.startswith("ecp5") else "SB_CARRY"
    assert re.search(rf"^  {carry} ", cells, re.MULTILINE)


@pytest.mark.parametrize(
    ("fabric", "target", "block"), [("ice40", "ice40-up5k", "SB_MAC16"), ("ecp5", "ecp5-25k", "MULT18X18D")]
)
def test_multiplier_blocks(fabric: str, target: str, block: str, icarus: Path, tmp_path: Path) -> None:
    unit = build("parallel", multiplier="dsp", lanes=3, fabric=fabric)
    cells = check(unit, target, icarus, tmp_path)
    assert re.search(rf"^  {block} ", cells, re.MULTILINE)


def test_a_network_on_the_netlist_of_an_engine(
    icarus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command: block RAM, multiplier blocks and all else of an ECP5."""
    simulated = []

    run = executing.execute

    def execute(program: Any, graph: Any, inputs: Any, verilog: str, **options: Any) -> Any:
        simulated.append(verilog)
        return run(program, graph, inputs, verilog, **options)

    monkeypatch.setattr("bitwright.gen.execute.execute", execute)
    network = Path(__file__).parents[2] / "examples" / "digits_mlp" / "digits_mlp.onnx"
    folder = tmp_path / "out"
    keys = ("cols=2", "convolution=false", "combine=[]")
    arguments = ["simulate", "tiny", str(network), "--limit", "1", "--simulator", "icarus", "-o", str(folder)]
    arguments += [word for key in keys for word in ("--set", key)]
    result = CliRunner().invoke(app, [*arguments, "--json", "--netlist", "--target", "ecp5-25k"])
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "report.json").read_text())
    assert (report["netlist"], report["tensors_compared"], report["mismatches"]) == ("ecp5-25k", 3, 0)
    cells = (folder / "netlist.v").read_text()
    (verilog,) = simulated
    assert verilog.startswith(cells)
    for cell in ("DP16KD", "MULT18X18D", "CCU2C", "TRELLIS_FF", "LUT4"):
        assert re.search(rf"^  {cell} ", cells, re.MULTILINE)


def from_bitstream(verilog: str, folder: Path) -> str:
    """A design placed and routed on an HX8K, packed, and read back from the bits, as Verilog.

    Of Debian's fpga-icestorm: iceunpack and icebox_vlog, which knows LUTs, carries, flip-flops and block
    RAM. It has nothing for the SB_MAC16 and SB_SPRAM256KA of an UP5K but the names of their wires.
    """
    for program in ("iceunpack", "icebox_vlog"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there (Debian: apt-get install fpga-icestorm)")
    (folder / "design.v").write_text(verilog)
    script = synthesis_script(check_target("ice40-hx8k"), "bitwright", folder)
    run_tool("yosys", ["-p", f"{script}; write_json netlist.json"], folder)
    place = ["--hx8k", "--package", "ct256", "--json", "netlist.json", "--pcf-allow-unconstrained"]
    run_tool("nextpnr-ice40", [*place, "--asc", "placed.asc", "--write", "placed.json"], folder)
    run_tool("icepack", ["placed.asc", "packed.bin"], folder)
    subprocess.run(["iceunpack", "packed.bin", "unpacked.asc"], cwd=folder, check=True)
    done = subprocess.run(
        ["icebox_vlog", "unpacked.asc"], cwd=folder, check=True, capture_output=True, text=True
    )
    # Its ports are places of pins. Where nextpnr has put which port, its own netlist says.
    (module,) = json.loads((folder / "placed.json").read_text())["modules"].values()
    ports = [
        f"{port['direction']} [{len(port['bits']) - 1}:0] {name}" for name, port in module["ports"].items()
    ]
    pins = []
    for name, cell in module["cells"].items():
        if cell["type"] == "SB_IO":
            place = "io_" + "_".join(re.findall(r"\d+", cell["attributes"]["NEXTPNR_BEL"]))
            assert re.search(rf"\b{place}\b", done.stdout), f"{name} is not in the bitstream"
            pins.append(f".{place}({name.removesuffix('$sb_io')})")
    top = f"module bitwright({', '.join(ports)});\n  chip chip({', '.join(pins)});\nendmodule\n"
    return top + done.stdout


@pytest.mark.parametrize("name", ["xnor", "unpu"])
def test_bitstream(name: str, icarus: Path, tmp_path: Path) -> None:
    """What icepack has packed is the unit."""
    small = {"xnor": {}, "unpu": {"lanes": 5, "outputs": 1}}[name]
    unit = build(name, fabric="ice40", **small)
    verilog = from_bitstream(harness_verilog(unit), tmp_path)
    cycles = stimulus(unit)
    assert mismatches(verilog, unit, cycles, "ice40-hx8k", icarus, tmp_path) == []
    wrong = re.sub(r"^(assign n\d+ = )(.*\?.*);$", r"\1!(\2);", verilog, count=1, flags=re.MULTILINE)
    assert wrong != verilog
    assert mismatches(wrong, unit, cycles, "ice40-hx8k", icarus, tmp_path)


def test_a_wrong_table_is_found(icarus: Path, tmp_path: Path) -> None:
    """That of the first bit of the first chain, inverted."""
    unit = build("xnor", fabric="ecp5")
    cells = netlist(harness_verilog(unit), "bitwright", "ecp5-85k")
    table = re.search(r"\.INIT1\(16'h(\w{4})\)", cells)
    assert table
    wrong = f"{cells[: table.start(1)]}{0xFFFF ^ int(table[1], 16):04x}{cells[table.end(1) :]}"
    assert mismatches(wrong, unit, stimulus(unit), "ecp5-85k", icarus, tmp_path)


CELLS = {
    "SB_LUT4": ("ice40-hx8k", "I0 I1 I2 I3", "O", ("LUT_INIT",), ()),
    "SB_CARRY": ("ice40-hx8k", "I0 I1 CI", "CO", (), ()),
    "CCU2C": (
        "ecp5-85k",
        "CIN A0 B0 C0 D0 A1 B1 C1 D1",
        "S0 S1 COUT",
        ("INIT0", "INIT1"),
        ("INJECT1_0", "INJECT1_1"),
    ),
}


def instances(cell: str) -> Iterator[str]:
    """Parameters: each bit of a table alone set, alone clear, then random tables, with every choice."""
    *_, tables, choices = CELLS[cell]
    numbers = np.random.default_rng(1)
    bits = 1 << np.arange(16)
    chosen = np.concatenate([bits, 0xFFFF - bits, numbers.integers(0, 1 << 16, 32)])
    columns = [chosen, numbers.permutation(chosen)][: len(tables)]
    for row in zip(*columns, strict=True) if tables else [()]:
        for words in itertools.product(("NO", "YES"), repeat=len(choices)):
            values = [f".{name}(16'd{value})" for name, value in zip(tables, row, strict=True)]
            values += [f'.{name}("{word}")' for name, word in zip(choices, words, strict=True)]
            yield ", ".join(values)


@pytest.mark.parametrize("cell", CELLS)
def test_models_of_cells(cell: str, icarus: Path, tmp_path: Path) -> None:
    """What emitted Verilog is simulated with does as Yosys' own model, for all inputs."""
    target, inputs, outputs, *_ = CELLS[cell]
    ours = primitive_models(f"{cell} cell();")[f"{cell}.v"]
    pins = ", ".join(f".{name}({name})" for name in inputs.split())
    width = len(outputs.split())
    pairs = []
    for index, parameters in enumerate(instances(cell)):
        for model, place in (("ours", 0), (cell, width)):
            results = ", ".join(
                f".{name}(results[{2 * width * index + place + bit}])"
                for bit, name in enumerate(outputs.split())
            )
            pairs.append(
                f"  {model} {f'#({parameters}) ' if parameters else ''}{model}_{index}({pins}, {results});"
            )
    (tmp_path / "bench.v").write_text(
        f"""module bench;
  reg {inputs.replace(" ", ", ")};
  wire [{len(pairs) * width - 1}:0] results;
  integer i, j, wrong = 0;
  initial begin
    for (i = 0; i < {1 << len(inputs.split())}; i = i + 1) begin
      {{{inputs.replace(" ", ", ")}}} = i;
      #1000;
      for (j = 0; j < {len(pairs) * width}; j = j + {2 * width})
        if (results[j +: {width}] !== results[j + {width} +: {width}] || ^results[j +: {width}] === 1'bx)
          wrong = wrong + 1;
    end
    $display("%0d wrong of %0d", wrong, i);
  end
{chr(10).join(pairs)}
endmodule
{re.sub(rf"^module {cell}", "module ours", ours, flags=re.MULTILINE)}
{cell_models(cell, target)}"""
    )
    assert run_icarus(icarus, tmp_path) == [f"0 wrong of {1 << len(inputs.split())}"]
