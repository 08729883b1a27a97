"""Geometry of the report's charts: where bars, points, ticks and labels go. The template draws them.

Units are those of an SVG's view box, `WIDTH` wide; the origin is at the top left. Everything follows from the
report alone, so the same report gives the same picture.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import east_asian_width

__all__ = [
    "CAUSES",
    "WIDTH",
    "Bar",
    "Bars",
    "Box",
    "Cause",
    "Label",
    "Point",
    "Roof",
    "RoofText",
    "Roofline",
    "Segment",
    "Tick",
    "bars",
    "cycles_of",
    "linear_ticks",
    "log_ticks",
    "place_labels",
    "roofline",
    "shortened",
]

WIDTH = 960
"""Of every chart."""


@dataclass(frozen=True)
class Cause:
    """What a cycle of a layer went to.

    Parameters
    ----------
    key
        Under ``stalls`` of a layer, or ``beats`` or ``other_cycles``.
    label, meaning
        For the legend, and in full.
    """

    key: str
    label: str
    meaning: str

    @property
    def colour(self) -> str:
        """Name of its colour."""
        return self.key.removeprefix("wait_").removesuffix("_cycles")


CAUSES = (
    Cause("beats", "array busy", "cycles in which the array took operands"),
    Cause("wait_words", "waits: feeder", "it waited for activations that the feeder had not brought yet"),
    Cause("wait_load", "waits: load", "it waited for operands to be loaded"),
    Cause("wait_drain", "waits: drain", "it waited for earlier results to leave"),
    Cause("wait_store", "waits: store", "it waited for results to be stored, which makes room"),
    Cause("wait_fetch", "no instruction", "there was none yet, or none any more"),
    Cause("other_cycles", "other", "between instructions, and while the first operands come to the array"),
)
"""In the order of the bars' segments. Every cycle is one of these."""


def cycles_of(layer: dict[str, Any], cause: Cause) -> float:
    """Cycles of a layer, as of ``report.json``, that went to a cause."""
    return float(layer["stalls"][cause.key] if cause.key in layer["stalls"] else layer[cause.key])


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and its text."""

    at: float
    text: str


def linear_ticks(top: float, count: int = 8) -> list[float]:
    """Zero and multiples of 1, 2 or 5 times a power of ten up to ``top``, at most ``count`` above zero."""
    step = 10.0 ** math.floor(math.log10(top / count))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * count >= top)
    return [index * step for index in range(math.floor(top / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range; twice and five times them too where it is less than three decades."""
    factors = (1, 2, 5) if high < 1000 * low else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def shortened(text: str, width: int) -> str:
    """A text of at most ``width`` characters, without its middle if need be; wide characters count twice."""

    def taken(part: str) -> int:
        return sum(2 if east_asian_width(each) in "WF" else 1 for each in part)

    if taken(text) <= width:
        return text
    head, tail = "", ""
    for first, last in zip(text, reversed(text), strict=True):
        if taken(head + tail + first) >= width:
            break
        head += first
        if taken(head + tail + last) >= width:
            break
        tail = last + tail
    return f"{head}…{tail}"


# Bars


@dataclass(frozen=True)
class Segment:
    """Part of a bar: what it went to, where it is, how many cycles it stands for."""

    cause: Cause
    x: float
    width: float
    cycles: float


@dataclass(frozen=True)
class Bar:
    """A layer's cycles.

    Parameters
    ----------
    number, name, short
        The layer's, the last one as it stands beside the bar.
    y
        Middle of the bar.
    segments
        Those of at least a cycle.
    predicted, text, text_x
        Where the mark is, what stands behind the bar, and where.
    """

    number: int
    name: str
    short: str
    y: float
    segments: tuple[Segment, ...]
    predicted: float
    text: str
    text_x: float


@dataclass(frozen=True)
class Bars:
    """A chart of some of the layers, all charts of a report to one scale."""

    height: float
    top: float
    bottom: float
    left: float
    right: float
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]


_BAR_LEFT, _BAR_TOP, _BAR_PITCH = 262.0, 62.0, 18.0
_PANEL = 40
"""Bars of a chart, so that one is a page at most."""


def bars(layers: Sequence[dict[str, Any]]) -> list[Bars]:
    """Charts of the layers' cycles, 40 layers each.

    Parameters
    ----------
    layers
        As of ``report.json``.
    """
    most = max(max(layer["cycles"], layer["predicted_cycles"]) for layer in layers)
    right = WIDTH - 16 - 6.7 * max(len(_behind(layer)) for layer in layers)
    scale = (right - _BAR_LEFT) / most
    ticks = tuple(Tick(round(_BAR_LEFT + tick * scale, 2), _number(tick)) for tick in linear_ticks(most))
    # As many in each chart as can be, rather than few in the last.
    panels = -(-len(layers) // _PANEL)
    size = -(-len(layers) // panels)
    charts = []
    for begin in range(0, len(layers), size):
        part = layers[begin : begin + size]
        drawn = tuple(
            _bar(begin + index + 1, layer, _BAR_TOP + _BAR_PITCH * (index + 0.5), scale)
            for index, layer in enumerate(part)
        )
        bottom = _BAR_TOP + _BAR_PITCH * len(part)
        charts.append(Bars(bottom + 44, _BAR_TOP, bottom, _BAR_LEFT, round(right, 2), ticks, drawn))
    return charts


def _behind(layer: dict[str, Any]) -> str:
    """What stands behind a layer's bar."""
    return f"{layer['cycles']:,.0f} ({layer['prediction_error']:+.1%})"


def _bar(number: int, layer: dict[str, Any], y: float, scale: float) -> Bar:
    segments = []
    x = _BAR_LEFT
    for cause in CAUSES:
        cycles = cycles_of(layer, cause)
        if cycles >= 1:
            segments.append(Segment(cause, round(x, 2), round(cycles * scale, 2), cycles))
        x += cycles * scale
    predicted = _BAR_LEFT + layer["predicted_cycles"] * scale
    return Bar(
        number=number,
        name=layer["name"],
        short=shortened(layer["name"], 34),
        y=y,
        segments=tuple(segments),
        predicted=round(predicted, 2),
        text=_behind(layer),
        text_x=round(max(x, predicted) + 7, 2),
    )


# Roofline


@dataclass(frozen=True)
class Box:
    """A rectangle that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Label:
    """A text's middle, and the end of a line to its point where it lies apart from it."""

    x: float
    y: float
    line: tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """A layer: its place, its precision's place in the legend, and its label."""

    number: int
    name: str
    x: float
    y: float
    macs_per_byte: float
    macs_per_cycle: float
    series: int
    label: Label


@dataclass(frozen=True)
class Roof:
    """The peak of one or several precisions: a line from there to the right edge."""

    x: float
    y: float


@dataclass(frozen=True)
class RoofText:
    """What stands above one or several roofs, and its base line."""

    y: float
    text: str


@dataclass(frozen=True)
class Roofline:
    """MACs per cycle against MACs per byte, both logarithmic.

    Parameters
    ----------
    height, left, top, right, bottom
        Of the view box, and the plot's edges.
    x_ticks, y_ticks
        Of the axes.
    roofs, roof_texts
        Peaks of the engine's precisions.
    one_way, both_ways
        Lines of the bus, as x1, y1, x2, y2: where it only reads or only writes; where it does both in
        every cycle.
    bus_bytes
        Per cycle, each way.
    series
        Precisions of layers, for the legend.
    points
        Layers that have MACs.
    without
        Number and name of the layers that have none.
    """

    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    roofs: tuple[Roof, ...]
    roof_texts: tuple[RoofText, ...]
    one_way: tuple[float, float, float, float]
    both_ways: tuple[float, float, float, float]
    bus_bytes: int
    series: tuple[str, ...]
    points: tuple[Point, ...]
    without: tuple[tuple[int, str], ...]


_LEFT, _RIGHT, _BOTTOM = 76.0, WIDTH - 16.0, 500.0
_LINE = 15.0
"""From one line of text to the next."""
_ENTRIES = 4
"""Of a line of the legend."""


def roofline(report: dict[str, Any]) -> Roofline | None:
    """The roofline of a report, or None if no layer has MACs.

    Parameters
    ----------
    report
        As of ``report.json``.
    """
    layers = list(enumerate(report["layers"], 1))
    found = [
        (number, layer, layer["macs_per_byte"], layer["macs"] / layer["cycles"])
        for number, layer in layers
        if layer["macs"] and layer["macs_per_byte"]
    ]
    if not found:
        return None
    bus = report["engine"]["bus_bytes"]
    peaks: dict[float, list[str]] = {}
    for precision, peak in report["engine"]["macs_per_cycle"].items():
        peaks.setdefault(peak, []).append(precision)
    series = tuple(dict.fromkeys(layer["precision"] for _, layer, _, _ in found))

    # Both ends of each roof are in the picture.
    xs = [each[2] for each in found]
    x_low = min(*xs, min(peaks) / (2 * bus)) / 2
    x_high = max(*xs, max(peaks) / bus) * 2
    y_low = min(min(each[3] for each in found), min(peaks)) / 2
    y_high = max(max(each[3] for each in found), max(peaks)) * 1.6
    top = 14 + _LINE * (1 + -(-len(series) // _ENTRIES))

    def across(value: float) -> float:
        share = math.log(value / x_low) / math.log(x_high / x_low)
        return round(_LEFT + share * (_RIGHT - _LEFT), 2)

    def up(value: float) -> float:
        share = math.log(value / y_low) / math.log(y_high / y_low)
        return round(_BOTTOM - share * (_BOTTOM - top), 2)

    def slope(per_cycle: float) -> tuple[float, float, float, float]:
        low = max(x_low, y_low / per_cycle)
        high = max(peaks) / per_cycle
        return across(low), up(low * per_cycle), across(high), up(high * per_cycle)

    roofs = [Roof(across(peak / (2 * bus)), up(peak)) for peak in sorted(peaks)]
    roof_texts: list[RoofText] = []
    under = math.inf
    for roof, (peak, names) in zip(roofs, sorted(peaks.items()), strict=True):
        text = f"{peak:.4g} at {', '.join(names)}"
        if under - roof.y < _LINE + 2:  # no room between the two: one text above both
            text = f"{text}; {roof_texts.pop().text}"
        roof_texts.append(RoofText(roof.y - 5, text))
        under = roof.y
    roof_texts = [RoofText(each.y, shortened(f"peak {each.text}", 100)) for each in roof_texts]
    one_way, both_ways = slope(bus), slope(2 * bus)
    taken = [Box(roof.x, roof.y - 1, _RIGHT, roof.y + 1) for roof in roofs]
    taken += [box for line in (one_way, both_ways) for box in _along(*line)]
    taken += [Box(_RIGHT - 7 * len(each.text), each.y - 11, _RIGHT, each.y + 3) for each in roof_texts]
    places = [(across(x), up(y)) for _, _, x, y in found]
    labels = place_labels(
        places, [str(each[0]) for each in found], taken, Box(_LEFT, top - _LINE, _RIGHT, _BOTTOM)
    )
    points = tuple(
        Point(
            number=number,
            name=layer["name"],
            x=place[0],
            y=place[1],
            macs_per_byte=x,
            macs_per_cycle=y,
            series=series.index(layer["precision"]),
            label=label,
        )
        for (number, layer, x, y), place, label in zip(found, places, labels, strict=True)
    )
    drawn = {point.number for point in points}
    return Roofline(
        height=_BOTTOM + 44,
        left=_LEFT,
        top=top,
        right=_RIGHT,
        bottom=_BOTTOM,
        x_ticks=tuple(Tick(across(tick), _number(tick)) for tick in log_ticks(x_low, x_high)),
        y_ticks=tuple(Tick(up(tick), _number(tick)) for tick in log_ticks(y_low, y_high)),
        roofs=tuple(roofs),
        roof_texts=tuple(roof_texts),
        one_way=one_way,
        both_ways=both_ways,
        bus_bytes=bus,
        series=series,
        points=points,
        without=tuple((number, layer["name"]) for number, layer in layers if number not in drawn),
    )


def _along(x1: float, y1: float, x2: float, y2: float) -> list[Box]:
    """Small boxes on a line."""
    count = math.ceil(max(abs(x2 - x1), abs(y2 - y1)) / 4) + 1
    points = [(x1 + (x2 - x1) * part / count, y1 + (y2 - y1) * part / count) for part in range(count + 1)]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in points]


_MARK = 5.0
"""Half the size of a point's mark."""
_DISTANCES = (0.0, 8.0, 18.0, 30.0, 44.0, 60.0, 80.0)
_DIRECTIONS = 16


def place_labels(
    places: Sequence[tuple[float, float]], texts: Sequence[str], taken: Iterable[Box], within: Box
) -> list[Label]:
    """Put a label beside each point, where it covers no other, no mark and nothing that is taken.

    Each is tried right beside its point, all around, then farther away; where there is no free place it takes
    the one that covers least. A line leads to a label that is not right beside its point.

    Parameters
    ----------
    places, texts
        Of the points.
    taken
        What must not be covered.
    within
        What labels must stay in.
    """
    obstacles = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in places]
    obstacles += taken
    labels = []
    for (x, y), text in zip(places, texts, strict=True):
        half_width, half_height = 3.5 * len(text) + 1, 6.5
        best: tuple[float, Label, Box] | None = None
        for distance in _DISTANCES:
            for step in range(_DIRECTIONS):
                angle = 2 * math.pi * step / _DIRECTIONS - math.pi / 2
                # So far that the text's box touches the mark, and the distance more.
                right, down = math.cos(angle), math.sin(angle)
                middle_x = x + right * (_MARK + half_width + distance)
                middle_y = y + down * (_MARK + half_height + distance)
                box = Box(
                    middle_x - half_width,
                    middle_y - half_height,
                    middle_x + half_width,
                    middle_y + half_height,
                )
                if (
                    box.left < within.left
                    or box.right > within.right
                    or box.top < within.top
                    or box.bottom > within.bottom
                ):
                    continue
                covered = sum(box.overlap(other) for other in obstacles)
                if best is None or covered < best[0]:
                    line = None
                    if distance:
                        line = (
                            round(middle_x - right * half_width, 2),
                            round(middle_y - down * half_height, 2),
                        )
                    best = (covered, Label(round(middle_x, 2), round(middle_y, 2), line), box)
                if not covered:
                    break
            if best and not best[0]:
                break
        if best is None:  # a point at the very edge
            labels.append(Label(x, y, None))
            continue
        labels.append(best[1])
        obstacles.append(best[2])
    return labels
