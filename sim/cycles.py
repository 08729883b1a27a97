"""Cycle model: when each instruction of a program starts and ends, without simulating data.

The three units, the queue of each, the tokens between them and the shared read bus are followed
instruction by instruction. Where the store unit forwards, it shares the activation scratchpad's write port
with the load unit: a LOAD may well come before a STORE that stands in front of it, so such a program is
followed again, with the times found at first. The constants are the pipeline depths of the hardware; what the
RTL counts is the truth, and reports show both.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.pe.contract import Order
from bitwright.hw.quant.requantise import Requantiser
from bitwright.hw.sched.fetch import FetchUnit
from bitwright.hw.sched.isa import Buffer, Instruction, Opcode, Unit

__all__ = ["Timeline", "simulate"]

# Cycles from a register to the next place that matters, read off the hardware.
_START = 3  # from an instruction in its queue to its first action, beside the decoding of its words
_REQUEST = 6  # from a LOAD's start to its first burst at the bus
_BURST = 2  # between bursts of the splitter
_ROW = 3  # for a burst that begins a row
_ARRIVE = 3  # from the bus to the end of the instruction
_FETCH = 12  # from start to the first instruction's request, and through buffer and queue, beside the memory
_FEED = 5  # from a word's address in the feeder to the beat that takes it
_WRITE = 6  # from a STORE's start to its first word, and from the last answer to its end
_ROUND = 12  # until the counters' pointer has come by, whose round a SNAPSHOT waits for, and back


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


@dataclass
class _Port:
    """When each of the two that write the activation scratchpad does, in order."""

    loads: list[tuple[int, int]] = field(default_factory=list)
    stores: list[tuple[int, int]] = field(default_factory=list)


def _shared(begin: int, words: int, others: Sequence[tuple[int, int]]) -> int:
    """Where so many words end that take turns with others, who have the port from some cycles to others."""
    now = begin
    for place in range(max(0, bisect_right(others, (begin, begin)) - 1), len(others)):
        start, end = others[place]
        if end <= now:
            continue
        if start >= now + words:
            break
        if start > now:
            words -= start - now
            now = start
        together = end - now
        if 2 * words <= together:
            return now + 2 * words
        words -= together // 2
        now = end
    return now + words


_ROUNDS = 3  # times a program is followed at most in which both write the activation scratchpad


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
    meet = any(each.opcode is Opcode.STORE and each["forward"] for each in instructions)
    port = _Port()
    for _ in range(_ROUNDS if meet else 1):
        others, port = port, _Port()
        timeline = _follow(config, instructions, latency, others, port)
        if port == others:
            break
    return timeline


def _follow(
    config: EngineConfig, instructions: Sequence[Instruction], latency: int, others: _Port, port: _Port
) -> Timeline:
    """Follow a program once.

    Parameters
    ----------
    config, instructions, latency
        As of :func:`simulate`.
    others
        When the activation scratchpad was written the last time it was followed.
    port
        Filled with when it is, now.
    """
    beats = config.instruction_beats
    unit_free = dict.fromkeys(Unit, 0)
    queues: dict[Unit, deque[int]] = {unit: deque(maxlen=config.queue_depth + 1) for unit in Unit}
    tokens: dict[tuple[Unit, Unit], deque[int]] = {(a, b): deque() for a in Unit for b in Unit}
    places: deque[int] = deque([0] * config.loads_under_way, maxlen=config.loads_under_way)
    requantiser = Requantiser.latency_of(config.requantise_cycles)
    # Patch buffer, array, drain, requantiser, what is combined, and the write.
    tail = 2 + config.unit.latency + requantiser + (5 if "sum" in config.combined else 2) + 4

    geometry = Instruction(Opcode.GEOMETRY, {})
    window = Instruction(Opcode.WINDOW, {})
    fed = 0  # the feeder is done with what it was given
    played = 0  # the array has played what it was given
    draining = 0  # cycles that the results of the last COMPUTE take to leave the array
    taken = 0  # the last COMPUTE has left its decoder
    bus = 0  # the read bus is taken until then
    fetched = _FETCH + latency
    program = len(instructions) * beats
    asked = 0  # words of the program that the bus was asked for
    bursts: deque[tuple[int, int]] = deque()  # words of the program that are there, and since when
    ends: list[int] = []
    snapshots: list[int] = []
    left = 0  # an instruction has left its decoder
    for index, instruction in enumerate(instructions):
        unit = instruction.opcode.unit
        # The buffer is kept full, a burst at a time, which takes the bus from loads.
        while asked < min(program, index * beats + FetchUnit.BUFFER):
            burst = min(FetchUnit.BURST, program - asked)
            asked += burst
            bus = max(bus, fetched) + burst
            bursts.append((asked, bus))
        while bursts[0][0] < (index + 1) * beats:
            bursts.popleft()
        fetched = max(fetched, bursts[0][1])
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
            meets = others.stores if instruction["buffer"] == Buffer.ACTIVATIONS else ()
            end = max(_shared(first, instruction["beats"], meets), start + _REQUEST + issue + latency)
            if instruction["buffer"] == Buffer.ACTIVATIONS:
                port.loads.append((first, end))
            bus = end
            end += _ARRIVE
            places.append(end)
            left = start
            unit_free[unit] = start + issue
        elif instruction.opcode in (Opcode.GEOMETRY, Opcode.WINDOW):
            if instruction.opcode is Opcode.GEOMETRY:
                geometry = instruction
            else:
                window = instruction
            # Its words come in when the feeder is done, and the COMPUTE before it has gone.
            start = max(fetched, fed + beats, taken + beats)
            left = end = unit_free[unit] = start
        elif instruction.opcode is Opcode.COMPUTE:
            start = max(start, fed + 1)
            drained = config.modes[instruction["result"]].drain_cycles
            if instruction["chain"]:
                drained = config.modes[instruction["result"]].chain_cycles
            schedule = config.schedules[instruction["precision"]]
            dots = instruction["row_groups"] * instruction["col_groups"]
            # As many beats as the unit declares, unless results leave more slowly.
            busy, wait = schedule.cycles(instruction["steps"], drained)
            if window["tail"]:
                # What is added waits for the results in front of it, and those behind it wait for it.
                more, within = schedule.cycles(window["tail_steps"], drained)
                busy += more + within
            busy = dots * busy + (dots - 1) * wait
            lines = -(-instruction["row_groups"] // max(1, geometry["pixels_inner"]))
            busy += lines * instruction["lead"]
            patches = instruction["row_groups"] * config.rows
            words, feeding = _feeding(config, instruction, geometry, patches)
            words, feeding = words + patches * window["tail"], feeding + patches * window["tail"]
            # The first beat needs a word of the last row.
            first = start + _FEED + feeding * (config.rows - 1) // patches
            left = taken = begin = max(played + 1, start + 2)
            # Its first results wait for the last ones of the COMPUTE before it.
            apart = played + schedule.cycles(instruction["steps"], draining)[1]
            # Behind the last word come the beats of its step, or of all steps but the first time round.
            beats_left = len(schedule.beats)
            if config.unit.order is Order.BEATS_OUTSIDE:
                beats_left = 1 + instruction["steps"] * (beats_left - 1)
            played = max(max(begin, first, apart) + busy, start + _FEED + feeding + beats_left)
            draining = drained
            # It runs ahead as far as there is room in the ring.
            ahead = config.patch_depth * config.rows * busy // max(words, 1)
            fed = max(start + feeding, played - ahead) + _FEED
            unit_free[unit] = begin
            end = played + tail + drained
        else:
            count, rows = _bursts(instruction["beats"], instruction["row_beats"], config.burst_beats)
            words = instruction["beats"]
            if instruction.opcode is Opcode.SNAPSHOT:
                words = words * (1 + config.bus_bits // 32 * 2) + _ROUND
            end = start + _WRITE + words
            if instruction["forward"]:
                end = _shared(start + _WRITE, words, others.loads)
                port.stores.append((start + _WRITE, end))
            if not instruction["only"]:
                end += max(count, count * _BURST + rows - words) + latency
            left = unit_free[unit] = end
            if instruction.opcode is Opcode.SNAPSHOT:
                snapshots.append(end)
        queue.append(left)
        ends.append(end)
        for taker in Unit:
            if instruction["post"] >> taker & 1:
                tokens[unit, taker].append(end)
    return Timeline(ends, snapshots)


def _feeding(
    config: EngineConfig, instruction: Instruction, geometry: Instruction, patches: int
) -> tuple[int, int]:
    """Words that the feeder brings for a COMPUTE, and how many cycles that takes it."""
    taps = max(1, geometry["taps_inner"]) * max(1, geometry["taps_outer"])
    if instruction["pack"]:
        lanes = next(iter(config.storages.values())).block
        run = geometry["words"]
        # Where a run begins in its words depends on the pixel; a patch's last word may take its own cycle.
        pixels = np.arange(geometry["pixels_inner"])
        offsets = (geometry["dilation_inner"] + pixels * geometry["taps_more"]) % lanes
        reads = (-(-(offsets + run) // lanes)).mean() * geometry["taps_outer"]
        words = -(-run * geometry["taps_outer"] // lanes)
        flushed = 1 if run * geometry["taps_outer"] % lanes else 0
        return patches * words, round(patches * (reads + flushed / 2))
    words = taps * geometry["words"]
    if instruction["chain"]:
        lines = -(-patches // geometry["pixels_inner"])
        more = geometry["taps_more"] * geometry["taps_outer"]
        total = lines * words + (patches - lines) * more
        return total, total
    return patches * words, patches * words
