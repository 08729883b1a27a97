"""From the array's drain registers through the requantisers to the output scratchpad."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import CHANNEL_BITS, EngineConfig
from ..delay import delay, held_delay, pulses, ring_delay
from ..emission import share
from ..memory.scratchpad import Scratchpad, geometries
from ..sched.isa import Buffer
from .combine import Combiner
from .packer import Packer, chosen
from .requantise import Requantiser
from .thresholds import Thresholder

__all__ = ["DrainJob", "QuantPipeline"]


class DrainJob(data.StructLayout):
    """What happens to the results of one capture.

    Members: ``output`` first granule, ``row`` granules from one row to the next, ``result`` the mode,
    ``channel`` first word of parameters, ``empty`` no results, ``end`` the last of its instruction, ``post``
    tokens to give then. Where the configuration has chains: ``narrow`` only the columns of one.

    Where the configuration combines results: ``combine`` what is made of them
    (:class:`~bitwright.hw.sched.isa.Combine`), ``position`` the place in its window of the job's first row
    of units, ``window`` rows of units of a window, less 1, and where units have several outputs ``part``,
    which of these it is. Where it adds them up: ``low``, ``high`` bounds of the result, as stored,
    ``half_even`` that it is rounded half to even, and where there are several rows ``own``, that each has a
    window of its own: all of the job's have the place ``position``.
    """

    def __init__(self, config: EngineConfig):
        granule_bits = (config.output_depth * config.granules_per_word - 1).bit_length()
        channel_bits = max(1, (config.channel_depth // config.requantisers - 1).bit_length())
        parts = config.unit.outputs
        super().__init__(
            {
                "output": granule_bits,
                "row": granule_bits,
                "result": (len(config.modes) - 1).bit_length(),
                "channel": channel_bits,
                "empty": 1,
                "end": 1,
                "post": 3,
                **({"narrow": 1} if config.chained else {}),
                **({"combine": 2, "position": 8, "window": 8} if config.combined else {}),
                **({"part": (parts - 1).bit_length()} if config.combined and parts > 1 else {}),
                **({"low": 8, "high": 8, "half_even": 1} if "sum" in config.combined else {}),
                **({"own": 1} if config.tails and config.rows > 1 else {}),
            }
        )


class QuantPipeline(wiring.Component):
    """Drains, requantises and writes the results of one capture after another.

    ::

        cycle       t        t+1       t+2      t+3 = t+LEAD        …   + requantiser's latency
        parameters  job      address   memory   register, start          packer: write
        results                                 captured, then shift     at output + row*r + j

    A job takes ``rows * cols / requantisers`` elements of as many cycles, its phases, as the mode says; where
    the planes of a row take longer to be written, as many cycles follow each row. Nothing here ever waits, so
    whoever gives jobs keeps them that far apart (:attr:`~bitwright.hw.config.Mode.drain_cycles`). Rows follow
    each other, columns within a row. Whatever is made of an element takes equally long, so that results of
    one mode never meet those of another.

    Rows of units that belong to a window follow each other, in one job or in several; what the
    :class:`~bitwright.hw.quant.combine.Combiner` makes of them is written with the last. Row r of a job has
    the place (``position`` + r) modulo the window, and ``output`` moves on by ``row`` behind the last of a
    window. Of rows that nothing is made of, the last of the window is written. Where rows have windows of
    their own (``own``), those of the place ``window`` are written, and ``output`` moves on with each.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    job, job_valid : one capture's work, :attr:`LEAD` cycles before the array's ``captured`` is high
    results, shift : the array's drain registers
    channel_enable, channel_row, channel_data : read port of the parameter scratchpad
    table_enable, table_row, table_data : write port of the tables, where there are some: a bus word
    write_enable, write_row, write_data : write port of the output scratchpad, enables by granule
    result : a result has been written
    end, post : an instruction's last result has been written; tokens to give
    """

    LEAD = 1 + Scratchpad.LATENCY
    """Cycles from a job to its results."""

    def __init__(self, config: EngineConfig):
        self.config = config
        kinds = {mode.quantiser for mode in config.modes}
        requantised = Requantiser.latency_of(config.requantise_cycles) if "requantise" in kinds else 0
        self._made = max(requantised, Thresholder.LATENCY)
        self.latency = self._made + Combiner.latency_of(config)
        """Cycles from an element's pulse, with its sums there, to its write."""
        self.job_layout = DrainJob(config)
        job = self.job_layout
        ports: dict[str, Any] = {}
        if Buffer.TABLES in (pads := geometries(config)):
            ports = {
                "table_enable": In(1),
                "table_row": In(range(pads[Buffer.TABLES].rows)),
                "table_data": In(config.bus_bits),
            }
        super().__init__(
            ports
            | {
                "job": In(job),
                "job_valid": In(1),
                "results": In(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
                "shift": Out(1),
                "channel_enable": Out(1),
                "channel_row": Out(job["channel"].width),
                "channel_data": In(config.channel_word_bits),
                "write_enable": Out(config.granules_per_word),
                "write_row": Out(range(config.output_depth)),
                "write_data": Out(config.bus_bits),
                "result": Out(1),
                "end": Out(1),
                "post": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        job_bits = self.job_layout
        words = config.channel_words_per_drain
        modes = config.modes
        kinds = [mode.quantiser for mode in modes]
        bits = config.accumulator_bits

        def of_mode(values: Sequence[int], mode: Value, width: int | None = None) -> Value:
            width = max(values).bit_length() if width is None else width
            return chosen([Const(value, width) for value in values], mode)

        # Walk the elements of a job: everything below is one, (row, column) in so many phases.
        working = Signal(self.job_layout)
        busy = Signal()
        slots = [mode.row_cycles // mode.phases for mode in modes]  # of a row: an element each, and then none
        column = Signal(range(max(slots)))
        row = Signal(range(config.rows))
        phase = Signal(range(max(mode.phases for mode in modes)))
        channel = Signal.like(working.channel)
        granule = Signal.like(working.output)
        row_start = Signal.like(working.output)
        columns_less_1 = of_mode([count - 1 for count in slots], working.result)
        if config.chained:
            narrow = of_mode([mode.chain_words - 1 for mode in modes], working.result)
            columns_less_1 = Mux(working.narrow, narrow, columns_less_1)
        last_column = column == columns_less_1
        last_row = row == config.rows - 1
        last_phase = phase == of_mode([mode.phases - 1 for mode in modes], working.result)
        there = column < words if max(slots) > words else Const(1)
        # A job without results is one element that ends it; for planes a row, as those of the job before may
        # still be being written.
        only = working.empty & last_column if config.planar else working.empty
        element_end = busy & (last_column & last_row | only)
        window_first = window_last = Const(1)
        if config.combined:
            place_in_window = Signal.like(working.position)
            window_first = place_in_window == 0
            window_last = place_in_window == working.window
        next_row = Mux(window_last, row_start + working.row, row_start)
        owns = "own" in job_bits.members

        # Requantisation begins with the first phase of an element, thresholds are counted with the last, and
        # accumulators are stored in each.
        scaled = of_mode([kind == "requantise" for kind in kinds], working.result)
        counted = of_mode([kind == "thresholds" for kind in kinds], working.result)
        # One bit, also where no mode is: it is inverted below.
        raw = of_mode([kind == "accumulators" for kind in kinds], working.result, 1)
        pulse = Mux(raw, 1, Mux(counted, last_phase, phase == 0))

        # Results of an element fill a granule or more; or of so many elements one; or of all in a row planes.
        completes, steps = [], []
        for mode in modes:
            lanes = config.accumulator_lanes if mode.quantiser == "accumulators" else config.requantisers
            granules, parts = lanes * mode.storage.bits // config.granule_bits, 1
            if granules == 0:
                granules, parts = 1, config.granule_bits // (lanes * mode.storage.bits)
            planar = mode.storage.planar
            completes.append(column == words - 1 if planar else (column & parts - 1) == parts - 1)
            steps.append(0 if planar else granules)
        complete = chosen(completes, working.result)
        with m.If(busy & (last_phase | raw) & complete):
            m.d.sync += granule.eq(granule + of_mode(steps, working.result))
        with m.If(busy & (last_phase | counted)):
            m.d.sync += channel.eq(channel + 1)
        with m.If(busy):
            m.d.sync += phase.eq(phase + 1)
            with m.If(last_phase):
                m.d.sync += [phase.eq(0), column.eq(column + 1)]
                with m.If(last_column):
                    m.d.sync += column.eq(0)
                    if config.rows > 1:
                        m.d.sync += [
                            row.eq(row + 1),
                            channel.eq(working.channel),
                            row_start.eq(next_row),
                            granule.eq(next_row),
                        ]
                    if config.combined:
                        next_place = Mux(window_last, 0, place_in_window + 1)
                        if owns:
                            next_place = Mux(working.own, place_in_window, next_place)
                        m.d.sync += place_in_window.eq(next_place)
                with m.If(element_end):
                    m.d.sync += [busy.eq(0), row.eq(0), column.eq(0)]
        with m.If(self.job_valid):
            m.d.sync += [
                working.eq(self.job),
                busy.eq(1),
                channel.eq(self.job.channel),
                granule.eq(self.job.output),
                row_start.eq(self.job.output),
                column.eq(0),
                row.eq(0),
                phase.eq(0),
            ]
            if config.combined:
                m.d.sync += place_in_window.eq(self.job.position)
        active = busy & there
        first = active & pulse

        m.d.comb += [self.channel_enable.eq(busy), self.channel_row.eq(channel)]

        # Parameters arrive a scratchpad's latency later, and with them the results.
        wait = Scratchpad.LATENCY
        latency = self.latency
        write = wait + latency
        elements = pulses(m, first, write, "element")
        m.d.comb += self.shift.eq(delay(m, active & last_phase, wait, "shift", reset_less=False))

        m.submodules.packer = packer = Packer(config)
        made: dict[str, list[Value]] = {}
        if "requantise" in kinds:
            start = delay(m, active & (phase == 0) & scaled, wait, "start", reset_less=False)
            made["requantise"] = []
            for index in range(config.requantisers):
                unit = Requantiser(
                    accumulator_bits=bits, bits=config.result_bits, cycles=config.requantise_cycles
                )
                m.submodules[f"requantiser_{index}"] = share(platform, "requantiser", unit)
                m.d.comb += [
                    unit.start.eq(start),
                    unit.acc.value.eq(self.results[index]),
                    unit.channel.eq(self.channel_data.word_select(index, CHANNEL_BITS)),
                ]
                made["requantise"].append(unit.o)
        if "thresholds" in kinds:
            begin = delay(m, phase == 0, wait, "begin")
            storages = [mode.storage for mode in modes if mode.quantiser == "thresholds"]
            places = [storages.index(mode.storage) if mode.storage in storages else 0 for mode in modes]
            place = delay(
                m, of_mode(places, working.result, (len(storages) - 1).bit_length()), wait + 1, "place"
            )
            made["thresholds"] = []
            for index in range(config.requantisers):
                counter = Thresholder(accumulator_bits=bits, storages=storages)
                m.submodules[f"thresholder_{index}"] = share(platform, "thresholder", counter)
                m.d.comb += [
                    counter.begin.eq(begin),
                    counter.acc.value.eq(self.results[index]),
                    Value.cast(counter.levels).eq(self.channel_data.word_select(index, CHANNEL_BITS)),
                    counter.result.eq(place),
                ]
                stages = self._made - Thresholder.LATENCY
                made["thresholds"].append(delay(m, counter.o, stages, f"counted_{index}"))
        if "accumulators" in kinds:
            # Where there are more than fit a bus word, those of each phase.
            lanes = config.accumulator_lanes
            groups = range(0, config.requantisers, lanes)
            sums = [Cat(self.results[first + lane] for lane in range(lanes)) for first in groups]
            part = chosen(sums, delay(m, phase, wait, "phase"))
            late = ring_delay(m, part, latency, "accumulators")
            for lane in range(lanes):
                m.d.comb += packer.accumulators[lane].eq(late[lane * bits :][:bits].as_signed())

        # What goes with an element, while it is on its way.
        combined = bool(config.combined)
        element = Signal(
            data.StructLayout(
                {
                    "granule": len(granule),
                    "result": job_bits["result"].width,
                    "complete": 1,
                    "empty": 1,
                    "end": 1,
                    "post": 3,
                    **({"last": 1} if combined else {}),
                }
            )
        )
        ending = (column == words - 1) & (last_row | working.empty) if config.planar else element_end
        # Elements come so many cycles apart, unless those that count in their last phase are followed by
        # those that count in their first. Values that stay for all phases may be taken later than with the
        # first.
        every = min(1 if mode.quantiser == "accumulators" else mode.phases for mode in modes)
        if len(set(kinds)) > 1:
            every = 1
        held = every if set(kinds) == {"requantise"} else 1

        def of_element(value: Value, stages: int, name: str) -> Value:
            return held_delay(m, value, stages, name, pulses=elements, every=every, held=held)

        m.d.comb += [
            element.granule.eq(granule),
            element.result.eq(working.result),
            element.complete.eq(complete),
            element.empty.eq(working.empty),
            element.end.eq(working.end & ending & (last_phase | ~raw)),
            element.post.eq(working.post),
        ]
        written = Signal.like(element)
        m.d.comb += [
            written.eq(of_element(element.as_value(), write, "with")),
            packer.complete.eq(written.complete),
            packer.granule.eq(written.granule),
            packer.result.eq(written.result),
            packer.empty.eq(written.empty),
            packer.end.eq(written.end),
            packer.post.eq(written.post),
            self.write_enable.eq(packer.write_enable),
            self.write_row.eq(packer.write_row),
            self.write_data.eq(packer.write_data),
            self.end.eq(packer.ended),
            self.post.eq(packer.posted),
        ]

        arrive = wait + self._made
        result = of_element(working.result, arrive, "arriving_result") if combined else packer.result
        nothing = [Const(0, config.result_bits)] * config.requantisers
        values = [
            chosen([made.get(kind, nothing)[index] for kind in kinds], result)
            for index in range(config.requantisers)
        ]
        if not combined:
            m.d.comb += [
                *(packer.values[index].eq(value) for index, value in enumerate(values)),
                packer.valid.eq(elements[write]),
                self.result.eq(elements[write] & ~written.empty),
            ]
            return m

        m.submodules.combiner = combiner = Combiner(config)
        entry = column[: combiner.words_bits]
        if config.unit.outputs > 1:
            entry = Cat(entry, working.part)
        if owns:
            entry = Cat(entry, row & working.own.replicate(len(row)))
        m.d.comb += [
            element.last.eq(window_last),
            packer.valid.eq(elements[write] & (written.last | written.empty)),
            self.result.eq(elements[write] & written.last & ~written.empty),
            *(combiner.values[index].eq(value) for index, value in enumerate(values)),
            combiner.valid.eq(elements[arrive]),
            combiner.result.eq(result),
            combiner.first.eq(of_element(window_first, arrive, "arriving_first")),
            combiner.entry.eq(of_element(entry, arrive, "arriving_entry")),
            packer.values.eq(combiner.o),
        ]

        # What stays for a job is kept for the job, not for each element.
        apart = min(mode.least_cycles for mode in modes)
        bounds = arrive + Combiner.BOUNDS
        jobs = pulses(m, delay(m, self.job_valid, 1, "begun", reset_less=False), bounds - 1, "job")

        def of_job(value: Value, stages: int, name: str) -> Value:
            late = held_delay(m, value, stages - 1, name, pulses=jobs, every=apart, held=apart)
            kept = Signal(value.shape(), name=f"{name}_kept", reset_less=True)
            with m.If(jobs[stages - 1]):
                m.d.sync += kept.eq(late)
            return kept

        m.d.comb += combiner.combine.eq(of_job(working.combine, arrive, "combine"))
        if "sum" in config.combined:
            m.d.comb += [
                combiner.half_even.eq(of_job(working.half_even, arrive + Combiner.ROUNDING, "half_even")),
                combiner.low.eq(of_job(working.low, bounds, "low")),
                combiner.high.eq(of_job(working.high, bounds, "high")),
                combiner.table_enable.eq(self.table_enable),
                combiner.table_row.eq(self.table_row),
                combiner.table_data.eq(self.table_data),
            ]
        return m
