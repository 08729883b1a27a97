"""The configuration: what is refused and by which key, and what follows from it."""

import dataclasses
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.config import CHANNEL_BITS, INSTRUCTION_BITS, EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Int
from bitwright.hw.pe import UNITS

BASE = EngineConfig(
    cols=8, lanes=8, activation_depth=256, weight_depth=512, channel_depth=64, output_depth=128
)


@pytest.mark.parametrize(
    ("changes", "key", "allowed"),
    [
        # Ranges
        ({"rows": 0}, "rows", "from 1 to 16"),
        ({"rows": 17}, "rows", "from 1 to 16"),
        ({"cols": 0}, "cols", "from 1 to 128"),
        ({"cols": 129}, "cols", "from 1 to 128"),
        ({"lanes": 0}, "lanes", "from 1 to 256"),
        ({"lanes": 257}, "lanes", "from 1 to 256"),
        ({"reduction": 0}, "reduction", "from 1 to 65536"),
        ({"reduction": 65537}, "reduction", "from 1 to 65536"),
        ({"requantisers": 0}, "requantisers", "from 1 to 16"),
        ({"requantisers": 17}, "requantisers", "from 1 to 16"),
        ({"address_bits": 15}, "address_bits", "from 16 to 32"),
        ({"address_bits": 33}, "address_bits", "from 16 to 32"),
        # Choices
        (
            {"pe": "systolic"},
            "pe",
            "one of parallel, bitfusion, bitblade, stripes, unpu, loom, bismo, xnor, ternary, log2",
        ),
        ({"multiplier": "carry"}, "multiplier", "one of dsp, lut"),
        ({"requantise_cycles": 2}, "requantise_cycles", "one of 1, 4"),
        ({"bus_bits": 256}, "bus_bits", "one of 32, 64, 128"),
        ({"burst_beats": 2}, "burst_beats", "one of 4, 8"),
        ({"loads_under_way": 3}, "loads_under_way", "one of 2, 4, 8"),
        # Powers of two
        ({"activation_depth": 8}, "activation_depth", "a power of two from 16 to 65536"),
        ({"activation_depth": 100}, "activation_depth", "a power of two"),
        ({"weight_depth": 131072}, "weight_depth", "a power of two"),
        ({"weight_depth": 0}, "weight_depth", "a power of two"),
        ({"channel_depth": 24}, "channel_depth", "a power of two"),
        ({"output_depth": -16}, "output_depth", "a power of two"),
        ({"queue_depth": 1}, "queue_depth", "a power of two from 2 to 256"),
        ({"queue_depth": 512}, "queue_depth", "a power of two from 2 to 256"),
        # One key against another
        ({"requantisers": 3, "cols": 6}, "requantisers", "a power of two that divides cols = 6"),
        ({"requantisers": 4, "cols": 6}, "requantisers", "a power of two that divides cols = 6"),
        ({"requantisers": 8, "bus_bits": 32}, "requantisers", "at most 4, what fits one bus word"),
        ({"lanes": 3}, "lanes", "an activation word, 24, divide, or are a multiple of, bus_bits = 64"),
        ({"lanes": 12}, "lanes", "word, 96, divide"),
        ({"channel_depth": 16, "cols": 32}, "channel_depth", "at least the 32 channels of a group"),
        # The unit
        ({"pe": "unpu", "lanes": 4}, "lanes", "must be at least 5"),
        ({"pe": "bitblade", "multiplier": "lut"}, "multiplier", "left out for pe = bitblade"),
        ({"target": "spartan"}, "target", "one of generic, ecp5, ice40"),
        ({"cols": 3, "lanes": 1}, "cols", "a weight word, 24, divide, or are at least"),
    ],
)
def test_what_is_refused(changes, key, allowed):
    with pytest.raises(ConfigError) as caught:
        BASE.replace(**changes)
    error = caught.value
    assert isinstance(error, BitwrightError)
    assert error.key == key
    assert error.value == changes.get(key, getattr(BASE, key))
    assert allowed in error.allowed
    assert str(error).startswith(f"{key} = {error.value!r}: must be ")


@pytest.mark.parametrize(
    ("changes", "value", "allowed"),
    [
        ({"precisions": ()}, [], "at least one precision, none twice"),
        ({"precisions": ("a8w8", "a8w8")}, ["a8w8", "a8w8"], "at least one precision, none twice"),
        ({"precisions": ("8x8",)}, ["8x8"], "a list of precisions ('8x8' is no precision"),
        ({"precisions": ("a8w8", "a8w17")}, "a8w17", "one that pe = parallel supports: integers"),
        ({"pe": "xnor"}, "a8w8", "one that pe = xnor supports: bipolar weights"),
        ({"pe": "bismo", "precisions": ("a9w8",)}, "a9w8", "of activations of at most 8 bits"),
        ({"precisions": ("a3w8",)}, ["a3w8"], "that parallel stores in 1, 2, 4 or 8 bits, not in 3"),
    ],
)
def test_precisions_that_are_refused(changes, value, allowed):
    with pytest.raises(ConfigError) as caught:
        BASE.replace(**changes)
    assert (caught.value.key, caught.value.value) == ("precisions", value)
    assert allowed in caught.value.allowed


def test_modes():
    """What may become of a sum, and how long that takes."""
    config = BASE.replace(
        pe="bismo",
        lanes=64,
        cols=16,
        precisions=("a8w8", "a4w2", "au1w1"),
        quantisers=("requantise", "thresholds", "accumulators"),
        requantisers=2,
        rows=2,
        reduction=256,
    )
    assert [
        (mode.quantiser, str(mode.storage.format), mode.phases, mode.channel_words, mode.drain_cycles)
        for mode in config.modes
    ] == [
        ("requantise", "int8", 1, 1, 2 * 8),  # as long as eight planes of 16 columns take
        ("requantise", "int4", 1, 1, 2 * 8),
        ("requantise", "uint1", 1, 1, 2 * 8),
        ("thresholds", "int4", 5, 5, 2 * 40),
        ("thresholds", "uint1", 1, 1, 2 * 8),
        ("accumulators", "int32", 1, 0, 2 * 8),
    ]
    only = {"precisions": ("abwb",), "pe": "xnor"}
    with pytest.raises(ConfigError, match=r"quantisers = .*: must be such that results can be made of"):
        BASE.replace(**only)
    with pytest.raises(ConfigError, match="quantisers = 'relu': must be one of requantise, thresholds"):
        BASE.replace(quantisers=("relu",))
    assert BASE.replace(**only, quantisers=("thresholds",)).drain_cycles == 8


def test_what_is_combined():
    assert BASE.combined == ("maximum", "sum")
    assert BASE.replace(combine=("sum",)).combined == ("sum",)
    assert BASE.replace(combine=()).combined == ()
    # Nothing is made of accumulators.
    assert BASE.replace(quantisers=("accumulators",)).combined == ()
    assert BASE.replace(quantisers=("accumulators", "requantise")).combined == BASE.combine
    with pytest.raises(ConfigError, match="combine = 'average': must be one of maximum, sum"):
        BASE.replace(combine=("maximum", "average"))
    with pytest.raises(ConfigError, match=r"combine = \['sum', 'sum'\]: must be none twice"):
        BASE.replace(combine=("sum", "sum"))


def test_planes_of_columns():
    """Columns divide the lanes of a plane, or are a multiple of them."""
    for cols in (4, 16, 64, 128):
        BASE.replace(pe="bismo", lanes=64, cols=cols, channel_depth=128)
    with pytest.raises(ConfigError, match="cols = 24: must be a divisor or a multiple of the 64 lanes"):
        BASE.replace(pe="bismo", lanes=64, cols=24)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1},
        {"rows": 16},
        {"cols": 1},
        {"cols": 128, "channel_depth": 128, "lanes": 128},
        {"lanes": 1},
        {"reduction": 1},
        {"reduction": 65536},
        {"requantisers": 8},
        {"cols": 16, "requantisers": 16, "bus_bits": 128},
        {"activation_depth": 16, "weight_depth": 16, "channel_depth": 16, "output_depth": 16},
        {"activation_depth": 65536, "weight_depth": 65536, "channel_depth": 65536, "output_depth": 65536},
        {"address_bits": 16},
        {"address_bits": 32},
        {"queue_depth": 2},
        {"queue_depth": 256},
        # A burst of exactly 4 KiB
        {"burst_beats": 256, "bus_bits": 128},
        # Activation words that divide the bus word, and that are a multiple of it
        {"lanes": 2},
        {"lanes": 24},
        # Weights that fill a bus word and some of another
        {"cols": 3, "lanes": 8},
        # and that divide it
        {"cols": 2, "lanes": 2},
    ],
)
def test_what_is_just_allowed(changes):
    config = BASE.replace(**changes)
    for key, value in changes.items():
        assert getattr(config, key) == value


def test_changes_make_a_variant():
    variant = BASE.replace(rows=2)
    assert (BASE.rows, variant.rows, variant.cols) == (1, 2, 8)
    assert variant.replace(rows=1) == BASE
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.rows = 2
    with pytest.raises(TypeError):
        BASE.replace(columns=4)
    with pytest.raises(TypeError):
        EngineConfig(8, 8)


def test_every_unit_is_a_choice():
    """Type checkers and the schema of configuration files know the units by a list of their own."""
    assert set(get_args(get_type_hints(EngineConfig)["pe"])) == set(UNITS)


def test_constants():
    assert INSTRUCTION_BITS == 256
    assert CHANNEL_BITS == 96


def test_formats():
    config = BASE.replace(precisions=("a4w2", "au4w4", "a4w1"), pe="bismo", lanes=64)
    assert [tuple(precision) for precision in config.formats] == [
        (Int(4), Int(2)),
        (Int(4, signed=False), Int(4)),
        (Int(4), Int(1)),
    ]
    assert list(config.storages) == [Int(4), Int(4, signed=False)]


@pytest.mark.parametrize(
    ("changes", "derived"),
    [
        (
            {},
            {
                "bus_bytes": 8,
                "activation_word_bits": 64,
                "weight_word_bits": 512,
                "channel_word_bits": 96,
                "granule_bits": 8,
                "channel_words_per_group": 8,
                "granules_per_word": 8,
                "row_bits": 64,
                "drain_cycles": 8,
                "instruction_beats": 4,
                "word_address_bits": 29,
                "token_limit": 63,
                "peak_macs_per_cycle": 64,
                "accumulator_bits": 8 + 8 + 14,
            },
        ),
        (
            {
                "rows": 3,
                "cols": 12,
                "lanes": 16,
                "precisions": ("a4w2",),
                "requantisers": 4,
                "requantise_cycles": 4,
                "bus_bits": 32,
                "address_bits": 20,
                "reduction": 1000,
                "queue_depth": 8,
            },
            {
                "bus_bytes": 4,
                "activation_word_bits": 64,
                "weight_word_bits": 384,
                "channel_word_bits": 384,
                "granule_bits": 16,
                "channel_words_per_group": 3,
                "granules_per_word": 2,
                "row_bits": 64,
                "drain_cycles": 3 * 3 * 4,
                "instruction_beats": 8,
                "word_address_bits": 18,
                "token_limit": 31,
                "peak_macs_per_cycle": 576,
                "accumulator_bits": 15,  # of 1000 products of 16
            },
        ),
        (
            # An activation word narrower than the bus: rows are padded to bus words.
            {"lanes": 2, "precisions": ("a2w8",), "bus_bits": 128, "cols": 16, "requantisers": 16},
            {
                "activation_word_bits": 4,
                "granule_bits": 32,
                "channel_words_per_group": 1,
                "granules_per_word": 4,
                "row_bits": 128,
                "drain_cycles": 1,
                "instruction_beats": 2,
            },
        ),
        (
            # Bit planes: four columns are written at a time, eight planes of them for a row.
            {"pe": "bismo", "lanes": 64, "cols": 4, "rows": 2, "precisions": ("a8w8", "a3w2")},
            {
                "activation_word_bits": 64,
                "weight_word_bits": 256,
                "granule_bits": 4,
                "granules_per_word": 16,
                "result_bits": 8,
                "row_bits": 64,
                "drain_cycles": 16,
                "peak_macs_per_cycle": 2 * 4 * 64 / 6,
            },
        ),
        (
            # Packed results of two widths are gathered up to a byte.
            {"pe": "bitblade", "lanes": 4, "precisions": ("a8w2",), "cols": 4},
            {"activation_word_bits": 4 * 32, "granule_bits": 8, "drain_cycles": 4},
        ),
    ],
)
def test_derived_values(changes, derived):
    config = BASE.replace(**changes)
    assert {name: getattr(config, name) for name in derived} == derived


@settings(deadline=None)
@given(st.sampled_from([2, 4, 8]), st.sampled_from([2, 4, 8]), st.integers(1, 65536))
def test_accumulator_holds_the_longest_reduction(activation_bits, weight_bits, reduction):
    config = BASE.replace(lanes=32, precisions=(f"a{activation_bits}w{weight_bits}",), reduction=reduction)
    ((activation, weight),) = config.formats
    most = reduction * activation.min * weight.min
    least = reduction * min(activation.min * weight.max, activation.max * weight.min)
    bits = config.accumulator_bits
    assert -(2 ** (bits - 1)) <= least
    assert most <= 2 ** (bits - 1) - 1
    # And is not wider than a power of two needs.
    if reduction & (reduction - 1) == 0:
        assert most > 2 ** (bits - 2) - 1
