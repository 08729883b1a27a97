"""The configuration: what is refused and by which key, and what follows from it."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.hw.config import CHANNEL_BITS, INSTRUCTION_BITS, EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError
from bitwright.hw.formats import Int

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
        ({"activation_bits": 3}, "activation_bits", "one of 1, 2, 4, 8"),
        ({"weight_bits": 17}, "weight_bits", "from 1 to 16"),
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
        ({"pe": "xnor"}, "pe", "a unit that supports precision a8w8; xnor takes bipolar weights"),
        ({"pe": "bismo"}, "activation_bits", "a width at which bismo takes activations side by side"),
        ({"pe": "bitfusion", "activation_bits": 1}, "activation_bits", "a width at which bitfusion takes"),
        ({"pe": "unpu", "lanes": 4}, "lanes", "must be at least 5"),
        ({"pe": "bitblade", "multiplier": "lut"}, "multiplier", "left out for pe = bitblade"),
        ({"weight_format": "ternary"}, "weight_bits", "2 for ternary weights"),
        ({"weight_format": "power_of_two", "pe": "log2"}, "weight_bits", "from 2 to 6 for power_of_two"),
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


def test_constants():
    assert INSTRUCTION_BITS == 256
    assert CHANNEL_BITS == 96


def test_formats():
    config = BASE.replace(activation_bits=4, weight_bits=2, lanes=16)
    assert config.activation == Int(4)
    assert config.weight == Int(2)


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
                "granules_per_group": 8,
                "granules_per_word": 8,
                "row_align": 8,
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
                "activation_bits": 4,
                "weight_bits": 2,
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
                "granules_per_group": 3,
                "granules_per_word": 2,
                "row_align": 16,
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
            {"lanes": 2, "activation_bits": 2, "bus_bits": 128, "cols": 16, "requantisers": 16},
            {
                "activation_word_bits": 4,
                "granule_bits": 32,
                "granules_per_group": 1,
                "granules_per_word": 4,
                "row_align": 64,
                "drain_cycles": 1,
                "instruction_beats": 2,
            },
        ),
    ],
)
def test_derived_values(changes, derived):
    config = BASE.replace(**changes)
    assert {name: getattr(config, name) for name in derived} == derived


@settings(deadline=None)
@given(st.sampled_from([2, 4, 8]), st.sampled_from([2, 4, 8]), st.integers(1, 65536))
def test_accumulator_holds_the_longest_reduction(activation_bits, weight_bits, reduction):
    config = BASE.replace(
        lanes=32, activation_bits=activation_bits, weight_bits=weight_bits, reduction=reduction
    )
    most = reduction * config.activation.min * config.weight.min
    least = reduction * min(
        config.activation.min * config.weight.max, config.activation.max * config.weight.min
    )
    bits = config.accumulator_bits
    assert -(2 ** (bits - 1)) <= least
    assert most <= 2 ** (bits - 1) - 1
    # And is not wider than a power of two needs.
    if reduction & (reduction - 1) == 0:
        assert most > 2 ** (bits - 2) - 1
