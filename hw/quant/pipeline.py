"""From the array's drain registers through the requantisers to the output scratchpad."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import CHANNEL_BITS, EngineConfig
from ..delay import delay, held_delay, pulses
from ..emission import share
from ..memory.scratchpad import Scratchpad
from .requantise import Requantiser

__all__ = ["DrainJob", "QuantPipeline"]


class DrainJob(data.StructLayout):
    """What happens to the results of one capture.

    Members: ``output`` first granule, ``row`` granules from one row to the next, ``channel`` first word of
    parameters, ``empty`` no results, ``end`` the last of its instruction, ``post`` tokens to give then.
    """

    def __init__(self, config: EngineConfig):
        granule_bits = (config.output_depth * config.granules_per_word - 1).bit_length()
        channel_bits = max(1, (config.channel_depth // config.requantisers - 1).bit_length())
        super().__init__(
            {
                "output": granule_bits,
                "row": granule_bits,
                "channel": channel_bits,
                "empty": 1,
                "end": 1,
                "post": 3,
            }
        )


class QuantPipeline(wiring.Component):
    """Drains, requantises and writes the results of one capture after another.

    ::

        cycle       t        t+1       t+2      t+3 = t+LEAD        …   + requantiser's latency
        parameters  job      address   memory   register, start          write granule
        results                                 captured, then shift     at output + row*r + j

    A job takes ``rows * cols / requantisers`` elements of ``requantise_cycles`` each; nothing here ever
    waits, so whoever gives jobs keeps them that far apart
    (:attr:`~bitwright.hw.config.EngineConfig.drain_cycles`). Rows follow each other, columns within a row.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    job, job_valid : one capture's work, :attr:`LEAD` cycles before the array's ``captured`` is high
    results, shift : the array's drain registers
    channel_enable, channel_row, channel_data : read port of the parameter scratchpad
    write_enable, write_granule, write_data : write port of the output scratchpad
    end, post : an instruction's last result has been written; tokens to give
    """

    LEAD = 1 + Scratchpad.LATENCY
    """Cycles from a job to its results."""

    def __init__(self, config: EngineConfig):
        self.config = config
        self.job_layout = DrainJob(config)
        job = self.job_layout
        super().__init__(
            {
                "job": In(job),
                "job_valid": In(1),
                "results": In(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
                "shift": Out(1),
                "channel_enable": Out(1),
                "channel_row": Out(job["channel"].width),
                "channel_data": In(config.channel_word_bits),
                "write_enable": Out(1),
                "write_granule": Out(job["output"].width),
                "write_data": Out(config.granule_bits),
                "end": Out(1),
                "post": Out(3),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        granules = config.granules_per_drain
        cycles = config.requantise_cycles

        # Walk the granules of a job. Everything below is one element: (row, granule) in `cycles` cycles.
        working = Signal(self.job_layout)
        busy = Signal()
        column = Signal(range(granules))
        row = Signal(range(config.rows))
        phase = Signal(range(cycles))
        channel = Signal.like(working.channel)
        granule = Signal.like(working.output)
        row_start = Signal.like(working.output)
        last_column = column == granules - 1
        last_row = row == config.rows - 1
        last_phase = phase == cycles - 1

        first = busy & (phase == 0)
        element_end = busy & (last_column & last_row | working.empty)
        with m.If(busy):
            m.d.sync += phase.eq(phase + 1)
            with m.If(last_phase):
                m.d.sync += [
                    phase.eq(0),
                    column.eq(column + 1),
                    granule.eq(granule + 1),
                    channel.eq(channel + 1),
                ]
                with m.If(last_column):
                    m.d.sync += [
                        column.eq(0),
                        row.eq(row + 1),
                        channel.eq(working.channel),
                        row_start.eq(row_start + working.row),
                        granule.eq(row_start + working.row),
                    ]
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

        m.d.comb += [self.channel_enable.eq(busy), self.channel_row.eq(channel)]

        # Parameters arrive a scratchpad's latency later, and with them the results.
        wait = Scratchpad.LATENCY
        write = wait + Requantiser.latency_of(cycles)
        elements = pulses(m, first, write + 1, "element")
        m.d.comb += self.shift.eq(delay(m, busy & last_phase, wait, "shift", reset_less=False))

        outputs = []
        for index in range(config.requantisers):
            unit = Requantiser(
                accumulator_bits=config.accumulator_bits,
                bits=config.activation_bits,
                cycles=config.requantise_cycles,
            )
            m.submodules[f"requantiser_{index}"] = share(platform, "requantiser", unit)
            m.d.comb += [
                unit.start.eq(elements[wait]),
                unit.acc.value.eq(self.results[index]),
                unit.channel.eq(self.channel_data.word_select(index, CHANNEL_BITS)),
            ]
            outputs.append(unit.o)

        # What goes with an element, while it is on its way.
        element = Signal(
            data.StructLayout({"granule": len(granule), "empty": 1, "end": 1, "post": len(self.post)})
        )
        m.d.comb += [
            element.granule.eq(granule),
            element.empty.eq(working.empty),
            element.end.eq(element_end & working.end),
            element.post.eq(working.post),
        ]
        written = Signal.like(element)
        given = Signal.like(element)
        m.d.comb += written.eq(
            held_delay(m, element.as_value(), write, "with", pulses=elements, every=cycles, held=cycles)
        )
        # Tokens come a cycle later than the write, so that whoever takes one finds the data.
        m.d.sync += given.eq(written)
        m.d.comb += [
            self.write_enable.eq(elements[write] & ~written.empty),
            self.write_granule.eq(written.granule),
            self.write_data.eq(Cat(outputs)),
            self.end.eq(elements[write + 1] & given.end),
            self.post.eq(given.post),
        ]
        return m
