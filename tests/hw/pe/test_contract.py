"""What the contract derives from a unit's data, over all units."""

from dataclasses import dataclass

import numpy as np
import pytest

from bitwright.hw.emission import never_elaborated
from bitwright.hw.formats import Bipolar, Int, PowerOfTwo, Ternary
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.bismo import Bismo
from bitwright.hw.pe.contract import (
    Beat,
    DotProduct,
    Layout,
    Order,
    Precision,
    enclosing,
    packed_bits,
    planar_bits,
)
from bitwright.hw.pe.parallel import Parallel

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
def test_layouts_are_as_declared(name):
    """Activations bit for bit, as a feeder takes them where there is one; weights are encoded."""
    unit = build(name)
    precision = unit.precisions[0]
    a, w = (
        np.random.default_rng(1).choice(format.values, (3, unit.elements(precision))) for format in precision
    )
    feeder = unit.feeder()
    if feeder is not None:
        words = never_elaborated(feeder).stored_bits(a, precision)[:, None]
    else:
        words = unit.activation_bits(a, precision)
    if unit.activation_layout is Layout.PLANAR:
        assert (words == planar_bits(precision.activation, a)).all()
    else:
        assert (words == packed_bits(precision.activation, a)[:, None]).all()
    planes = precision.weight.bits if unit.weight_layout is Layout.PLANAR else 1
    assert unit.weight_bits(w, precision).shape[1] == planes


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


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lanes": 8.0}, r"lanes = 8\.0: must be an integer, at least 1"),
        ({"lanes": "8"}, "lanes = '8': must be an integer"),
        ({"lanes": True}, "lanes = True: must be an integer"),
        ({"reduction": None}, "reduction = None: must be an integer"),
        ({"stride": 1.5}, r"stride = 1\.5: must be an integer"),
        ({"precisions": Precision.parse("a2w2")}, r"precisions = .*: must be a tuple of Precision"),
        ({"precisions": ("a2w2",)}, r"such as \(Precision\.parse\('a8w8'\),\)"),
        ({"precisions": "a2w2"}, r"precisions = 'a2w2': must be a tuple"),
        ({"precisions": [Precision.parse("a2w2")]}, "must be a tuple"),
    ],
)
def test_parameters_of_another_kind(name, changes, complaint):
    with pytest.raises(TypeError, match=f"^{name}: .*{complaint}"):
        build_of(name, **changes)


def build_of(name, **changes):
    precision, parameters = SMALL[name]
    values = {"precisions": (Precision.parse(precision),), "reduction": 9, **parameters, **changes}
    return UNITS[name](**values)


@pytest.mark.parametrize("name", ["parallel", "unpu"])
def test_outputs_are_a_number(name):
    with pytest.raises(TypeError, match=rf"{name}: outputs = 2\.0: must be an integer"):
        build_of(name, outputs=2.0)


@pytest.mark.parametrize("name", SMALL)
def test_lists_are_packed_as_arrays_are(name):
    unit = build(name)
    precision = unit.precisions[0]
    rng = np.random.default_rng(1)
    a, w = (rng.choice(format.values, unit.elements(precision)) for format in precision)
    assert (unit.activation_bits(a.tolist(), precision) == unit.activation_bits(a, precision)).all()
    assert (unit.weight_bits(w.tolist(), precision) == unit.weight_bits(w, precision)).all()


@pytest.mark.parametrize("operand", ["activation", "weight"])
@pytest.mark.parametrize("name", SMALL)
def test_operands_of_another_kind(name, operand):
    unit = build(name)
    precision = unit.precisions[0]
    pack = getattr(unit, f"{operand}_bits")
    count = unit.elements(precision)
    for values in (np.ones(count), [1.0] * count, ["1"] * count, [True] * count, [None] * count):
        with pytest.raises(TypeError, match=f"^{name}: {operand}s must be integers, not "):
            pack(values, precision)
    for shape in ((count + 1,), (count - 1,), (2, 1), ()):
        with pytest.raises(
            ValueError, match=rf"{operand}s of shape .*: a step at {precision} has {count} elem"
        ):
            pack(np.ones(shape, np.int64), precision)
    with pytest.raises(TypeError, match="precision = 'a2w2': must be a Precision, such as"):
        pack([1] * count, "a2w2")
    with pytest.raises(ValueError, match=f"{name} does not support precision a17w17"):
        pack([1] * count, Precision.parse("a17w17"))


def test_weights_of_several_outputs_have_an_axis_for_them():
    unit = build("parallel", outputs=3)
    precision = unit.precisions[0]
    assert unit.weight_bits(np.ones((5, 3, 8), np.int64), precision).shape == (5, 1, unit.weight_word_bits)
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 3, 8\), for \(\.\.\., outputs, elements\)"):
        unit.weight_bits(np.ones((5, 8), np.int64), precision)


DECLARED = {
    "name": "incomplete",
    "supports": "nothing",
    "activation_layout": Layout.PACKED,
    "weight_layout": Layout.PACKED,
}


@pytest.mark.parametrize("missing", DECLARED)
def test_a_class_that_leaves_something_out(missing):
    methods = {
        name: getattr(Parallel, name)
        for name in (
            *("supported", "activation_word_bits", "weight_word_bits"),
            *("pack_activations", "pack_weights", "unit"),
        )
    }
    declared = {name: value for name, value in DECLARED.items() if name != missing}
    with pytest.raises(TypeError, match=f"^Incomplete does not declare {missing}: "):
        type("Incomplete", (DotProduct,), {**methods, **declared})
    complete = dataclass(frozen=True, kw_only=True)(type("Complete", (DotProduct,), {**methods, **DECLARED}))
    assert complete.name == "incomplete"
    # What lacks a method is no unit yet: those that have it say the rest.
    del methods["unit"]
    base = type("Base", (DotProduct,), {**methods, **declared})
    with pytest.raises(TypeError, match=f"^Incomplete does not declare {missing}: "):
        type("Incomplete", (base,), {"unit": Parallel.unit})
    assert type("Complete", (base,), {"unit": Parallel.unit, missing: DECLARED[missing]})


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
