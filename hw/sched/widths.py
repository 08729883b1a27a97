"""How many bits of each instruction field an engine needs."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from ..config import EngineConfig
from ..memory.scratchpad import geometries
from .isa import LAYOUTS, Buffer, Opcode

__all__ = ["kept_bits", "narrow_layout", "settings_of"]


def _bits(count: int) -> int:
    """Bits of an index below ``count``; at least one."""
    return max(1, (count - 1).bit_length())


def narrow_layout(config: EngineConfig, opcode: Opcode) -> data.StructLayout:
    """The opcode's fields, each as wide as its greatest sensible value: what a decoder hands on.

    Higher bits of a field must be zero in an instruction, as unused ones must.

    Parameters
    ----------
    config
        The engine.
    opcode
        Whose fields.
    """
    pads = geometries(config)
    granules = config.output_depth * config.granules_per_word
    # The greatest transfer fills a scratchpad: in bus words, for every array row.
    transfer = max(
        *(pad.rows * pad.banks for pad in pads.values()),
        config.output_depth,
    )
    rows = max(*(pad.rows for pad in pads.values()), config.output_depth)
    activations = pads[Buffer.ACTIVATIONS]
    weights = pads[Buffer.WEIGHTS]
    activation_words = activations.rows * activations.ratio
    # A pixel of one word may have results of one granule, or be one of many that a pixel's words are for.
    pixels = max(activation_words, granules).bit_length()
    # Room for all positions of a line, and as many outside on either side
    positions = activation_words.bit_length() + 1
    weight_words = weights.rows * weights.ratio
    forwards = config.forwards and opcode is Opcode.STORE
    tails = config.tails
    used = {
        "memory": config.word_address_bits,
        "stride": config.word_address_bits,
        "beats": transfer.bit_length(),
        "row_beats": min(16, transfer.bit_length()),
        "scratch": _bits(rows),
        "forward": int(forwards),
        "only": int(forwards),
        "place": _bits(activations.rows) if forwards else 0,
        "pitch": _bits(activations.rows) if forwards else 0,
        "bank": (activations.banks - 1).bit_length() if forwards else 0,
        "steps": weight_words.bit_length(),
        "row_groups": pixels,
        "col_groups": weight_words.bit_length(),
        "activations": _bits(activation_words),
        "weights": _bits(weight_words),
        "channels": _bits(pads[Buffer.CHANNELS].rows),
        "output": _bits(granules),
        "precision": (len(config.precisions) - 1).bit_length(),
        "result": (len(config.modes) - 1).bit_length(),
        "output_row": granules.bit_length(),
        "output_group": granules.bit_length(),
        "group": (config.block_groups - 1).bit_length(),
        "chain": int(bool(config.chained)),
        "lead": 8 * bool(config.chained),
        "taps_more": 8 * bool(config.chained or config.packs),
        "pack": int(bool(config.packs)),
        "words": activation_words.bit_length() + (3 if config.packs else 0),
        "pixels_inner": pixels,
        **dict.fromkeys(("start_inner", "start_outer", "limit_inner", "limit_outer"), positions),
        # Steps back are steps forward, modulo the scratchpad.
        **dict.fromkeys(
            ("pixel_inner", "pixel_outer", "tap_inner", "tap_outer", "words_inner", "words_outer"),
            _bits(activation_words),
        ),
        "own": int(tails),
        "tail": config.patch_depth.bit_length() * tails,
        "tail_steps": weight_words.bit_length() * tails,
        **dict.fromkeys(("tail_base", "tail_inner", "tail_outer"), _bits(activation_words) * tails),
    }
    if not config.convolution and opcode is Opcode.GEOMETRY:
        # Rows of a matrix follow each other, and there is nothing around them.
        used |= {
            name: 0
            for dimension in ("inner", "outer")
            for kind in ("taps", "dilation", "start", "stride", "limit", "tap")
            for name in (f"{kind}_{dimension}",)
        }
        used |= {"pad": 0, "pixel_outer": 0, "pixels_inner": 0}
    members = {}
    for name, field in LAYOUTS[opcode]:
        if not str(name).startswith("_"):
            members[str(name)] = unsigned(min(used.get(str(name), field.width), field.width))
    return data.StructLayout(members)


def kept_bits(config: EngineConfig, opcode: Opcode) -> int:
    """Mask of the bits of an instruction that the engine looks at; all others must be zero."""
    kept = 0
    for name, field in narrow_layout(config, opcode):
        kept |= (1 << field.width) - 1 << LAYOUTS[opcode][name].offset
    return kept


def settings_of(config: EngineConfig) -> list[Opcode]:
    """The instructions of an engine that set things."""
    return [Opcode.GEOMETRY, *([Opcode.WINDOW] if config.combined else [])]
