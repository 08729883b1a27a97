"""How many bits of each instruction field an engine needs."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from ..config import EngineConfig
from ..memory.scratchpad import geometries
from .isa import LAYOUTS, Buffer, Opcode

__all__ = ["kept_bits", "narrow_layout"]


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
        *(
            pad.rows * pad.banks * (config.rows if buffer is Buffer.ACTIVATIONS else 1)
            for buffer, pad in pads.items()
        ),
        config.output_depth,
    )
    rows = max(*(pad.rows for pad in pads.values()), config.output_depth)
    activations = pads[Buffer.ACTIVATIONS]
    weights = pads[Buffer.WEIGHTS]
    activation_words = activations.rows * activations.ratio
    weight_words = weights.rows * weights.ratio
    used = {
        "memory": config.word_address_bits,
        "stride": config.word_address_bits,
        "beats": transfer.bit_length(),
        "row_beats": min(16, transfer.bit_length()),
        "scratch": _bits(rows),
        "scratch_row": activations.rows.bit_length(),
        "steps": min(activation_words, weight_words).bit_length(),
        "row_groups": activation_words.bit_length(),
        "col_groups": weight_words.bit_length(),
        "activations": _bits(activation_words),
        # A stride may be as long as the scratchpad: nothing follows a single group that fills it.
        "activation_stride": activation_words.bit_length(),
        "weights": _bits(weight_words),
        "channels": _bits(pads[Buffer.CHANNELS].rows),
        "output": _bits(granules),
        "output_row": granules.bit_length(),
        "output_group": granules.bit_length(),
    }
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
