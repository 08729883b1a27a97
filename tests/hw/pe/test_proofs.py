"""Every unit at a small width equals integer arithmetic, for all values: proved by a SAT solver."""

import re
import sys

import pytest

from bitwright.gen.formal.units import CASES
from bitwright.gen.proof import NotProvedError, prove
from bitwright.gen.toolchain import ToolFailedError, ToolTimeoutError
from bitwright.hw.errors import BitwrightError
from bitwright.hw.formats import Int
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Beat, Precision
from bitwright.hw.pe.parallel import Parallel, ParallelUnit
from bitwright.hw.pe.unpu import Unpu
from bitwright.hw.reduce.carry import FABRICS


def test_every_unit_is_here():
    assert {case.name for case in CASES} == set(UNITS)


@pytest.mark.parametrize("fabric", FABRICS)
@pytest.mark.parametrize("case", CASES, ids=[case.label.removeprefix("unit-") for case in CASES])
def test_proved(case, fabric, tmp_path):
    precision = Precision.parse(case.precision)
    spec = UNITS[case.name](precisions=(precision,), reduction=16, fabric=fabric, **case.parameters)
    prove(spec, precision, tmp_path, lengths=case.lengths, free=case.free)


class Wrong(Bismo):
    """Takes the sign plane for any other."""

    def beats(self, precision):
        return tuple(
            Beat(beat.activation, beat.weight, shift=beat.shift, control={"negate": 0})
            for beat in super().beats(precision)
        )


def build(name="a2w2", unit=Bismo, **parameters):
    precision = Precision.parse(name)
    return unit(**{"lanes": 4, "precisions": (precision,), "reduction": 16, **parameters}), precision


def lists(text):
    """Values of activations and weights of each step in a message."""
    found = re.findall(r"dot product \d+, step \d+: a = \[(.*)\], w = \[(.*)\]", text)
    return [[list(map(int, values.split(","))) for values in pair] for pair in found]


def test_a_counterexample_is_one(tmp_path):
    """Values of a dot product whose sum is what was expected, and not what came; words that hold them."""
    spec, precision = build(unit=Wrong)
    with pytest.raises(NotProvedError) as caught:
        prove(spec, precision, tmp_path)
    text = str(caught.value)
    print(text)
    assert caught.value.log == tmp_path / "proof.log"
    assert str(caught.value.log) in text
    assert "Time Signal Name" in caught.value.log.read_text()
    said = re.search(r"cycle \d+: dot product ([01]): expected (-?\d+), got (-?\d+)$", text, re.MULTILINE)
    assert said
    products = lists(text)
    assert len(products) == 2
    a, w = products[int(said[1])]
    assert sum(x * y for x, y in zip(a, w, strict=True)) == int(said[2])
    # What came is the sum with every plane counted as positive.
    unsigned = [[value % 4 for value in values] for values in (a, w)]
    assert sum(x * y for x, y in zip(*unsigned, strict=True)) == int(said[3])
    beats = re.findall(
        r"step 0, word (\d) of a (\d+), word (\d) of w (\d+), shift (\d), negate 0$", text, re.M
    )
    assert [(int(i), int(j)) for i, _, j, *_ in beats] == [(1, 1), (1, 0), (0, 1), (0, 0)]
    assert [int(shift) for *_, shift in beats] == [0, 1, 0, 1]
    for i, a_word, j, w_word, _ in beats:
        assert a_word == "".join(str(value >> int(i) & 1) for value in reversed(a))
        assert w_word == "".join(str(value >> int(j) & 1) for value in reversed(w))


def test_elements_that_are_not_free_are_shown_too(tmp_path):
    spec, precision = build(unit=Wrong)
    with pytest.raises(NotProvedError) as caught:
        prove(spec, precision, tmp_path, lengths=(2,), free=2)
    steps = lists(str(caught.value))
    assert [len(values) for step in steps for values in step] == [4] * 4
    said = re.search(r"expected (-?\d+), got", str(caught.value))
    assert said
    assert sum(x * y for a, w in steps for x, y in zip(a, w, strict=True)) == int(said[1])


class LateUnit(ParallelUnit):
    """Never says that a result is there."""

    def compute(self, datapath):
        result = super().compute(datapath)
        return type(result)(result.total, result.valid & 0, result.time)


class EagerUnit(ParallelUnit):
    """Always says that a result is there."""

    def compute(self, datapath):
        result = super().compute(datapath)
        return type(result)(result.total, result.valid | 1, result.time)


@pytest.mark.parametrize(
    ("unit", "complaint"),
    [
        (LateUnit, r"cycle \d+: dot product 0: expected -?\d+, but o_valid is 0\n"),
        (EagerUnit, r"cycle 0: o_valid is 1, and no result is due\n"),
    ],
)
def test_results_at_the_wrong_time(unit, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(Parallel, "unit", lambda spec: unit(spec))
    spec, precision = build(unit=Parallel, lanes=2)
    with pytest.raises(NotProvedError, match=complaint):
        prove(spec, precision, tmp_path)


def test_a_wrong_multiplier_block_is_found(tmp_path):
    """The product of an unsigned weight, taken for a signed one."""

    class WrongBlocks(Parallel):
        def unit(self):
            wrong = Parallel(
                lanes=self.lanes, precisions=self.precisions, reduction=self.reduction, multiplier="dsp"
            )
            wrong.__dict__["weight"] = Int(3)
            return wrong.unit()

    spec, precision = build("a2wu3", WrongBlocks, lanes=2, multiplier="dsp")
    with pytest.raises(NotProvedError, match=r"expected -?\d+, got -?\d+"):
        prove(spec, precision, tmp_path)


def test_the_folder_is_made_and_what_a_killed_run_left_does_not_matter(tmp_path):
    spec, precision = build("a1w1")
    folder = tmp_path / "deep" / "down"
    prove(spec, precision, folder, lengths=(1,))
    (folder / "proof.log.tmp").mkdir()
    (folder / "proof.log.tmp" / "left").touch()
    prove(spec, precision, folder, lengths=(1,))
    assert sorted(path.name for path in folder.iterdir()) == ["miter.il", "proof.log"]
    with pytest.raises(BitwrightError, match=r"proof\.log: cannot be written: "):
        prove(spec, precision, folder / "proof.log")


def test_refuses(tmp_path):
    spec, precision = build()
    other = Precision.parse("a3w3")
    with pytest.raises(BitwrightError, match="bismo: precision = a3w3: the unit is built for a2w2"):
        prove(spec, other, tmp_path)
    several, _ = build(unit=Unpu, lanes=5)
    with pytest.raises(BitwrightError, match=r"unpu: outputs = 16: .*build it with outputs=1"):
        prove(several, precision, tmp_path)
    for lengths in ((), (1, 0)):
        with pytest.raises(BitwrightError, match=r"lengths = \(.*\): must be"):
            prove(spec, precision, tmp_path, lengths=lengths)
    with pytest.raises(BitwrightError, match="free = 0: must be at least 1"):
        prove(spec, precision, tmp_path, free=0)
    wide, at8 = build("a8w8", Unpu, lanes=5, outputs=1)
    with pytest.raises(BitwrightError, match="depends on 5 elements of 8 bits: there are too many values"):
        prove(wide, at8, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_solver_that_is_stopped_or_crashes(tmp_path, monkeypatch):
    """Neither is a counterexample, whatever an earlier log says."""
    spec, precision = build()
    (tmp_path / "proof.log").write_text("model found: FAIL!")
    with pytest.raises(
        ToolTimeoutError, match=r"did not finish within 0\.01 s and was stopped: nothing is proved"
    ):
        prove(spec, precision, tmp_path, timeout=0.01)
    script = tmp_path / "yosys"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nprint('Yosys 0.60')\nsys.exit('-V' not in sys.argv)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(script))
    with pytest.raises(ToolFailedError, match=r"yosys 0\.60 failed \(exit status 1\)"):
        prove(spec, precision, tmp_path)
