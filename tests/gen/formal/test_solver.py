"""What the solver says of benches that are small enough to know it beforehand."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bitwright.gen.formal.__main__ import jobs, main
from bitwright.gen.formal.catalogue import PROOFS
from bitwright.gen.formal.solver import DisprovedError, solve
from bitwright.gen.formal.units import CASES
from bitwright.gen.toolchain import ToolTimeoutError
from bitwright.hw.errors import BitwrightError
from bitwright.hw.memory.ram import Ram
from bitwright.sim.tools import ToolError


class Counter(wiring.Component):
    """Counts up to 12 while it is told to, and stays there."""

    def __init__(self):
        super().__init__({"go": In(1), "count": Out(4)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.go & (self.count != 12)):
            m.d.sync += self.count.eq(self.count + 1)
        return m


def counting(bench, *, most=12, goal=12, twice=None):
    dut = bench.add(Counter())
    bench.rest(dut)
    bench.claim("it is never less than nothing", dut.count >= 0)
    bench.claim("it does not pass its end", dut.count <= most)
    if twice is not None:
        before = bench.before(dut.count)
        bench.claim("one at a time", dut.count <= before + twice)
    bench.goal("it gets there", dut.count == goal)


@pytest.mark.parametrize("how", [{}, {"steps": 2}, {"depth": 14}])
def test_proved(how, tmp_path):
    result = solve("counter", lambda bench: counting(bench, twice=1), tmp_path, **how)
    assert result.claims == ("it is never less than nothing", "it does not pass its end", "one at a time")
    assert result.reached == {"it gets there": 12}


@pytest.mark.parametrize("how", [{}, {"steps": 2}, {"depth": 14}])
def test_disproved_in_the_first_cycle_in_which_it_can_be(how, tmp_path):
    with pytest.raises(DisprovedError, match="counter: 'it does not pass its end'") as caught:
        solve("counter", lambda bench: counting(bench, most=9), tmp_path, **how)
    assert caught.value.claim == "it does not pass its end"
    # Reachability need not find the shortest way.
    assert caught.value.cycle == 10 if how else caught.value.cycle >= 10
    assert caught.value.trace == tmp_path / "trace.vcd"
    assert "dut_count" in caught.value.trace.read_text()


def test_what_is_beyond_the_bound_is_not_seen(tmp_path):
    solve("counter", lambda bench: counting(bench, most=9, goal=5), tmp_path, depth=9)


def test_a_goal_out_of_reach(tmp_path):
    with pytest.raises(BitwrightError, match=r"'it gets there' cannot happen within 21 cycles"):
        solve("counter", lambda bench: counting(bench, goal=13), tmp_path, depth=20)


def test_an_assumption_that_excludes_everything(tmp_path):
    def bench_of(bench):
        counting(bench, most=9)
        bench.assume(Signal())  # never

    with pytest.raises(BitwrightError, match="cannot happen"):
        solve("counter", bench_of, tmp_path)


def memory(bench, *, apart):
    """A word that has been written comes out, if none is read in the cycle in which it is written."""
    dut = bench.add(Ram(width=2, depth=4))
    bench.rest(dut)
    place, word, there = bench.constant(2), Signal(2), Signal()
    written = dut.write_enable & (dut.write_address == place)
    with bench.m.If(written):
        bench.m.d.sync += [word.eq(dut.write_data), there.eq(1)]
    if apart:
        bench.assume(~(dut.write_enable & dut.read_enable & (dut.write_address == dut.read_address)))
    read = bench.before(dut.read_enable & (dut.read_address == place) & there)
    bench.claim("what is read was written", ~read | (dut.read_data == bench.before(word)))
    bench.goal("it is read", read)


def test_memories_give_anything_when_a_word_is_read_as_it_is_written(tmp_path):
    assert solve("memory", lambda bench: memory(bench, apart=True), tmp_path).reached == {"it is read": 2}
    with pytest.raises(DisprovedError, match="what is read was written"):
        solve("memory", lambda bench: memory(bench, apart=False), tmp_path)


def test_registers_may_have_any_value_before_the_reset(tmp_path):
    def bench_of(bench):
        register = Signal(reset_less=True)
        bench.m.d.sync += register.eq(register)
        bench.claim("it is 0", ~register)

    with pytest.raises(DisprovedError, match="cycle 0 "):
        solve("register", bench_of, tmp_path)


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match="either by induction or bounded"):
        solve("counter", counting, tmp_path, steps=1, depth=1)
    with pytest.raises(ToolTimeoutError, match=r"counter: .*nothing is proved"):
        solve("counter", counting, tmp_path, timeout=0.01)
    (tmp_path / "file").touch()
    with pytest.raises(BitwrightError, match="cannot be written"):
        solve("counter", counting, tmp_path / "file")

    def unknown(bench):
        counting(bench)
        bench.claim("inside", bench.inside("nowhere.signal", 1))

    with pytest.raises(ValueError, match="nowhere: there is no such component"):
        solve("counter", unknown, tmp_path)


def test_what_is_true_but_not_inductive_is_not_called_proved(tmp_path):
    def bench_of(bench):
        state = Signal(3)  # 0 and 1 in turn; 2 to 7 go round, and end in 7, but are never reached
        following = Signal(3)
        with bench.m.Switch(state):
            for value, after in enumerate((1, 0, 3, 4, 5, 6, 7, 2)):
                with bench.m.Case(value):
                    bench.m.d.comb += following.eq(after)
        bench.m.d.sync += state.eq(following)
        bench.claim("it is not 7", state != 7)

    with pytest.raises(ToolError, match="neither an induction over 3 cycles nor a mistake"):
        solve("states", bench_of, tmp_path, steps=3)
    assert solve("states", bench_of, tmp_path).claims == ("it is not 7",)


def test_command_line(tmp_path, capsys):
    assert main(["tokens", "--work", str(tmp_path)]) == 0
    assert "1 of 1 proved" in capsys.readouterr().out
    assert (tmp_path / "tokens" / "bench.il").exists()
    assert main(["tokens", "--timeout", "0.01"]) == 1
    assert "tokens             NOT PROVED" in capsys.readouterr().out
    assert main(["no-such"]) == 2
    assert "NAMES = 'no-such': must be among fifo, " in capsys.readouterr().err
    assert main(["--record", "fifo"]) == 2
    assert "--record: is of all proofs" in capsys.readouterr().err


def test_list(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(jobs())
    assert set(jobs()) == set(PROOFS) | {case.label for case in CASES}
    assert len(jobs()) == len(PROOFS) + len(CASES)
