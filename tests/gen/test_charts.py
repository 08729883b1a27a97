"""Where the charts put bars, points and labels."""

import itertools
import math
import random

import pytest

from bitwright.gen.charts import (
    CAUSES,
    WIDTH,
    Box,
    bars,
    cycles_of,
    linear_ticks,
    log_ticks,
    place_labels,
    roofline,
    shortened,
)
from bitwright.hw.config import EngineConfig
from bitwright.hw.sched.registers import COUNTERS

BISMO = EngineConfig(pe="bismo", cols=8, lanes=64, precisions=("a8w8", "a4w4", "a3w5", "a2w2"))


def test_every_cause_that_the_engine_counts_has_a_colour() -> None:
    counted = {name.removeprefix("compute_") for name, _ in COUNTERS if name.startswith("compute_")}
    assert {cause.key for cause in CAUSES} == counted | {"other_cycles"}
    assert len({cause.colour for cause in CAUSES}) == len(CAUSES)


def test_linear_ticks() -> None:
    assert linear_ticks(18_654) == [0, 5000, 10_000, 15_000]
    assert linear_ticks(1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(200):
        top = 10 ** rng.uniform(0, 9)
        ticks = linear_ticks(top)
        assert 3 <= len(ticks) <= 9, (seed, top)
        assert ticks[-1] <= top * (1 + 1e-6), (seed, top)


def test_log_ticks() -> None:
    assert log_ticks(2.5, 250) == [5, 10, 20, 50, 100, 200]
    assert log_ticks(0.1, 20_000) == pytest.approx([0.1, 1, 10, 100, 1000, 10_000])


def test_shortened() -> None:
    assert shortened("conv", 4) == "conv"
    assert shortened("model/conv2d/Relu", 9) == "mode…Relu"
    assert len(shortened("x" * 100, 34)) == 34
    # A wide character takes the room of two.
    assert shortened("層" * 17, 34) == "層" * 17
    assert len(shortened("層" * 18, 34)) <= 17


@pytest.mark.parametrize("count", [1, 14, 40, 41, 60, 200])
def test_bars_are_to_scale_and_each_layer_has_one(make_report, count) -> None:
    report = make_report([f"layer {index}" for index in range(count)])
    charts = bars(report["layers"])
    drawn = [bar for chart in charts for bar in chart.bars]
    assert [(bar.number, bar.name) for bar in drawn] == [(n + 1, f"layer {n}") for n in range(count)]
    assert max(len(chart.bars) for chart in charts) <= 40
    scale = None
    for chart in charts:
        places = [chart.top, *(bar.y for bar in chart.bars), chart.bottom, chart.height]
        assert all(after - before >= 8 for before, after in itertools.pairwise(places))
        for bar in chart.bars:
            layer = report["layers"][bar.number - 1]
            # Widths are those of cycles, to one scale, and stand one behind the other.
            assert {each.cause.key: each.cycles for each in bar.segments} == {
                cause.key: cycles_of(layer, cause) for cause in CAUSES if cycles_of(layer, cause) >= 1
            }
            scale = scale or (bar.predicted - chart.left) / layer["predicted_cycles"]
            assert bar.predicted - chart.left == pytest.approx(scale * layer["predicted_cycles"], abs=0.02)
            for before, after in itertools.pairwise(bar.segments):
                assert after.x == pytest.approx(before.x + before.width, abs=scale + 0.03)
            for each in bar.segments:
                assert each.width == pytest.approx(scale * each.cycles, abs=0.02)
            assert max(bar.predicted, bar.segments[-1].x + bar.segments[-1].width) <= chart.right + 0.1
            assert bar.text_x + 6 * len(bar.text) < WIDTH


def test_points_are_where_the_figures_say(make_report) -> None:
    report = make_report(
        [f"layer {index}" for index in range(9)], config=BISMO, precisions=("a8w8", "a8w8 + a4w4")
    )
    roof = roofline(report)
    assert roof
    assert roof.series == ("a8w8", "a8w8 + a4w4")
    assert roof.without == ((5, "layer 4"),)
    assert [point.number for point in roof.points] == [1, 2, 3, 4, 6, 7, 8, 9]

    def position(ticks, value):
        """By the axis' own ticks."""
        first, last = ticks[0], ticks[-1]
        low, high = (float(tick.text.replace(",", "")) for tick in (first, last))
        return first.at + (last.at - first.at) * math.log(value / low) / math.log(high / low)

    for point in roof.points:
        layer = report["layers"][point.number - 1]
        assert point.x == pytest.approx(position(roof.x_ticks, layer["macs_per_byte"]), abs=0.1)
        assert point.y == pytest.approx(position(roof.y_ticks, layer["macs"] / layer["cycles"]), abs=0.1)
        assert roof.left < point.x < roof.right
        assert roof.top < point.y < roof.bottom
        assert roof.series[point.series] == layer["precision"]

    # Roofs: peaks of the configuration, which begin where the bus brings enough for them.
    bus = report["engine"]["bus_bytes"]
    peaks = sorted(BISMO.macs_per_cycle(precision) for precision in BISMO.formats)
    for each, peak in zip(roof.roofs, peaks, strict=True):
        assert each.y == pytest.approx(position(roof.y_ticks, peak), abs=0.1)
        assert each.x == pytest.approx(position(roof.x_ticks, peak / (2 * bus)), abs=0.1)
    assert roof.both_ways[2:] == (roof.roofs[-1].x, roof.roofs[-1].y)
    assert roof.one_way[2] == pytest.approx(position(roof.x_ticks, peaks[-1] / bus), abs=0.1)
    texts = " ".join(each.text for each in roof.roof_texts)
    assert all(f"{peak:.4g} at" in texts for peak in peaks)
    # None through another's line, as those of a4w4 and a3w5 would be.
    for each in roof.roof_texts:
        assert not any(each.y - 9 < line.y < each.y for line in roof.roofs)


def test_no_roofline_without_macs(make_report) -> None:
    report = make_report(["identity"])
    report["layers"][0] |= {"macs": 0, "macs_per_byte": 0.0}
    assert roofline(report) is None


def test_labels_cover_nothing() -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    within = Box(0, 0, 900, 480)
    places = [(rng.uniform(20, 880), rng.uniform(20, 460)) for _ in range(60)]
    taken = [Box(0, 100, 900, 103)]
    texts = [str(number) for number in range(1, 61)]
    labels = place_labels(places, texts, taken, within)
    boxes = [
        Box(label.x - 3.5 * len(text), label.y - 6, label.x + 3.5 * len(text), label.y + 6)
        for label, text in zip(labels, texts, strict=True)
    ]
    for index, box in enumerate(boxes):
        assert min(box.left, box.top) >= 0, seed
        assert box.right <= 900, seed
        assert box.bottom <= 480, seed
        for other in [*boxes[:index], *taken]:
            assert not box.overlap(other), (seed, index)
        for x, y in places:
            assert not box.overlap(Box(x - 4, y - 4, x + 4, y + 4)), (seed, index)


def test_labels_of_points_in_one_place_lie_apart_with_lines_to_them() -> None:
    labels = place_labels([(400.0, 200.0)] * 20, ["10"] * 20, [], Box(0, 0, 900, 480))
    assert len({(label.x, label.y) for label in labels}) == 20
    assert labels[0].line is None
    assert labels[-1].line is not None
