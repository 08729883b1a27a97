"""Fields as wide as an engine needs them: no sensible instruction is lost by that."""

import pytest

from bitwright.hw.config import EngineConfig
from bitwright.hw.memory.scratchpad import geometries
from bitwright.hw.sched.isa import LAYOUTS, Buffer, Combine, Instruction, Opcode
from bitwright.hw.sched.widths import kept_bits, narrow_layout

TAIL = ("tail_base", "tail_inner", "tail_outer")

CONFIGS = [
    {},
    {"rows": 16, "bus_bits": 128, "address_bits": 16},
    {"rows": 3, "cols": 4, "requantisers": 4, "lanes": 2, "precisions": ("a2w2",)},
    {
        "cols": 128,
        "lanes": 128,
        "weight_depth": 65536,
        "activation_depth": 65536,
        "channel_depth": 128,
        "output_depth": 65536,
    },
    {"cols": 1, "lanes": 1, "bus_bits": 128, "precisions": ("a2w2",)},
    {"pe": "bismo", "lanes": 256, "cols": 1, "precisions": ("a8w8", "a4w4", "a4w2")},
    {"channel_depth": 1024, "output_depth": 16},
]


def config(changes):
    values = {
        "cols": 8,
        "lanes": 8,
        "activation_depth": 16,
        "weight_depth": 16,
        "channel_depth": 16,
        "output_depth": 16,
    }
    return EngineConfig(**{**values, **changes})


def greatest(c):
    """The greatest value of each field that an instruction for the engine has a use for."""
    pads = geometries(c)
    activations, weights, channels = (pads[b] for b in (Buffer.ACTIVATIONS, Buffer.WEIGHTS, Buffer.CHANNELS))
    words = c.activation_depth
    groups = c.weight_depth
    granules = c.output_depth * c.granules_per_word
    filling = max(
        activations.rows * activations.banks,
        weights.rows * weights.banks,
        channels.rows * channels.banks,
    )
    transfer = {
        "wait": 7,
        "post": 7,
        "memory": 2**c.address_bits // c.bus_bytes - 1,
        "stride": 2**c.address_bits // c.bus_bytes - 1,
    }
    return {
        Opcode.LOAD: {
            **transfer,
            "opcode": Opcode.LOAD,
            "buffer": Buffer.CHANNELS,
            "beats": min(filling, 2**24 - 1),
            "row_beats": min(filling, 2**16 - 1),
            "scratch": max(pad.rows for pad in pads.values()) - 1,
        },
        Opcode.STORE: {
            **transfer,
            "opcode": Opcode.STORE,
            "beats": c.output_depth,
            "row_beats": min(c.output_depth, 2**16 - 1),
            "scratch": c.output_depth - 1,
        },
        Opcode.SNAPSHOT: {
            **transfer,
            "opcode": Opcode.SNAPSHOT,
            "beats": 512 // c.bus_bits,
            "row_beats": 512 // c.bus_bits,
        },
        Opcode.COMPUTE: {
            "opcode": Opcode.COMPUTE,
            "wait": 7,
            "post": 7,
            "drain": 1,
            "steps": min(words, groups, 2**16 - 1),
            # Pixels of one word, or results of one granule of many patches
            "row_groups": min(max(words, granules), 2**16 - 1),
            "col_groups": min(groups, 2**16 - 1),
            "activations": words - 1,
            "weights": groups - 1,
            "channels": channels.rows - 1,
            "output": granules - 1,
            "output_row": granules,
            "output_group": granules,
            "precision": len(c.precisions) - 1,
            "result": len(c.storages) - 1,
            "group": max(map(c.groups_per_block, c.storages.values())) - 1,
        },
        Opcode.GEOMETRY: {
            "opcode": Opcode.GEOMETRY,
            "wait": 7,
            "post": 7,
            # One tap that fills the whole scratchpad, or a line of pixels of a word each
            "words": min(words, 2**16 - 1),
            "pixels_inner": min(max(words, granules), 2**16 - 1),
            "pad": 255,
            **dict.fromkeys(("taps_inner", "taps_outer", "dilation_inner", "dilation_outer"), 255),
            **dict.fromkeys(("stride_inner", "stride_outer"), 255),
            # All the scratchpad one line, and padding as far as that to its left; a sign
            **dict.fromkeys(("start_inner", "start_outer"), min(2 * words, 2**16) - 1),
            **dict.fromkeys(("limit_inner", "limit_outer"), min(words, 2**16 - 1)),
            **dict.fromkeys(("pixel_inner", "pixel_outer", "tap_inner", "tap_outer"), words - 1),
        },
        Opcode.WINDOW: {
            "opcode": Opcode.WINDOW,
            "wait": 7,
            "post": 7,
            "combine": Combine.SUM,
            "half_even": 1,
            **dict.fromkeys(("low", "high", "inner", "outer", "step_inner", "step_outer", "size"), 255),
            **dict.fromkeys(("words_inner", "words_outer"), words - 1),
            # A tail that fills the patch buffer, and one step of each word of weights
            **({"own": 1, "tail": min(c.patch_depth, 2**16 - 1)} if c.tails else {}),
            **({"tail_steps": min(c.weight_depth, 2**16 - 1)} if c.tails else {}),
            **dict.fromkeys(TAIL, words - 1 if c.tails else 0),
        },
    }


@pytest.mark.parametrize("opcode", Opcode, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_what_an_instruction_may_need_fits(changes, opcode):
    c = config(changes)
    layout = narrow_layout(c, opcode)
    for name, value in greatest(c)[opcode].items():
        assert value < 1 << layout[name].width, name


@pytest.mark.parametrize("opcode", Opcode, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_the_same_fields_and_none_is_wider(changes, opcode):
    wide = LAYOUTS[opcode]
    narrow = narrow_layout(config(changes), opcode)
    assert [name for name, _ in narrow] == [name for name, _ in wide if not name.startswith("_")]
    for name, field in narrow:
        # What an engine has only one of, or not at all, takes no bits.
        absent = ("precision", "result", "group", "chain", "lead", "pack", "taps_more")
        absent += ("own", "tail", "tail_steps", *TAIL)
        least = name not in (*absent, "forward", "only", "place", "pitch", "bank")
        assert least <= field.width <= wide[name].width


@pytest.mark.parametrize("opcode", Opcode, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_bits_that_are_looked_at(changes, opcode):
    """Those that are set in an instruction whose fields are all as great as can be."""
    c = config(changes)
    fields = {name: (1 << field.width) - 1 for name, field in narrow_layout(c, opcode) if name != "opcode"}
    encoded = int.from_bytes(Instruction(opcode, fields).encode(), "little")
    assert kept_bits(c, opcode) == encoded | 15


def test_a_small_engine_keeps_few_bits():
    c = config({"address_bits": 16})
    assert narrow_layout(c, Opcode.LOAD).size < 90
    assert narrow_layout(c, Opcode.COMPUTE).size < 100
