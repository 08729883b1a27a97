"""Where the bits of a row lie, and that it is what units take."""

import numpy as np
import pytest

from bitwright.hw.emission import never_elaborated
from bitwright.hw.formats import Bipolar, Int, Ternary
from bitwright.hw.pe import UNITS
from bitwright.hw.pe.contract import Precision
from bitwright.hw.storage import ACCUMULATORS, Storage


def test_packed():
    storage = Storage(format=Int(4), bits=4, block=4, planar=False)
    bits = storage.encode(np.array([[1, -1, 2]]))
    assert bits.tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert storage.decode(bits, 3).tolist() == [[1, -1, 2]]


def test_planar():
    storage = Storage(format=Int(2), bits=2, block=4, planar=True)
    bits = storage.encode(np.array([1, -1, -2, 0, -1]))
    assert bits.tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert storage.decode(bits, 5).tolist() == [1, -1, -2, 0, -1]
    assert (storage.words, storage.blocks(5), storage.row_bits(5)) == (2, 2, 16)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("format", "bits"),
    [
        *((Int(3), 3), (Int(3), 8), (Int(3, signed=False), 4), (Int(8), 8), (Bipolar(), 1), (Bipolar(), 2)),
        *((Ternary(), 2), (Ternary(), 4)),
    ],
)
def test_there_and_back(format, bits, planar):
    storage = Storage(format=format, bits=bits, block=5, planar=planar)
    for elements in (1, 4, 5, 6, 23):
        values = np.random.default_rng(elements).choice(format.values, (2, 3, elements))
        encoded = storage.encode(values)
        assert encoded.shape == (2, 3, storage.row_bits(elements))
        padded = np.concatenate([encoded, np.ones((2, 3, 7), np.uint8)], axis=-1)
        assert (storage.decode(padded, elements) == values).all()


def test_values_that_do_not_fit():
    with pytest.raises(ValueError, match=r"Values 0\.\.0 do not fit bipolar"):
        Storage(format=Bipolar(), bits=2, block=1, planar=False).encode(np.array([0]))
    with pytest.raises(ValueError, match=r"Values -5\.\.4 do not fit int3"):
        Storage(format=Int(3), bits=8, block=1, planar=False).encode(np.array([-5, 4]))


def test_accumulators():
    values = np.array([[-(2**31), 2**31 - 1, -1]])
    encoded = ACCUMULATORS.encode(values)
    assert np.packbits(encoded, axis=-1, bitorder="little").tobytes() == values.astype("<i4").tobytes()
    assert (ACCUMULATORS.decode(encoded, 3) == values).all()


@pytest.mark.parametrize(
    ("pe", "lanes", "precisions"),
    [
        ("parallel", 4, ("a8w8", "a4w2", "au7w3")),
        ("bitfusion", 2, ("a8w8", "a4w4", "abwb", "atw2")),
        ("bitblade", 3, ("a4w4",)),
        ("stripes", 5, ("a3w4", "au8w2")),
        ("unpu", 7, ("a8w2", "a3w1")),
        ("loom", 6, ("a2w2", "au5w1")),
        ("bismo", 9, ("a1w1", "a4w2")),
        ("xnor", 4, ("abwb",)),
        ("xnor", 4, ("a4wb",)),
        ("ternary", 4, ("atwt",)),
        ("log2", 4, ("a8wp3",)),
    ],
)
def test_what_units_take(pe, lanes, precisions):
    """The words of a unit, or of its feeder, of what is stored together."""
    parsed = tuple(map(Precision.parse, precisions))
    unit = UNITS[pe](lanes=lanes, precisions=parsed)
    for precision in parsed:
        storage = Storage.of(unit, precision)
        values = np.random.default_rng(1).choice(precision.activation.values, (2, storage.block))
        feeder = unit.feeder()
        if feeder is None:
            words = unit.activation_bits(values, precision)
        else:
            words = never_elaborated(feeder).stored_bits(values, precision)
        assert (storage.encode(values) == words.reshape(2, -1)).all()
        assert storage.format == precision.activation


def test_a_unit_that_takes_activations_in_another_way():
    precision = Precision.parse("a4w4")

    class Reversed(UNITS["parallel"]):
        """Elements in the other order."""

        def pack_activations(self, values, precision):
            return super().pack_activations(values[..., ::-1], precision)

    with pytest.raises(ValueError, match="parallel takes a4w4 in words of another kind"):
        Storage.of(Reversed(lanes=4, precisions=(precision,)), precision)
