"""The feeder: from the activation scratchpad, tap by tap, into a patch buffer for each array row."""

from functools import reduce
from operator import or_
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import EngineConfig
from ..delay import delay, pulses
from ..quant.packer import chosen
from ..sched.isa import Opcode
from ..sched.widths import narrow_layout
from .scratchpad import Geometry, Scratchpad

__all__ = ["Feeder"]


class Feeder(wiring.Component):
    """Walks pixels and, for each, the taps of its window; what lies outside is made up, not stored.

    ::

        for group in range(row_groups):                  # of `rows` patches, one for each array row
            for row in range(rows):                      # patches of a pixel, then pixels follow each other
                for i in range(taps_inner):
                    for o in range(taps_outer):
                        for w in range(words):
                            patch[row] <- scratchpad[patch + i*tap_inner + o*tap_outer + w]
                                          if 0 <= position_inner < limit_inner and the same outside, else pad
                for w in range(tail):
                    patch[row] <- scratchpad[tail_base + inner*tail_inner + outer*tail_outer + w]

        position_inner = start_inner + inner * stride_inner + p * step_inner + i * dilation_inner
        position_outer = start_outer + outer * stride_outer + q * step_outer + o * dilation_outer
        patch = base + inner * pixel_inner + outer * pixel_outer + p * words_inner + q * words_outer

    That is a convolution's im2col; a matrix product is one of a single tap, whose pixels are its rows. Which
    of height and width is the inner dimension is for the compiler to say. Where results of several patches
    are combined, these are the window of a pixel, (p, q), outer dimension first to move. In a chain, of all
    but the first pixel of a line only the last `taps_more` inner taps are brought; it shares the others with
    the one before. Where a line's elements follow each other without gaps, taps are packed, see below. The
    tail is another tensor's pixel, as it is: one tap more, which is never outside. A chain has none, nor what
    is packed, nor a pixel of several patches.

    ::

        activation scratchpad ── pad? ──► patch buffer of row 0 ──► array
             ▲                        └─► patch buffer of row 1 ──► array
          addresses ◄── loops

        cycle    0        1        2          3         4
                 start    loops    address    memory    register; pad or word written to the patch buffer

    A patch buffer is a ring of ``patch_depth`` words. The feeder writes ahead, also for the next instruction,
    as far as there is room; who plays the words gives room back. So words of a patch are brought once,
    whatever is read of them for other columns, and a patch longer than the ring can be played only once.

    Parameters
    ----------
    config
        The engine's configuration.

    Members
    -------
    start, base, row_groups, chain, pack, precision : begin an instruction; fields of its COMPUTE, which stay
        for one more cycle. No chain and no pack in an engine that has none. The last group of rows must end a
        window
    geometry, window : the GEOMETRY and the WINDOW in force; must stay while busy. No window in an engine that
        combines nothing
    busy : an instruction is being walked, or its last words are on their way
    read_enable, read_address, read_data : read port of the activation scratchpad
    write_enable : for each array row; with write_address and write_data
    filled : word up to which all patch buffers have been written, modulo twice ``patch_depth``
    release : that many words have been played for the last time; up to a patch buffer's where there are tails
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.geometry_layout = narrow_layout(config, Opcode.GEOMETRY)
        compute = narrow_layout(config, Opcode.COMPUTE)
        self.address_bits = (config.activation_depth - 1).bit_length()
        self.pointer_bits = config.patch_depth.bit_length()
        """Width of a position in the ring, and which time round."""
        super().__init__(
            {
                "start": In(1),
                "base": In(self.address_bits),
                "row_groups": In(compute["row_groups"].width),
                **({"chain": In(1)} if config.chained else {}),
                **({"pack": In(1)} if config.packs else {}),
                "precision": In(compute["precision"].width),
                "geometry": In(self.geometry_layout),
                **({"window": In(narrow_layout(config, Opcode.WINDOW))} if config.combined else {}),
                "busy": Out(1),
                "read_enable": Out(1),
                "read_address": Out(self.address_bits),
                "read_data": In(config.activation_word_bits),
                "write_enable": Out(config.rows),
                "write_address": Out(range(config.patch_depth)),
                "write_data": Out(config.activation_word_bits),
                "filled": Out(self.pointer_bits),
                "release": In(self.most_released(config)),
            }
        )

    @staticmethod
    def most_released(config: EngineConfig) -> range:
        """How many words may be given back at a time: those of a step, or a whole tail."""
        most = max(schedule.activation_words for schedule in config.schedules)
        return range(max(most, config.patch_depth if config.tails else 0) + 1)

    @staticmethod
    def patch_geometry(config: EngineConfig) -> Geometry:
        """Of a patch buffer: words as the array takes them, written and read."""
        width = config.activation_word_bits
        return Geometry(write_bits=width, read_bits=width, depth=config.patch_depth)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        g: Any = self.geometry
        if not config.convolution:
            # A matrix: one tap and one line, and nothing outside.
            g = SimpleNamespace(
                **{
                    str(name): getattr(self.geometry, str(name)) if field.width else Const(0, 8)
                    for name, field in self.geometry_layout
                }
            )
        storages = config.storages
        planes_of = [storages[precision.activation].words for precision in config.formats]

        # Tokens decide late in a cycle whether an instruction begins; its fields stay one cycle more.
        start = Signal()
        m.d.sync += start.eq(self.start)
        running = Signal()
        precision = Signal.like(self.precision)
        planes = chosen([Const(count) for count in planes_of], precision)

        # The loops; beside each counter, what counts down, a flag that says it is the last. Of a matrix, each
        # tap is the last and no pixel.
        word = Signal.like(g.words)
        word_last = Signal()
        outer_tap = Signal.like(g.taps_outer)
        outer_tap_last: Value = Signal() if config.convolution else Const(1)
        inner_tap = Signal(len(g.taps_inner) + config.tails)
        inner_tap_last: Value = Signal() if config.convolution else Const(1)
        pixel = Signal.like(g.pixels_inner)
        pixel_last: Value = Signal() if config.convolution else Const(0)
        inner_last: Value = Const(1)  # of a window's patches
        outer_last: Value = Const(1)
        if config.combined:
            inner = Signal.like(self.window.inner)
            outer = Signal.like(self.window.outer)
            inner_last = Signal()
            outer_last = Signal()
        window_last = inner_last & outer_last if config.combined else Const(1)
        if config.tails:
            # The tail follows the inner tap's column; it counts as an inner tap, too.
            tail_next = Signal()
            tailed = self.window.tail != 0
        row = Signal(range(config.rows))
        row_last = row == config.rows - 1 if config.rows > 1 else Const(1)
        group = Signal.like(self.row_groups)
        group_last = Signal()
        plane = Signal(range(max(2, *planes_of)))
        plane_last = plane == planes - 1 if max(planes_of) > 1 else Const(1)

        space = Signal(range(config.patch_depth + 1), init=config.patch_depth)
        has_space = Signal(init=1)
        pack: Value = Const(0)
        flush: Value = Const(0)  # what is left of a packed patch goes out, and nothing comes in
        emits: Value = Const(1)  # a word goes out
        packer = None
        if config.packs:
            packer = _Packing(m, self, g, word, word_last)
            pack, flush = packer.pack, packer.flush
        patch_row = row if packer is None else Mux(flush, packer.flush_row, row)
        # Rows write to the same places one after the other: room is taken with the first.
        may_go = has_space if config.rows == 1 else has_space | (patch_row != 0)
        go = running & may_go & ~flush
        carry: Value = Const(0)
        if packer is not None:
            self.came = go
            self.flushed = may_go
            emits = packer.emits(outer_tap_last) & go | flush & may_go
            carry = packer.carry
        else:
            emits = go
        takes = emits & (patch_row == 0) if config.rows > 1 else emits
        # Whether a word goes out is known late in the cycle: it is counted in the next one.
        release = Signal.like(self.release)
        taken = Signal()
        next_space = Signal.like(space)
        m.d.comb += next_space.eq(space + release - taken)
        m.d.sync += [
            release.eq(self.release),
            taken.eq(takes),
            space.eq(next_space),
            has_space.eq(Mux(takes, next_space != 1, next_space != 0)),
        ]

        def load(counter: Signal, last: Value, count: Value) -> list[object]:
            return [] if isinstance(last, Const) else [counter.eq(count), last.eq(count == 1)]

        def step(counter: Signal, last: Value) -> list[object]:
            return [] if isinstance(last, Const) else [counter.eq(counter - 1), last.eq(counter == 2)]

        def load_inner_tap(count: Value) -> list[object]:
            if not config.tails:
                return load(inner_tap, inner_tap_last, count)
            return [
                inner_tap.eq(count + tailed),
                inner_tap_last.eq((count == 1) & ~tailed),
                tail_next.eq((count == 1) & tailed),
            ]

        chain: Value = Const(0)
        taps_inner: Value = g.taps_inner
        if config.chained:
            chain = Signal(name="chained")
            taps_inner = Mux(chain & ~pixel_last, g.taps_more, g.taps_inner)
            with m.If(start):
                m.d.sync += chain.eq(self.chain)
        # Whether a word goes is known later than what ends with it.
        column_last = word_last & outer_tap_last  # of a tap along the inner dimension
        patch_last = column_last & inner_tap_last
        pixel_ends = patch_last & window_last
        with m.If(go):
            m.d.sync += step(word, word_last)
            if max(planes_of) > 1:
                m.d.sync += plane.eq(Mux(plane_last, 0, plane + 1))
        with m.If(go & word_last):
            m.d.sync += [load(word, word_last, g.words), step(outer_tap, outer_tap_last)]
        with m.If(go & column_last):
            m.d.sync += [load(outer_tap, outer_tap_last, g.taps_outer), step(inner_tap, inner_tap_last)]
            if config.tails:
                m.d.sync += tail_next.eq(tailed & (inner_tap == 3))
                with m.If(tail_next):
                    m.d.sync += [load(word, word_last, self.window.tail), outer_tap_last.eq(1)]
        with m.If(go & patch_last):
            m.d.sync += load_inner_tap(taps_inner)
            if config.rows > 1:
                m.d.sync += row.eq(Mux(row_last, 0, row + 1))
        with m.If(go & (patch_last & row_last)):
            m.d.sync += step(group, group_last)
        with m.If(go & (patch_last & row_last & group_last)):
            m.d.sync += running.eq(0)
        if config.combined:
            w = self.window
            with m.If(go & patch_last):
                m.d.sync += [outer.eq(outer + 1), outer_last.eq(outer + 1 == w.outer)]
            with m.If(go & (patch_last & outer_last)):
                m.d.sync += [
                    *(outer.eq(0), outer_last.eq(w.outer == 0)),
                    *(inner.eq(inner + 1), inner_last.eq(inner + 1 == w.inner)),
                ]
            with m.If(go & pixel_ends):
                m.d.sync += [inner.eq(0), inner_last.eq(w.inner == 0)]
        with m.If(go & pixel_ends):
            m.d.sync += step(pixel, pixel_last)
        with m.If(go & (pixel_ends & pixel_last)):
            m.d.sync += load(pixel, pixel_last, g.pixels_inner)
        with m.If(start):
            m.d.sync += [
                running.eq(1),
                precision.eq(self.precision),
                load(word, word_last, g.words),
                load(outer_tap, outer_tap_last, g.taps_outer),
                load_inner_tap(g.taps_inner),
                load(pixel, pixel_last, g.pixels_inner),
                load(group, group_last, self.row_groups),
            ]
            if config.combined:
                m.d.sync += [
                    *(inner.eq(0), inner_last.eq(self.window.inner == 0)),
                    *(outer.eq(0), outer_last.eq(self.window.outer == 0)),
                ]
        if packer is not None:
            with m.If(start):
                packer.begin()
            with m.If(go):
                packer.advance(outer_tap_last, pixel_last & window_last, row)

        # What has ended moves the places, a cycle later.
        def later(value: Value, name: str) -> Value:
            return delay(m, value, 1, name, reset_less=False)

        # One of these at a time. In a chain the next pixel's taps are the next ones of the line.
        chained = window_last & ~pixel_last & chain
        goes_on = go & ~word_last
        to_tap = go & (word_last & ~outer_tap_last)
        more_columns = ~inner_tap_last | chained
        to_column = go & (column_last & more_columns)  # of taps
        if config.tails:
            to_column = go & (column_last & more_columns & ~tail_next)
            to_tail = go & (column_last & tail_next)
        to_patch = go & (patch_last & ~outer_last)  # of a window
        to_patches = go & (patch_last & outer_last & ~inner_last)  # its next column
        to_pixel = go & (pixel_ends & ~pixel_last & ~chain)
        to_line = go & (pixel_ends & pixel_last)
        carried = later(carry, "carried") if packer is not None else Const(0)
        base = later(self.base, "base")

        address = Signal(self.address_bits)
        at_outer_tap = Signal(self.address_bits)
        at_inner_tap = Signal(self.address_bits)
        at_patch = Signal(self.address_bits)
        at_column = Signal(self.address_bits)  # of a window's patches
        at_pixel = Signal(self.address_bits)
        at_line = Signal(self.address_bits)
        x = Signal.like(g.start_inner)
        x_patch = Signal.like(x)
        x_pixel = Signal.like(x)
        y = Signal.like(g.start_outer)
        y_patch = Signal.like(y)
        y_pixel = Signal.like(y)
        next_x_pixel = x_pixel + g.stride_inner + carried

        def move(register: Signal, any_event: Value, *choices: tuple[Value, Value]) -> None:
            """What goes with the event that has happened; `any_event` says whether one of these has."""
            width = len(register)
            moved = reduce(
                or_,
                (
                    later(event, f"{register.name}_{index}").replicate(width) & value[:width]
                    for index, (event, value) in enumerate(choices)
                ),
            )
            with m.If(later(any_event, f"{register.name}_moves")):
                m.d.sync += register.eq(moved)

        begins_line = start | to_line
        begins_pixel = start | go & (pixel_ends & (pixel_last | ~chain))
        begins_column = start | go & (patch_last & outer_last & ~chained)
        begins_patch = start | go & (patch_last & ~chained)
        moves = [
            (start, base),
            (to_line, at_line + g.pixel_outer),
            (to_pixel, at_pixel + g.pixel_inner + carried),
        ]
        move(at_line, begins_line, *moves[:2])
        move(at_pixel, begins_pixel, *moves)
        x_moves = [(begins_line, g.start_inner), (to_pixel, next_x_pixel)]
        y_moves = [(start, g.start_outer), (to_line, y_pixel + g.stride_outer)]
        move(x_pixel, begins_pixel, *x_moves)
        move(y_pixel, begins_line, *y_moves)
        y_moves.append((to_pixel, y_pixel))
        if config.combined:
            moves.append((to_patches, at_column + self.window.words_inner))
            x_moves.append((to_patches, x_patch + self.window.step_inner))
            y_moves[-1] = (to_pixel | to_patches, y_pixel)
            y_moves.append((to_patch, y_patch + self.window.step_outer))
            move(at_column, begins_column, *moves)
            moves.append((to_patch, at_patch + self.window.words_outer))
            move(at_patch, begins_patch, *moves)
        move(x_patch, begins_column, *x_moves)
        move(y_patch, begins_patch, *y_moves)
        moves.append((to_column, at_inner_tap + g.tap_inner))
        move(at_inner_tap, start | go & column_last, *moves)
        moves.append((to_tap, at_outer_tap + g.tap_outer))
        move(at_outer_tap, start | go & word_last, *moves)
        if config.tails:
            at_tail = Signal(self.address_bits)
            at_tail_line = Signal(self.address_bits)
            tail_moves = [
                (start, self.window.tail_base),
                (to_line, at_tail_line + self.window.tail_outer),
                (to_pixel, at_tail + self.window.tail_inner),
            ]
            move(at_tail_line, begins_line, *tail_moves[:2])
            move(at_tail, begins_pixel, *tail_moves)
            # Of the positions none moves there: both become 0, which is inside.
            moves.append((to_tail, at_tail))
        move(address, start | go, *moves, (goes_on, address + 1))
        to_first: Value = to_patch  # tap along the inner dimension
        x_event = start | go & column_last
        if packer is not None:
            x_moves.append((goes_on & pack, x + 1))
            to_first = to_patch | to_tap & pack
            x_event = start | go & (column_last | pack)
        move(x, x_event, *x_moves, (to_first, x_patch), (to_column, x + g.dilation_inner))
        move(y, start | go & word_last, *y_moves, (to_column, y_patch), (to_tap, y + g.dilation_outer))
        inside = (x < g.limit_inner) & (y < g.limit_outer) if config.convolution else Const(1)
        m.d.comb += [self.read_enable.eq(later(go, "went")), self.read_address.eq(address)]

        # Where in the ring
        pointer = Signal(self.pointer_bits)
        begin = Signal(self.pointer_bits)  # of the patches that are being written
        patch_row_last = patch_row == config.rows - 1 if config.rows > 1 else Const(1)
        patch_end: Value = word_last & outer_tap_last & inner_tap_last
        if packer is not None:
            patch_end = Mux(pack, packer.patch_end(outer_tap_last), patch_end)
        with m.If(emits):
            m.d.sync += pointer.eq(pointer + 1)
            if config.rows > 1:
                with m.If(patch_end):
                    with m.If(patch_row_last):
                        m.d.sync += begin.eq(pointer + 1)
                    with m.Else():
                        m.d.sync += pointer.eq(begin)

        # A scratchpad's latency later than the address
        latency = Scratchpad.LATENCY
        wait = 1 + latency
        width = config.activation_word_bits
        pad: Value = g.pad.replicate(-(-width // 8))[:width]
        if max(planes_of) > 1:
            bit = delay(m, chosen([g.pad[index] for index in range(8)], plane), wait, "pad")
            pad = bit.replicate(width)
        data: Value = Mux(delay(m, inside, latency, "inside"), self.read_data, pad)
        if packer is not None:
            data = packer.packed(data, wait)
            wait += 1
        under_way = pulses(m, emits, wait, "go")
        written = under_way[wait]
        m.d.comb += [
            self.busy.eq(start | running | flush | Cat(under_way[1:]).any()),
            self.write_address.eq(delay(m, pointer, wait, "pointer")[:-1]),
            self.write_data.eq(data),
        ]
        if config.rows == 1:
            m.d.comb += self.write_enable.eq(written)
        else:
            place = delay(m, patch_row, wait, "row")
            m.d.comb += self.write_enable.eq(Cat(written & (place == index) for index in range(config.rows)))
        blocks = delay(m, emits & plane_last & patch_row_last, wait, "block", reset_less=False)
        with m.If(blocks):
            m.d.sync += self.filled.eq(self.filled + planes)
        return m


class _Packing:
    """Packs runs of elements that lie anywhere in words, run after run, into the words of a patch.

    ::

        word ──► rotate by (at - offset) ──► lanes from `at` on: the word's; below: kept ──► out, if full
                                                                 kept <- what is behind it

    A run begins at element `offset` of a word and lies across as many words as it takes; of each, so many
    elements as there are left go to the lanes from `at` on, and round. A word that has become full goes out,
    and so does the last of a patch, whatever is in its other lanes: their weights are 0. Where the last word
    of a run has filled one word and begun another, that goes out in a cycle of its own.

    Parameters
    ----------
    m, feeder, geometry, left, run_last
        The feeder's; `left` counts the elements of a run, `run_last` says that the word is its last.
    """

    def __init__(self, m: Module, feeder: Feeder, geometry: data.View, left: Signal, run_last: Signal):
        self.m = m
        self.feeder = feeder
        self.geometry = geometry
        self.lanes = lanes = next(iter(feeder.config.storages.values())).block
        self.bits = (lanes - 1).bit_length()
        self.left = left
        self.pack = Signal(name="packs")
        """Whether the instruction packs."""
        self.flush = Signal()
        self.flush_row = Signal(range(feeder.config.rows))
        self.offset = Signal(self.bits)
        self.first_offset = Signal(self.bits)  # of the runs of this pixel
        self.at = Signal(self.bits)
        self.run_last = run_last
        self.room = room = lanes - self.offset
        count = Mux(run_last, left[: self.bits + 1], room)
        total = self.at + count
        self.full = total[self.bits]
        self.next_at = total[: self.bits]
        next_offset = self.first_offset + geometry.taps_more[: self.bits]
        self.carry = next_offset[self.bits] & self.pack
        """The next pixel's runs begin a word later."""
        self.next_offset = next_offset[: self.bits]

    def _fits(self, offset: Value) -> Value:
        """A run that begins there lies in one word."""
        return self.geometry.words + offset[: self.bits] <= self.lanes

    def _pixel_last(self, tap_last: Value) -> Value:
        return self.run_last & tap_last

    def _remains(self, tap_last: Value) -> Value:
        """The patch has ended, and the word that it has filled is not its last."""
        return self.pack & self._pixel_last(tap_last) & self.full & (self.next_at != 0)

    def emits(self, tap_last: Value) -> Value:
        """Whether a word goes out with the one that comes in."""
        return ~self.pack | self.full | self._pixel_last(tap_last)

    def patch_end(self, tap_last: Value) -> Value:
        """Whether that is the last of a patch."""
        return self.flush | self._pixel_last(tap_last) & ~self._remains(tap_last)

    def begin(self) -> None:
        """What an instruction begins with."""
        first = self.geometry.dilation_inner
        self.m.d.sync += [
            self.pack.eq(self.feeder.pack),
            self.offset.eq(first),
            self.first_offset.eq(first),
        ]
        with self.m.If(self.feeder.pack):
            self.m.d.sync += self.run_last.eq(self._fits(first))

    def advance(self, tap_last: Value, line_last: Value, row: Value) -> None:
        """What changes with a word that comes in."""
        m = self.m
        with m.If(self.pack):
            m.d.sync += [
                self.left.eq(self.left - self.room),
                self.run_last.eq(self.left <= self.room + self.lanes),
                self.offset.eq(0),
                self.at.eq(self.next_at),
            ]
            with m.If(self.run_last):
                m.d.sync += [
                    self.left.eq(self.geometry.words),
                    self.run_last.eq(self._fits(self.first_offset)),
                    self.offset.eq(self.first_offset),
                ]
                with m.If(tap_last):
                    begin = Mux(line_last, self.geometry.dilation_inner[: self.bits], self.next_offset)
                    m.d.sync += [
                        self.run_last.eq(self._fits(begin)),
                        self.offset.eq(begin),
                        self.first_offset.eq(begin),
                        self.at.eq(0),
                        self.flush.eq(self._remains(tap_last)),
                        self.flush_row.eq(row),
                    ]

    def packed(self, word: Value, wait: int) -> Value:
        """The word that goes out, a cycle after the word that has come in `wait` cycles after its control."""
        m, lanes = self.m, self.lanes
        width = len(word) // lanes
        with m.If(self.flush & self.feeder.flushed):
            m.d.sync += self.flush.eq(0)
        turn = delay(m, Mux(self.pack, self.at - self.offset, 0)[: self.bits], wait, "turn")
        # Lanes from there on are the word's; all of them where nothing is packed, none where it is flushed.
        least = Signal(self.bits + 1)
        m.d.comb += least.eq(Mux(self.flush, lanes, Mux(self.pack, self.at, 0)))
        rotated = Signal(len(word), name="rotated", reset_less=True)
        turned: Value = word
        for bit in range(self.bits):
            shift = (width << bit) % len(word)
            turned = Mux(turn[bit], Cat(turned[-shift:], turned[:-shift]), turned)
        m.d.sync += rotated.eq(turned)
        late = delay(m, least, wait + 1, "least")
        kept = Signal(len(word), name="kept", reset_less=True)
        out = Cat(
            Mux(late <= lane, rotated.word_select(lane, width), kept.word_select(lane, width))
            for lane in range(lanes)
        )
        # What has gone round lies in the lanes below, which are next.
        came = delay(m, self.feeder.came, wait + 1, "came", reset_less=False)
        full = delay(m, self.full, wait + 1, "full")
        with m.If(came):
            m.d.sync += kept.eq(Mux(full, rotated, out))
        return out
