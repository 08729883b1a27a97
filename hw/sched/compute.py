"""The compute unit: has a tile fed, plays it to the array, and hands each capture to the quant pipeline."""

from itertools import accumulate

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..delay import delay, held_delay, pulses
from ..emission import never_elaborated
from ..memory.feeder import Feeder
from ..memory.scratchpad import Scratchpad
from ..pe.contract import Order
from ..quant.packer import chosen
from ..quant.pipeline import DrainJob, QuantPipeline
from .isa import Opcode
from .widths import narrow_layout

__all__ = ["ComputeUnit"]


class ComputeUnit(wiring.Component):
    """Executes COMPUTE instructions: nested loops, one beat per cycle.

    ::

        for m in range(row_groups):                  # a patch in each row's buffer
            for n in range(col_groups):              # weights run on; the patch is played again
                for step, b in schedule:             # the unit's: steps inside beats, or beats inside steps
                    beat(patch[step // S * A + activation_index[b]],
                         weights[group + step * W + weight_index[b]], control[b])
                    where an output's last beat is: capture, results to output + m*output_group + ...
                group += steps * W
                for step, b in schedule of tail_steps:   # where the patch has a tail, one of a sum: the same
                    beat(patch[tail + ...], weights[group + ...], control[b])
                    where an output's last beat is: capture, to the same places
                group += tail_steps * W

    The :class:`~bitwright.hw.memory.feeder.Feeder` brings the patches, ahead of the beats and also of the
    next instruction: it begins with one when its tokens are there and the one before it has been brought. A
    beat waits until the words of its step are there. What is played for the last time is given back; a tail
    as a whole, when the last group of columns has played it. Each group of columns plays the same steps of
    it, or steps of its own, that follow those of the group before. The parameters of its results lie behind
    those of the patch's, and so do those of the next group.

    What the beats of a step are, their control, their order, the A words that S steps share, the W words of
    a step, and the indices, is the unit's own (:class:`~bitwright.hw.config.Schedule`), a table for each
    precision; the instruction says which. A unit of one beat per step has no loop over them, and no table.

        decoder     instruction ─► checked, tokens ─► fed ─► playing, when the one before has been played
        feeder                                        brings its patches
        player                                               a beat per cycle; stands still where words are
                                                             missing, and before a last beat while an earlier
                                                             capture is being drained

        cycle       0              1               2                                      …
        indexed     table, bases   base + index    ports of patches and weights           array
        otherwise   ports                                                                 array

    A beat's operands reach the array :attr:`~bitwright.hw.memory.scratchpad.Scratchpad.LATENCY` cycles after
    its addresses; the capture's job travels beside it and arrives
    :attr:`~bitwright.hw.quant.pipeline.QuantPipeline.LEAD` cycles before the array's ``captured``.

    Parameters
    ----------
    config
        The engine's configuration.
    array_latency
        Cycles from a last beat at the array to ``captured``.

    Members
    -------
    i : decoded instructions
    wait_for, waited, take : tokens: which the instruction needs, whether they are there, and that it starts
    window : the WINDOW in force when an instruction begins; not there in an engine that combines nothing
    feed, feeder_busy : the feeder begins with the instruction; it is not done
    filled, release : words that it has brought, as its own members
    activation_address, read_enable, weight_address, weight_enable : read ports of patch buffers and weights
    fetched, chain : to the array, with the activations; these, `line` and what they are for are there where
        the configuration has `depthwise`
    line : pixels of a line, when an instruction begins
    beat, last, control, activation_index : to the array, aligned with the operands; no control where the unit
        needs none, an index where it has a feeder
    job, job_valid : to the quant pipeline
    ended : an instruction's last result has been written (from the quant pipeline)
    idle : nothing is under way
    illegal : the instruction cannot be executed
    beating, waiting, draining, lacking, starving : for the event counters; lacks words of the feeder
    """

    def __init__(self, config: EngineConfig, *, array_latency: int):
        self.config = config
        self.array_latency = array_latency
        self.layout = narrow_layout(config, Opcode.COMPUTE)
        self.job_layout = DrainJob(config)
        self.pointer_bits = config.patch_depth.bit_length()
        self.weight_address_bits = (config.weight_depth - 1).bit_length()
        chained = bool(config.chained)
        members = {
            "i": In(stream.Signature(self.layout)),
            "wait_for": Out(3),
            "waited": In(1),
            "take": Out(1),
            **({"window": In(narrow_layout(config, Opcode.WINDOW))} if config.combined else {}),
            **({"line": In(narrow_layout(config, Opcode.GEOMETRY)["pixels_inner"].width)} if chained else {}),
            **({"fetched": Out(1), "chain": Out(1)} if chained else {}),
            "feed": Out(1),
            "feeder_busy": In(1),
            "filled": In(self.pointer_bits),
            "release": Out(Feeder.most_released(config)),
            "activation_address": Out(self.pointer_bits - 1),
            "weight_address": Out(self.weight_address_bits),
            "read_enable": Out(1),
            "weight_enable": Out(1),
            "beat": Out(1),
            "last": Out(1),
            "job": Out(self.job_layout),
            "job_valid": Out(1),
            "ended": In(1),
            "idle": Out(1),
            "illegal": Out(1),
            "beating": Out(1),
            "waiting": Out(1),
            "draining": Out(1),
            "lacking": Out(1),
            "starving": Out(1),
        }
        if config.unit.control:
            members["control"] = Out(config.unit.control_layout)
        feeder = never_elaborated(config.unit.feeder())
        self.feeds = feeder is not None
        """Whether the array asks for the index of an activation word."""
        if feeder is not None:
            members["activation_index"] = Out(len(feeder.index))
        self.indexed = any(any((*s.activation_index, *s.weight_index)) for s in config.schedules)
        """Whether beats take other words than the first of their step."""
        self.address_cycles = 2 if self.indexed else 0
        """Cycles from the loops to the patch buffers' ports."""
        self.late = int(chained)
        """Cycles from there to the ports of the weights."""
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        upcoming = self.i.payload
        instruction = Signal(self.layout, name="playing")
        schedules = config.schedules
        modes = config.modes

        k = Signal.like(instruction.steps)
        n = Signal.like(instruction.col_groups)
        row = Signal.like(instruction.row_groups)
        k_last = Signal()
        n_last = Signal()
        row_last = Signal()
        if config.combined:
            window = Signal.like(self.window, name="playing_window")
        if config.tails:
            n_first = Signal()
            tailed = Signal()  # the instruction's patches have tails
            tail_next = Signal()  # what is played is followed by one
            tail_is_one = Signal()
            tail_at = Signal(self.pointer_bits)  # where the one begins that a group of columns plays
        activation = Signal(self.pointer_bits)
        patch = Signal(self.pointer_bits)
        weight = Signal(self.weight_address_bits)
        weight_group = Signal(self.weight_address_bits)
        job_bits = self.job_layout
        channel = Signal(job_bits["channel"].width)
        output = Signal(job_bits["output"].width)
        output_row = Signal(job_bits["output"].width)

        running = Signal()
        started = Signal(4)  # instructions whose last result has not been written
        drain_left = Signal(range(max(2, config.drain_cycles)))

        illegal = (
            (upcoming.steps == 0)
            | (upcoming.row_groups == 0)
            | (upcoming.col_groups == 0)
            | (~upcoming.drain & ((upcoming.row_groups != 1) | (upcoming.col_groups != 1)))
            | (upcoming.wait[1] | upcoming.post[1])
        )
        resumes = [config.unit.resumes(precision) for precision in config.formats]
        if not all(resumes):
            illegal |= ~upcoming.drain & ~chosen([Const(each) for each in resumes], upcoming.precision)
        for field, count in (
            (upcoming.precision, len(schedules)),
            (upcoming.result, len(modes)),
            (upcoming.group, config.block_groups),
        ):
            if count < 1 << len(field):
                illegal |= field >= count
        # Accumulators do not wait for the planes of an earlier instruction to be written.
        raw = [config.planar and mode.quantiser == "accumulators" for mode in modes]
        may_start = ~started.all() & ~(chosen([Const(each) for each in raw], upcoming.result) & started.any())
        checked = Signal()  # the instruction has been looked at for a cycle: its checks are registered
        bad = Signal()
        fed = Signal()  # the feeder has begun with it
        start = Signal()
        finish = Signal()
        m.d.sync += [checked.eq(self.i.valid & ~fed & ~self.feed), bad.eq(illegal)]
        with m.If(self.feed):
            m.d.sync += fed.eq(1)
        with m.Elif(start):
            m.d.sync += fed.eq(0)
        m.d.comb += [
            self.wait_for.eq(upcoming.wait),
            self.illegal.eq(checked & bad),
            self.feed.eq(checked & ~bad & self.waited & ~self.feeder_busy),
            self.take.eq(self.feed),
            start.eq(fed & may_start & ~running),
            self.i.ready.eq(start),
            self.idle.eq(~running & ~fed & (started == 0)),
            self.waiting.eq(checked & ~self.waited & ~running),
            self.starving.eq(~self.i.valid & ~running),
        ]

        # The loops. An "is last" flag is kept beside each counter, so that no wide compare is in the path.
        first_beats = [0, *accumulate(len(schedule.beats) for schedule in schedules)][:-1]
        table = [(schedule, index) for schedule in schedules for index in range(len(schedule.beats))]
        beat = Signal(range(len(table)))

        def first_beat(precision: Value) -> Value:
            return chosen([Const(each, len(beat)) for each in first_beats], precision)

        def of_beat(values: list[int], width: int = 1) -> Value:
            return chosen([Const(value, width) for value in values], beat)

        def of_precision(values: list[int]) -> Value:
            width = max(values).bit_length()
            return chosen([Const(value, width) for value in values], instruction.precision)

        def of_mode(values: list[int]) -> Value:
            width = max(values).bit_length()
            return chosen([Const(value, width) for value in values], instruction.result)

        beat_last = of_beat([index == len(schedule.beats) - 1 for schedule, index in table])
        output_ends = of_beat([schedule.ends[index] for schedule, index in table])
        activation_words = of_precision([schedule.activation_words for schedule in schedules])
        weight_words = of_precision([schedule.weight_words for schedule in schedules])
        # Steps that share their activation words
        shared = [len(schedule.stored_steps) for schedule in schedules]
        step = Signal(range(max(shared)))
        step_last = step == of_precision([count - 1 for count in shared])
        beats_outside = config.unit.order is Order.BEATS_OUTSIDE
        step_end = Const(1) if beats_outside else beat_last
        group_last = beats_end = k_last & beat_last  # of the patch, or of its tail
        if config.tails:
            group_last = beats_end & ~tail_next
        last = Signal()  # of a dot product
        issue = Signal()
        hand_over = Signal()
        there = Signal()  # the words of the step have been brought
        drained = ~last | (drain_left == 0)
        m.d.comb += [
            last.eq(k_last & output_ends),
            issue.eq(running & there & drained),
            hand_over.eq(issue & last),
            finish.eq(issue & group_last & n_last & row_last),
            self.beating.eq(issue),
            self.lacking.eq(running & ~there),
            self.draining.eq(running & there & ~drained),
        ]
        channel_words = of_mode([config.channel_words_per_drain * mode.channel_words for mode in modes])
        next_activation = (activation + activation_words)[: self.pointer_bits]
        # Words are over when the last group of columns has played them, in its last beat.
        over = issue & step_end & step_last & n_last & (beat_last if beats_outside else 1)
        released = Mux(over, activation_words, 0)
        # Words that are played again are there.
        again = k_last & ~(group_last & n_last)
        if config.tails:
            in_tail = tailed & ~tail_next
            whole = issue & group_last & n_last & tailed
            released = Mux(over & ~in_tail, activation_words, Mux(whole, window.tail, 0))
            again = k_last & ~(beats_end & tail_next) & ~(group_last & n_last)
        m.d.comb += self.release.eq(released)
        brought: Value = next_activation != self.filled
        if config.tails:
            brought = Mux(beats_end & tail_next & ~n_first, tail_at != self.filled, brought)
        with m.If(issue & step_end & step_last):
            m.d.sync += there.eq(again | brought)
        with m.Else():
            m.d.sync += there.eq(activation != self.filled)
        next_output_row = output_row + instruction.output_group
        window_end: Value = Const(1)
        if config.combined:
            # A group's rows are parts of a window, of two, or so many whole ones as `output_group` is for.
            position = Signal(8)
            next_position = position + config.rows
            window_end = next_position > window.size
            if config.tails:
                window_end |= tailed  # each row's in one group
            with m.If(issue & group_last & n_last):
                m.d.sync += position.eq(next_position)
                with m.If(window_end):
                    m.d.sync += position.eq(
                        Mux(window.size < config.rows, 0, next_position - window.size - 1)
                    )
            with m.If(start):
                m.d.sync += [window.eq(self.window), position.eq(0)]
        next_weight = weight + weight_words
        # Nothing is written of what a tail is added to.
        writes = hand_over & ~tail_next if config.tails else hand_over
        next_output = self._next_output(
            m, instruction, upcoming, output, writes, start, issue & group_last & n_last
        )
        # Of a chain, the first pixel of a line has more steps, whose weights come first.
        steps: Value = instruction.steps
        is_one: Value = steps == 1
        weights: Value = instruction.weights
        upcoming_steps: Value = upcoming.steps
        if config.chained:
            line_end = Signal()
            line = Signal.like(self.line)
            line_pixels = Signal.like(self.line)
            line_steps = Signal.like(k)
            line_weights = Signal.like(weight)
            output_line = Signal.like(output)
            next_line = output_line + instruction.output_row
            upcoming_steps = (upcoming.steps + upcoming.lead)[: len(k)]
            is_one = Mux(line_end, line_steps == 1, is_one)
            steps = Mux(line_end, line_steps, steps)
            weights = Mux(line_end, weights, line_weights)
            ends_line = line_end & instruction.chain
            next_output_row = Mux(ends_line, next_line, next_output_row)
            with m.If(issue & group_last & n_last):
                m.d.sync += [line.eq(line - 1), line_end.eq(line == 2)]
                with m.If(line_end):
                    m.d.sync += [line.eq(line_pixels), line_end.eq(line_pixels == 1)]
                with m.If(ends_line):
                    m.d.sync += output_line.eq(next_line)
            with m.If(start):
                m.d.sync += [
                    line.eq(self.line),
                    line_end.eq(self.line == 1),
                    line_pixels.eq(self.line),
                    line_steps.eq(upcoming_steps),
                    line_weights.eq(upcoming.weights + upcoming.lead),
                    output_line.eq(upcoming.output),
                ]
        with m.If(issue):
            with m.If(k_last if beats_outside else 1):
                m.d.sync += beat.eq(Mux(beat_last, first_beat(instruction.precision), beat + 1))
            with m.If(step_end):
                m.d.sync += [
                    k.eq(k - 1),
                    k_last.eq(k == 2),
                    weight.eq(next_weight),
                    step.eq(Mux(step_last, 0, step + 1)),
                ]
                with m.If(step_last):
                    m.d.sync += activation.eq(next_activation)
                with m.If(k_last):
                    m.d.sync += [
                        k.eq(steps),
                        k_last.eq(is_one),
                        activation.eq(patch),
                        step.eq(0),
                    ]
                    # The same weights once more for each beat.
                    with m.If(beat_last):
                        m.d.sync += weight_group.eq(next_weight)
                    with m.Else():
                        m.d.sync += weight.eq(weight_group)
                    if config.tails:
                        # The tail, or its steps once more.
                        with m.If(tailed & (beats_end == tail_next)):
                            m.d.sync += [
                                k.eq(window.tail_steps),
                                k_last.eq(tail_is_one),
                                activation.eq(Mux(tail_next & n_first, next_activation, tail_at)),
                            ]
                        with m.If(beats_end):
                            m.d.sync += tail_next.eq(in_tail)
                            with m.If(Mux(tail_next, n_first, window.own)):
                                m.d.sync += tail_at.eq(next_activation)
            with m.If(last):
                m.d.sync += [channel.eq(channel + channel_words), output.eq(next_output)]
                if config.tails:
                    with m.If(tail_next):
                        m.d.sync += output.eq(output)
            with m.If(group_last):
                m.d.sync += [n.eq(n - 1), n_last.eq(n == 2)]
                if config.tails:
                    m.d.sync += n_first.eq(n_last)
                with m.If(n_last):
                    m.d.sync += [
                        n.eq(instruction.col_groups),
                        n_last.eq(instruction.col_groups == 1),
                        row.eq(row - 1),
                        row_last.eq(row == 2),
                        activation.eq(next_activation),
                        patch.eq(next_activation),
                        weight.eq(weights),
                        weight_group.eq(weights),
                        channel.eq(instruction.channels),
                    ]
                    m.d.sync += output.eq(Mux(window_end, next_output_row, output_row))
                    with m.If(window_end):
                        m.d.sync += output_row.eq(next_output_row)
        with m.If(start):
            m.d.sync += [
                instruction.eq(upcoming),
                running.eq(1),
                k.eq(upcoming_steps),
                k_last.eq(upcoming_steps == 1),
                n.eq(upcoming.col_groups),
                n_last.eq(upcoming.col_groups == 1),
                row.eq(upcoming.row_groups),
                row_last.eq(upcoming.row_groups == 1),
                weight.eq(upcoming.weights),
                weight_group.eq(upcoming.weights),
                beat.eq(first_beat(upcoming.precision)),
                channel.eq(upcoming.channels),
                output.eq(upcoming.output),
                output_row.eq(upcoming.output),
            ]
            if config.tails:
                tails = self.window.tail != 0
                m.d.sync += [
                    n_first.eq(1),
                    tailed.eq(tails),
                    tail_next.eq(tails),
                    tail_is_one.eq(self.window.tail_steps == 1),
                ]
        with m.If(finish):
            m.d.sync += running.eq(0)

        with m.If(start & ~self.ended):
            m.d.sync += started.eq(started + 1)
        with m.Elif(self.ended & ~start):
            m.d.sync += started.eq(started - 1)

        # A last beat may follow another only when the results of that one will have left the array.
        if config.drain_cycles > 1:
            with m.If(hand_over):
                left = of_mode([mode.drain_cycles - 1 for mode in modes])
                if config.chained:
                    left = Mux(instruction.chain, of_mode([mode.chain_cycles - 1 for mode in modes]), left)
                m.d.sync += drain_left.eq(left)
            with m.Elif(drain_left != 0):
                m.d.sync += drain_left.eq(drain_left - 1)

        job = Signal(self.job_layout)
        m.d.comb += [
            job.output.eq(output),
            job.row.eq(instruction.output_row),
            job.result.eq(instruction.result),
            job.channel.eq(channel),
            job.empty.eq(~instruction.drain),
            job.end.eq(finish),
            job.post.eq(Mux(finish, instruction.post, 0)),
        ]
        if config.chained:
            m.d.comb += job.narrow.eq(instruction.chain)
        if config.combined:
            m.d.comb += [
                job.combine.eq(window.combine),
                job.position.eq(position),
                job.window.eq(window.size),
            ]
            if config.tails:
                m.d.comb += job.position.eq(Mux(tailed, in_tail, position))
            if config.tails and config.rows > 1:
                m.d.comb += job.own.eq(tailed)
            if config.unit.outputs > 1:
                # As outputs come one after the other, so many of the step's beats have ended one before.
                ended = [sum(schedule.ends[:index]) for schedule, index in table]
                m.d.comb += job.part.eq(of_beat(ended, len(job.part)))
        if "sum" in config.combined:
            m.d.comb += [job.low.eq(window.low), job.high.eq(window.high), job.half_even.eq(window.half_even)]
        # Addresses
        if self.indexed:
            enable = Signal()
            base = Signal(len(self.activation_address), reset_less=True)
            weight_base = Signal.like(weight, reset_less=True)
            address = Signal.like(base, reset_less=True)
            weight_address = Signal.like(weight, reset_less=True)
            indices = []
            for values in (
                [schedule.activation_index[index] for schedule, index in table],
                [schedule.weight_index[index] for schedule, index in table],
            ):
                index = Signal(max(values).bit_length(), reset_less=True)
                m.d.sync += index.eq(of_beat(values, len(index)))
                indices.append(index)
            m.d.sync += [
                base.eq(activation),
                weight_base.eq(weight),
                address.eq(base + indices[0]),
                weight_address.eq(weight_base + indices[1]),
                enable.eq(issue),
                self.read_enable.eq(enable),
            ]
            m.d.comb += [self.activation_address.eq(address), self.weight_address.eq(weight_address)]
            m.d.comb += self.weight_enable.eq(self.read_enable)
        else:
            m.d.comb += [
                self.activation_address.eq(activation[:-1]),
                self.read_enable.eq(issue),
            ]
            # A chain's taps go through a register that weights do not have.
            m.d.comb += [
                self.weight_address.eq(delay(m, weight, self.late, "weight_address")),
                self.weight_enable.eq(delay(m, issue, self.late, "weight_enable", reset_less=False)),
            ]
        wait = self.address_cycles + Scratchpad.LATENCY
        if config.chained:
            m.d.comb += [
                self.fetched.eq(delay(m, issue, wait, "fetched", reset_less=False)),
                self.chain.eq(delay(m, instruction.chain, wait, "chain")),
            ]
        wait += self.late
        if config.unit.control:
            words = [
                [config.unit.encoded_control(s.beats[i], shift=shift and s.beats[i].shift) for s, i in table]
                for shift in (False, True)
            ]
            control = of_beat(words[1], config.unit.control_layout.size)
            if beats_outside and words[0] != words[1]:
                # Only the first step of a beat shifts.
                first = Signal(init=1)
                with m.If(issue):
                    m.d.sync += first.eq(k_last)
                control = Mux(first, control, of_beat(words[0], config.unit.control_layout.size))
            m.d.comb += Value.cast(self.control).eq(delay(m, control, wait, "control"))
        if self.feeds:
            width = len(self.activation_index)
            indices = []
            for number in range(max(shared)):
                rows = [schedule.feeder_index[index] for schedule, index in table]
                indices.append(of_beat([row[min(number, len(row) - 1)] for row in rows], width))
            activation_index = chosen(indices, step)
            m.d.comb += self.activation_index.eq(delay(m, activation_index, wait, "activation_index"))
        every = min(mode.least_cycles for mode in modes)
        to_job = wait + self.array_latency - QuantPipeline.LEAD
        jobs = pulses(m, hand_over, to_job, "job_valid")
        m.d.comb += [
            self.beat.eq(delay(m, issue, wait, "beat", reset_less=False)),
            self.last.eq(delay(m, hand_over & instruction.drain, wait, "last", reset_less=False)),
            self.job_valid.eq(jobs[to_job]),
            self.job.eq(held_delay(m, job.as_value(), to_job, "job", pulses=jobs, every=every)),
        ]
        return m

    def _next_output(
        self,
        m: Module,
        instruction: data.View,
        upcoming: data.View,
        output: Signal,
        hand_over: Value,
        start: Value,
        restart: Value,
    ) -> Value:
        """First granule of the results behind those that are handed over, in the same row."""
        config = self.config
        modes = config.modes
        groups = config.block_groups
        width = len(output)
        # As far as the next group, in the same planes or where every group has blocks of its own.
        steps = [
            config.cols // config.granule_bits
            if mode.storage.planar and groups > 1
            else config.granule(mode.storage, config.cols)
            for mode in modes
        ]
        step = chosen([Const(value, width) for value in steps], instruction.result)
        if groups == 1:
            return output + step
        # Groups of columns share planes; behind the last of them the next block begins.
        jumps = [
            config.granule(mode.storage, mode.storage.block) - (groups - 1) * value
            if mode.storage.planar
            else value
            for mode, value in zip(modes, steps, strict=True)
        ]
        jump = chosen([Const(value, width) for value in jumps], instruction.result)
        group = Signal(range(groups))
        with m.If(start):
            m.d.sync += group.eq(upcoming.group)
        with m.Elif(restart):
            m.d.sync += group.eq(instruction.group)
        with m.Elif(hand_over):
            m.d.sync += group.eq(Mux(group == groups - 1, 0, group + 1))
        return output + Mux(group == groups - 1, jump, step)
