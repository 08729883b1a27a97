"""The report as a page: complete, self-contained, and safe whatever names a file has."""

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from bitwright.gen.html_report import DARK, LIGHT, html_report
from bitwright.hw.config import EngineConfig

VOID = {"meta"}


class Page(HTMLParser):
    """Elements with their attributes and text; complains of what is not closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for index in self.open:
            self.elements[index][2].append(data)

    def texts(self, tag, **attributes):
        return [
            "".join(text)
            for name, has, text in self.elements
            if name == tag and all(has.get(key) == value for key, value in attributes.items())
        ]


def pictures(text: str) -> list[ElementTree.Element]:
    """The SVGs, each parsed on its own, as if taken out of the page."""
    parts = text.split("<svg ")[1:]
    return [ElementTree.fromstring("<svg " + part.split("</svg>")[0] + "</svg>") for part in parts]


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("count", [1, 14, 60])
def test_tables_and_charts_have_every_layer(make_report, count) -> None:
    names = [f"net/layer_{index}/conv" for index in range(count)]
    report = make_report(names)
    text = html_report(report)
    page = Page(text)
    assert page.texts("th", scope="row", **{"class": "name"}) == [*names, "all layers"] * 2
    *charts, roof = pictures(text)
    titles = [title.text for chart in charts for title in chart.iterfind(f"{SVG}g[@class='bar']/{SVG}title")]
    assert titles == [f"{index + 1} {name}" for index, name in enumerate(names)]
    points = [title.text.split(":")[0] for title in roof.iterfind(f"{SVG}g[@class='point']/{SVG}title")]
    with_macs = [(n + 1, layer) for n, layer in enumerate(report["layers"]) if layer["macs"]]
    assert points == [f"{number} {layer['name']}" for number, layer in with_macs]
    caption = page.texts("figcaption")[-1]
    for number, layer in enumerate(report["layers"], 1):
        assert (f"{number} {layer['name']}" in caption) == (not layer["macs"])


def test_cells_are_the_report_s_figures(make_report) -> None:
    report = make_report(["first", "second"])
    page = Page(html_report(report))
    cells = page.texts("td")
    for layer in report["layers"]:
        for key in ("macs", "predicted_cycles", "cycles", "beats", "words_loaded", "words_fetched"):
            assert f"{layer[key]:,.0f}" in cells
        for key in ("words_stored", "bytes_moved", "granules_written", "other_cycles"):
            assert f"{layer[key]:,.0f}" in cells
        assert f"{layer['prediction_error']:+.1%}" in cells
        assert f"{layer['utilisation']:.1%}" in cells
        for group in ("stalls", "load_stalls", "store_stalls"):
            for cycles in layer[group].values():
                assert f"{cycles:,.0f}" in cells
    for key in ("macs", "cycles", "bytes_moved"):
        assert f"{sum(layer[key] for layer in report['layers']):,.0f}" in cells


def test_names_are_text_whatever_they_are(make_report) -> None:
    nasty = [
        "<script>alert(1)</script>",
        '"><img src=x onerror=y>',
        "</title></svg>&amp;{{ 7*7 }}",
        "層",
    ]
    unprintable = "a\x07b\u202ec\ud800d\ufffe"
    report = make_report(
        [*nasty, unprintable], network="<script>net</script>", mismatches={"<script>t</script>": 3}
    )
    report["config"] = "<script>config</script>"
    report["accuracy_as_given"] = 0.5
    text = html_report(report)
    page = Page(text)
    assert not {name for name, _, _ in page.elements} & {"script", "img", "iframe", "link", "object"}
    assert page.texts("h1") == ["<script>net</script> on <script>config</script>"]
    for name in nasty:
        assert name in page.texts("th", scope="row")
    assert "a\ufffdb\ufffdc\ufffdd\ufffd" in page.texts("th", scope="row")
    assert "<script>t</script> (3)" in page.texts("p")[0]
    text.encode()
    assert len(pictures(text)) == 2  # and each is well-formed


def test_nothing_comes_from_elsewhere(make_report) -> None:
    text = html_report(make_report(["a", "b"]))
    page = Page(text)
    names = {name for _, attributes, _ in page.elements for name in attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "action", "style"}
    assert not [name for name in names if name.startswith("on")]
    style = page.texts("style")[0]
    assert "url(" not in style
    assert "@import" not in style
    # A name space is not fetched.
    assert "://" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    (policy,) = [
        attributes["content"]
        for _, attributes, _ in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")


def test_pictures_can_be_read_without_seeing_them_and_alone(make_report) -> None:
    text = html_report(make_report([f"layer {index}" for index in range(50)]))
    page = Page(text)
    identifiers = [has["id"] for _, has, _ in page.elements if "id" in has]
    assert len(set(identifiers)) == len(identifiers)
    assert len(pictures(text)) == 3
    for picture in pictures(text):
        assert picture.get("role") == "img"
        for name in picture.get("aria-labelledby").split():
            assert name in identifiers
        assert picture.find(f"{SVG}title").text
        assert picture.find(f"{SVG}desc").text
        # Taken out of the page it has its colours, and no variables of the page's style.
        for element in picture.iter():
            if element.tag in (f"{SVG}rect", f"{SVG}circle", f"{SVG}path"):
                assert element.get("fill") in {"none", *LIGHT.values()}
                assert element.get("stroke") in {None, *LIGHT.values()}
        texts = ["".join(each.itertext()) for each in picture.iter(f"{SVG}text")]
        assert "cycles of one inference" in texts or {
            "MACs per cycle",
            "MACs per byte moved on or off chip",
        } <= set(texts)


def test_light_dark_and_paper(make_report) -> None:
    assert LIGHT.keys() == DARK.keys()
    style = Page(html_report(make_report(["a"]))).texts("style")[0]
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style

    def luminance(colour):
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for colours in (LIGHT, DARK):
        for text in ("ink", "faint", "good", "bad"):
            assert contrast(colours[text], colours["paper"]) >= 4.5, text


def test_the_same_report_gives_the_same_page(make_report) -> None:
    assert html_report(make_report(["a", "b"])) == html_report(make_report(["a", "b"]))


def test_what_stands_above(make_report) -> None:
    report = make_report(
        ["a"], config=EngineConfig(pe="bismo", cols=2, lanes=64, precisions=("a8w8", "a2w2"))
    )
    report["memory"] = {"latency": 20, "stall": 0}

    def facts():
        page = Page(html_report(report))
        return dict(zip(page.texts("dt"), page.texts("dd"), strict=True))

    assert facts()["array"] == "1 × 2 units bismo of 64 lanes"
    assert facts()["peak, MACs per cycle"] == "2 at a8w8, 32 at a2w2"
    assert facts()["memory"] == "first word after 20 cycles"
    assert not {"accuracy on the RTL", "device", "Fmax"} & facts().keys()
    assert "All 2 tensors" in html_report(report)

    # A prediction for another memory than that of the simulation says so.
    report["memory"] = {"latency": 90, "stall": 64}
    assert facts()["memory"] == (
        "first word after 90 cycles, pausing in 25.0% of the cycles; "
        "predictions are for 20 cycles without pauses"
    )
    report |= {"accuracy": 0.75, "accuracy_as_given": 1.0, "mismatches": 4, "mismatching_tensors": {"t": 4}}
    assert facts()["accuracy on the RTL"] == "75.00% of 2"
    assert facts()["accuracy before requantisation"] == "100.00%"
    assert "4 elements differ" in html_report(report)
    report["precision_effective"] = {"a": "a2w2", "b": "a4w4"}
    assert facts()["requantised after training"] == "a at a2w2, b at a4w4"
    report["synthesis"] = {
        "target": "ecp5-25k",
        "fits": True,
        "available": {"lut": 24_288, "ff": 24_288, "dsp": 28, "bram": 56},
        **{"lut": 4500, "ff": None, "dsp": 4, "bram": 20, "spram": None},
        "fmax_mhz": [90.0, 100.0, 140.0],
        "frequency_mhz": 80.0,
        "timing_met": True,
    }
    report["throughput"] = {"gops": 1.5, "peak_gops": 2.0, "inferences_per_second": 1234.5}
    assert facts()["device"] == "ecp5-25k"
    assert facts()["LUT"] == "4,500 of 24,288"
    assert facts()["FF"] == "? of 24,288"
    assert facts()["Fmax"] == "100.0 MHz, median of 3; 80 MHz met"
    assert facts()["inferences per second"] == "1,234"
    report["synthesis"] |= {"fits": False, "fmax_mhz": []}
    report["throughput"] = dict.fromkeys(report["throughput"])
    assert facts()["device"] == "ecp5-25k: does NOT fit"
    assert not {"Fmax", "GOPS"} & facts().keys()
