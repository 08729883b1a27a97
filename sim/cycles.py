"""Cycle model: when each instruction of a program starts and ends, without simulating data.

The three units, the queue of each, the tokens between them and the shared read bus are followed
instruction by instruction. The constants are the pipeline depths of the hardware; what the RTL counts is
the truth, and reports show both.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.hw.config import EngineConfig
from bitwright.hw.quant.requantise import Requantiser
from bitwright.hw.sched.isa import Instruction, Opcode, Unit

__all__ = ["Timeline", "simulate"]

# Cycles from a register to the next place that matters, read off the hardware.
_START = 3  # from an instruction in its queue to its first action, beside the decoding of its words
_REQUEST = 6  # from a LOAD's start to its first burst at the bus
_BURST = 2  # between bursts of the splitter
_ROW = 3  # for a burst that begins a row
_ARRIVE = 3  # from the bus to the end of the instruction
_FETCH = 12  # from start to the first instruction's request, and through buffer and queue, beside the memory
_WRITE = 6  # from a STORE's start to its first word, and from the last answer to its end


@dataclass(frozen=True)
class Timeline:
    """When things happen, in cycles from the start of the program.

    Parameters
    ----------
    ends
        End of each instruction.
    snapshots
        End of each SNAPSHOT, in order.
    """

    ends: Sequence[int]
    snapshots: Sequence[int]

    @property
    def total(self) -> int:
        """End of the last instruction."""
        return max(self.ends, default=0)


def _bursts(beats: int, row_beats: int, burst_beats: int) -> tuple[int, int]:
    """Bursts and rows of a block, taking rows to begin at a multiple of the burst length."""
    rows = -(-beats // row_beats)
    return rows * -(-min(beats, row_beats) // burst_beats), rows


def simulate(config: EngineConfig, instructions: Sequence[Instruction], *, latency: int = 20) -> Timeline:
    """Follow a program.

    Parameters
    ----------
    config
        The engine.
    instructions
        In program order; every token is given before it is taken, in that order.
    latency
        Cycles from a read's address to its first word, and from a write's last word to its answer. After
        that a word per cycle.
    """
    beats = config.instruction_beats
    unit_free = dict.fromkeys(Unit, 0)
    queues: dict[Unit, deque[int]] = {unit: deque(maxlen=config.queue_depth + 1) for unit in Unit}
    tokens: dict[tuple[Unit, Unit], deque[int]] = {(a, b): deque() for a in Unit for b in Unit}
    places: deque[int] = deque([0] * config.loads_under_way, maxlen=config.loads_under_way)
    requantiser = Requantiser.latency_of(config.requantise_cycles)
    # Scratchpad, array, drain, requantiser, and the write.
    tail = 2 + config.unit.latency + config.drain_cycles + requantiser + 4

    bus = 0  # the read bus is taken until then
    fetched = _FETCH + latency
    ends: list[int] = []
    snapshots: list[int] = []
    for instruction in instructions:
        unit = instruction.opcode.unit
        # Instructions are handed out in order, a word per cycle, and wait where a queue is full.
        fetched += beats
        queue = queues[unit]
        if len(queue) == queue.maxlen:
            fetched = max(fetched, queue[0])
        start = max(fetched, unit_free[unit] + beats) + _START
        for giver in Unit:
            if instruction["wait"] >> giver & 1:
                start = max(start, tokens[giver, unit].popleft() + 2)

        if instruction.opcode is Opcode.LOAD:
            start = max(start, places[0])
            count, rows = _bursts(instruction["beats"], instruction["row_beats"], config.burst_beats)
            issue = count * _BURST + rows * (_ROW - _BURST)
            first = max(bus, start + _REQUEST + latency)
            end = max(first + instruction["beats"], start + _REQUEST + issue + latency)
            bus = end
            end += _ARRIVE
            places.append(end)
            unit_free[unit] = start + issue
        elif instruction.opcode is Opcode.COMPUTE:
            dots = instruction["row_groups"] * instruction["col_groups"]
            # As many beats as the unit declares, unless results leave more slowly.
            drain = config.drain_cycles * config.unit.outputs if dots > 1 else 0
            busy = dots * max(instruction["steps"] * len(config.beats), drain)
            unit_free[unit] = start + busy
            end = start + busy + tail
        else:
            count, rows = _bursts(instruction["beats"], instruction["row_beats"], config.burst_beats)
            words = instruction["beats"]
            if instruction.opcode is Opcode.SNAPSHOT:
                words = words * (1 + config.bus_bits // 32 * 2) + 32
            end = start + _WRITE + max(words + count, count * _BURST + rows) + latency
            unit_free[unit] = end
            if instruction.opcode is Opcode.SNAPSHOT:
                snapshots.append(end)
        queue.append(start)
        ends.append(end)
        for taker in Unit:
            if instruction["post"] >> taker & 1:
                tokens[unit, taker].append(end)
    return Timeline(ends, snapshots)
