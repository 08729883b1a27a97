"""What the contract derives from a unit's data, over all units."""

import numpy as np
import pytest

from bitwright.hw.formats import Bipolar, Int, PowerOfTwo, Ternary
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import Beat, Order, Precision, enclosing

SMALL = {
    "parallel": ("a4w3", {"lanes": 8, "multiplier": "lut"}),
    "bitfusion": ("a4w4", {"lanes": 4}),
    "bitblade": ("a4w4", {"lanes": 4}),
    "stripes": ("a3w4", {"lanes": 8}),
    "unpu": ("a4w2", {"lanes": 10, "outputs": 2}),
    "loom": ("a2w3", {"lanes": 32}),
    "bismo": ("a2w3", {"lanes": 16}),
    "xnor": ("a4wb", {"lanes": 8}),
    "ternary": ("a4wt", {"lanes": 8}),
    "log2": ("a4wp3", {"lanes": 8}),
}


def build(name, **changes):
    precision, parameters = SMALL[name]
    return UNITS[name](precisions=(Precision.parse(precision),), reduction=100, **{**parameters, **changes})


def test_every_unit_is_here():
    assert set(SMALL) == set(UNITS)
    assert all(name == unit.name for name, unit in UNITS.items())


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_fewer_registers_shorten_the_latency_only(name, stride, exercise):
    unit = build(name, stride=stride)
    assert unit.latency < build(name).latency
    exercise(unit, unit.precisions[0], count=2)


@pytest.mark.parametrize("name", SMALL)
def test_words_have_the_declared_shapes(name):
    unit = build(name)
    precision = unit.precisions[0]
    elements = unit.elements(precision)
    beats = unit.beats(precision)
    a = unit.activation_bits(np.zeros((3, elements), np.int64) + precision.activation.max, precision)
    w = unit.weight_bits(np.zeros((3, elements), np.int64) + precision.weight.max, precision)
    assert a.shape == (3, 1 + max(beat.activation for beat in beats), unit.activation_word_bits)
    assert w.shape == (3, 1 + max(beat.weight for beat in beats), unit.weight_word_bits)
    assert set(np.unique(np.concatenate([a.reshape(-1), w.reshape(-1)]))) <= {0, 1}
    assert unit.macs_per_cycle(precision) == unit.outputs * elements / len(beats)
    assert unit.steps(elements * 5 + 1, precision) == 6


@pytest.mark.parametrize("name", SMALL)
def test_values_that_do_not_fit_are_refused(name):
    unit = build(name)
    precision = unit.precisions[0]
    values = np.zeros(unit.elements(precision), np.int64) + precision.activation.max
    values[-1] += 1
    with pytest.raises(ValueError, match="do not fit"):
        unit.activation_bits(values, precision)
    values[:] = precision.weight.max + 1
    with pytest.raises(ValueError, match="do not fit"):
        unit.weight_bits(values, precision)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lanes": 0}, "lanes = 0"),
        ({"reduction": 0}, "reduction = 0: must be at least 1"),
        ({"stride": 0}, "stride = 0: must be at least 1"),
        ({"fabric": "asic"}, "must be one of generic, ecp5, ice40"),
    ],
)
def test_parameters_out_of_range(name, changes, complaint):
    precision, parameters = SMALL[name]
    values = {"precisions": (Precision.parse(precision),), "reduction": 9, **parameters, **changes}
    with pytest.raises(ValueError, match=complaint):
        UNITS[name](**values)


def test_schedules():
    unit = build("bismo")
    beats = unit.beats(unit.precisions[0])
    assert unit.order is Order.BEATS_OUTSIDE
    assert [(step, beat) for step, beat, _ in unit.schedule(2, unit.precisions[0])] == [
        (step, beat) for beat in beats for step in range(2)
    ]
    assert [shift for *_, shift in unit.schedule(2, unit.precisions[0])][::2] == [
        beat.shift for beat in beats
    ]
    assert not any([shift for *_, shift in unit.schedule(2, unit.precisions[0])][1::2])
    loom = build("loom")
    assert loom.order is Order.STEPS_OUTSIDE
    assert [step for step, *_ in loom.schedule(2, loom.precisions[0])] == [0] * 6 + [1] * 6
    assert loom.resumes(loom.precisions[0])
    assert not unit.resumes(unit.precisions[0])


def test_beats_of_plane_pairs():
    """Descending significance, a shift where it falls, negative where one plane is a sign."""
    precision = Precision.parse("a2wu2")
    assert Bismo(lanes=4, precisions=(precision,)).beats(precision) == (
        Beat(1, 1, control={"negate": 1}),
        Beat(1, 0, shift=True, control={"negate": 1}),
        Beat(0, 1, control={"negate": 0}),
        Beat(0, 0, shift=True, control={"negate": 0}),
    )


@pytest.mark.parametrize("text", ["a8w8", "au4w16", "abwb", "atwt", "a8wp4", "au1wu1"])
def test_precision_names(text):
    assert str(Precision.parse(text)) == text


@pytest.mark.parametrize("text", ["8x8", "a8", "aw8", "a8w8 ", "abw-1", "a8wp"])
def test_what_is_no_precision(text):
    with pytest.raises(ValueError, match="is no precision"):
        Precision.parse(text)


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ([Int(8)], Int(8)),
        ([Int(4, signed=False)], Int(4, signed=False)),
        ([Int(8), Int(8, signed=False)], Int(9)),
        ([Int(2), Int(4, signed=False)], Int(5)),
        ([Bipolar()], Int(2)),
        ([Ternary(), Int(1)], Int(2)),
        ([PowerOfTwo(4)], Int(8)),
    ],
)
def test_enclosing(formats, expected):
    assert enclosing(formats) == expected


def test_accumulator_holds_the_extremes_and_no_more():
    for text, terms in (("a8w8", 256), ("au8wu8", 100), ("abwb", 64), ("a1w1", 7)):
        precision = Precision.parse(text)
        unit = next(unit for unit in UNITS.values() if unit.supported(precision))
        spec = unit(lanes=8, precisions=(precision,), reduction=terms)
        low, high = (terms * value for value in precision.products())
        narrower = Int(spec.accumulator_bits - 1)
        assert Int(spec.accumulator_bits).contains(np.array([low, high]))
        assert not narrower.contains(np.array([low, high]))
