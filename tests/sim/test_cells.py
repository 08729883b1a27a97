"""Models of the ECP5's multiplier and block RAM against integer arithmetic and a list of bits."""

import itertools
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bitwright.sim.rtl import primitive_models
from bitwright.sim.tools import ToolError, find_simulator


def run_icarus(folder: Path, verilog: str) -> list[str]:
    """What module `bench` prints."""
    try:
        icarus = find_simulator("icarus").executable
    except ToolError as error:
        pytest.skip(str(error))
    (folder / "bench.v").write_text(verilog)
    command: list[Any] = [icarus, "-g2005", "-s", "bench", "-o", "bench.vvp", "bench.v"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()


def pins(name: str, signal: str, width: int) -> str:
    return ", ".join(f".{name}{bit}({signal}[{bit}])" for bit in range(width))


def model(cell: str) -> str:
    return primitive_models(f"{cell} cell();")[f"{cell}.v"]


def played(
    folder: Path, inputs: dict[str, int], cycles: list[dict[str, int]], instance: str, cell: str
) -> list[int]:
    """Value of `o` in each cycle, before its clock edge."""
    words = ["".join(format(cycle[name], f"0{width}b") for name, width in inputs.items()) for cycle in cycles]
    (folder / "cycles.bin").write_text("\n".join(words))
    lines = run_icarus(
        folder,
        f"""module bench;
  reg clk = 0;
  {" ".join(f"reg [{width - 1}:0] {name};" for name, width in inputs.items())}
  wire [35:0] o;
  {instance}
  reg [{len(words[0]) - 1}:0] cycles [0:{len(cycles) - 1}];
  integer i;
  initial begin
    $readmemb("cycles.bin", cycles);
    for (i = 0; i < {len(cycles)}; i = i + 1) begin
      {{{", ".join(inputs)}}} = cycles[i];
      #5 $display("%h", o);
      clk = 1;
      #5 clk = 0;
    end
  end
endmodule
{model(cell)}""",
    )
    assert len(lines) == len(cycles)
    return [int(line, 16) for line in lines]


def signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("registers", ["", "AB", "P", "ABP", "ABOP"])
def test_multiplier(is_signed: bool, registers: str, tmp_path: Path) -> None:
    """A and B, the pipeline (P) and the output (O) with registers or not, and an enable for all of them."""
    seed = 1
    print("seed", seed)
    rng = random.Random(seed)
    corners = [0, 1, (1 << 17) - 1, 1 << 17, (1 << 18) - 1]
    pairs = [(a, b) for a in corners for b in corners]
    pairs += [(rng.getrandbits(18), rng.getrandbits(18)) for _ in range(100)]
    cycles = [
        {"a": a, "b": b, "ce": int(rng.random() < 0.8), "rst": int(rng.random() < 0.05)} for a, b in pairs
    ]
    names = {"A": "INPUTA", "B": "INPUTB", "P": "PIPELINE", "O": "OUTPUT"}
    parameters = ", ".join(
        f'.REG_{name}_CLK("{"CLK2" if letter in registers else "NONE"}"), '
        f'.REG_{name}_CE("CE1"), .REG_{name}_RST("RST3")'
        for letter, name in names.items()
    )
    instance = f"""MULT18X18D #({parameters}) dut (
    {pins("A", "a", 18)}, {pins("B", "b", 18)}, {pins("P", "o", 36)}, .SIGNEDA(1'b{is_signed:d}),
    .SIGNEDB(1'b{is_signed:d}), .SOURCEA(1'b0), .SOURCEB(1'b0), .CLK2(clk), .CE1(ce), .RST3(rst));"""
    inputs = {"a": 18, "b": 18, "ce": 1, "rst": 1}
    found = played(tmp_path, inputs, cycles, instance, "MULT18X18D")

    a = b = pipeline = output = 0
    for cycle, value in zip(cycles, found, strict=True):
        x, y = (a, b) if "A" in registers else (cycle["a"], cycle["b"])
        product = signed(x, 18) * signed(y, 18) if is_signed else x * y
        middle = pipeline if "P" in registers else product
        result = output if "O" in registers else middle
        assert value == result & (1 << 36) - 1
        if cycle["rst"]:
            a = b = pipeline = output = 0
        elif cycle["ce"]:
            a, b, pipeline, output = cycle["a"], cycle["b"], product, middle


# Those of 8 and of 9 bits to a byte do not mix.
PAIRS = [pair for widths in ((1, 2, 4), (9, 18, 36)) for pair in itertools.product(widths, repeat=2)]


@pytest.mark.parametrize(
    ("write", "read"),
    PAIRS,
)
@pytest.mark.parametrize("register", [False, True])
def test_block_ram(write: int, read: int, register: bool, tmp_path: Path) -> None:
    """Port A writes and port B reads, at all pairs of widths, against a list of bits."""
    seed = 100 * write + read
    print("seed", seed)
    rng = random.Random(seed)
    inputs = {"we": 1, "wa": 14, "d": 36, "re": 1, "ra": 14, "rst": 1}
    low = {1: 0, 2: 1, 4: 2, 9: 3, 18: 4, 36: 5}
    cycles = []
    for _ in range(400):
        # Few places, so that what was written is read.
        wa = rng.randrange(4) << low[36] + 3 | rng.getrandbits(8)
        ra = rng.randrange(4) << low[36] + 3 | rng.getrandbits(8)
        if write < 18:
            wa &= -1 << low[write]
        if ra >> 5 == wa >> 5:
            ra ^= 1 << 5
        cycles.append(
            {"we": rng.getrandbits(1), "wa": wa, "d": rng.getrandbits(36), "re": rng.getrandbits(1)}
            | {"ra": ra & -1 << low[read], "rst": int(rng.random() < 0.02)}
        )
    high = "dib" if write == 36 else "zero"
    data_out = {36: pins("DOA", "o", 18) + ", " + ", ".join(f".DOB{b}(o[{b + 18}])" for b in range(18))}.get(
        read, pins("DOB", "o", 18)
    )
    instance = f"""wire [17:0] zero = 0, dib = d[35:18];
  {"assign o[35:18] = 0;" if read < 36 else ""}
  DP16KD #(.DATA_WIDTH_A({write}), .DATA_WIDTH_B({read}), .INITVAL_01(320'h{0x2A5A5:x}),
    .REGMODE_B("{"OUTREG" if register else "NOREG"}")) dut (
    {pins("DIA", "d", 18)}, {pins("DIB", high, 18)}, {pins("ADA", "wa", 14)}, {pins("ADB", "ra", 14)},
    {data_out},
    .CLKA(clk), .CLKB(clk), .CEA(1'b1), .CEB(re), .OCEA(1'b0), .OCEB(1'b1), .WEA(we), .WEB(1'b0),
    .RSTA(1'b0), .RSTB(rst), .CSA0(1'b0), .CSA1(1'b0), .CSA2(1'b0), .CSB0(1'b0), .CSB1(1'b0), .CSB2(1'b0));"""
    found = played(tmp_path, inputs, cycles, instance, "DP16KD")

    # Of a width of 1, 2 or 4, eight bits of nine.
    size = 9 if write >= 9 else 8
    bits = [0] * 2048 * size
    for bit in range(18):
        if bit % 9 < size:
            bits[32 * size + bit // 9 * size + bit % 9] = 0x2A5A5 >> bit & 1

    def place(address: int, width: int) -> int:
        if width < 9:
            return address >> low[width] << low[width]
        return (address >> low[width]) * width

    latch = output = 0
    reads = 0
    for cycle, value in zip(cycles, found, strict=True):
        expected = output if register else latch
        assert value == expected
        reads += value != 0
        output = latch
        if cycle["rst"]:
            latch = output = 0
        elif cycle["re"]:
            start = place(cycle["ra"], read)
            latch = sum(bits[start + index] << index for index in range(read))
        if cycle["we"]:
            start = place(cycle["wa"], write)
            for index in range(write):
                if write < 18 or cycle["wa"] >> index // 9 & 1:
                    bits[start + index] = cycle["d"] >> index & 1
    assert reads > 10


def test_what_is_not_modelled_is_said(tmp_path: Path) -> None:
    instance = 'MULT18X18D #(.MULT_BYPASS("ENABLED")) dut ();'
    text = run_icarus(tmp_path, f"module bench; {instance} endmodule\n" + model("MULT18X18D"))
    assert text[:3] == ["MULT18X18D:", "a", "mode"]
