"""The report as a page: facts, tables and charts in one file that needs no network and no script."""

import re
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from bitwright.sim.rtl import MemoryTiming

from .charts import CAUSES, WIDTH, bars, cycles_of, roofline, shortened

__all__ = ["html_report"]

# Colours that people with any kind of colour vision can tell apart: M. Okabe, K. Ito, Color Universal Design.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1a1a1a",
    "faint": "#5c5c5c",
    "line": "#dcdcdc",
    "good": "#00654a",
    "bad": "#a33600",
    "beats": "#0072b2",
    "words": "#cc79a7",
    "load": "#e69f00",
    "drain": "#d55e00",
    "store": "#009e73",
    "fetch": "#56b4e9",
    "other": "#a8a8a8",
}
"""Colours by what they are for."""
DARK = {
    "paper": "#16181b",
    "ink": "#ececec",
    "faint": "#a9adb2",
    "line": "#3a3f45",
    "good": "#3fd0a4",
    "bad": "#ff9a5c",
    "beats": "#3d94d6",
    "words": "#dd94bb",
    "load": "#f0b429",
    "drain": "#ee7733",
    "store": "#1fb58c",
    "fetch": "#b5dcf5",
    "other": "#7b8087",
}
"""The same on dark paper, lighter."""
SERIES = ("beats", "drain", "store", "words", "load", "fetch")
"""Of the roofline's precisions."""

_UNITS = (("load_stalls", "load unit waits:"), ("store_stalls", "store unit waits:"))


def html_report(report: dict[str, Any]) -> str:
    """A page that shows a report: what was run, each layer's cycles and words, bars and a roofline.

    Names of networks, layers and tensors come from files, and are escaped. The same report gives the same
    page.

    Parameters
    ----------
    report
        Contents of ``report.json``, with or without a synthesis.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_printable
    )
    environment.filters |= {
        "cycles_of": cycles_of,
        "figure": _figure,
        "percent": lambda share: f"{share:.1%}",
        "shortened": shortened,
        "signed": lambda share: f"{share:+.1%}",
    }
    text = (files(__package__) / "report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        report=report,
        facts=_facts(report),
        causes=CAUSES,
        units=_UNITS,
        width=WIDTH,
        light=LIGHT,
        dark=DARK,
        series_colours=SERIES,
        total=_total(report["layers"]),
        charts=bars(report["layers"]),
        roof=roofline(report),
    )


_NO_CHARACTER = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
"""What XML or UTF-8 does not take, and what turns the direction of the text that follows."""


def _printable(value: Any) -> Any:
    if isinstance(value, str) and _NO_CHARACTER.search(value):
        return type(value)(_NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", value))
    return value


def _total(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """All layers as if they were one."""
    keys = ["macs", "predicted_cycles", "cycles", "beats", "other_cycles"]
    keys += ["words_loaded", "words_fetched", "words_stored", "bytes_moved", "granules_written"]
    total = {key: sum(layer[key] for layer in layers) for key in keys}
    least = sum(layer["macs"] / layer["peak_macs_per_cycle"] for layer in layers)
    return total | {
        "prediction_error": total["predicted_cycles"] / total["cycles"] - 1,
        "busy": total["beats"] / total["cycles"],
        "utilisation": least / total["cycles"],
        "macs_per_byte": total["macs"] / total["bytes_moved"] if total["bytes_moved"] else None,
        **{
            group: {cause: sum(layer[group][cause] for layer in layers) for cause in layers[0][group]}
            for group in ("stalls", "load_stalls", "store_stalls")
        },
    }


def _figure(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands above the charts."""
    engine = report["engine"]
    peaks = ", ".join(f"{peak:.4g} at {precision}" for precision, peak in engine["macs_per_cycle"].items())
    facts = [
        ("network", report["network"]),
        ("configuration", report["config"]),
        ("array", f"{engine['rows']} × {engine['cols']} units {engine['unit']} of {engine['lanes']} lanes"),
        ("peak, MACs per cycle", peaks),
        ("memory port", f"{8 * engine['bus_bytes']} bits"),
    ]
    if memory := report.get("memory"):
        text = f"first word after {memory['latency']} cycles"
        if memory["stall"]:
            text += f", pausing in {memory['stall'] / 256:.1%} of the cycles"
        if (memory["latency"], memory["stall"]) != (MemoryTiming.latency, 0):
            text += f"; predictions are for {MemoryTiming.latency} cycles without pauses"
        facts.append(("memory", text))
    facts += [
        ("inferences", f"{report['inferences']:,}"),
        ("MACs of an inference", f"{report['macs'] / report['inferences']:,.0f}"),
        (
            "cycles of an inference",
            f"{report['cycles_per_inference']:,.0f} counted, "
            f"{report['predicted_cycles_per_inference']:,} predicted ({report['prediction_error']:+.1%})",
        ),
        ("array busy", f"{report['busy']:.1%} of the cycles"),
        ("MAC utilisation", f"{report['utilisation']:.1%} of the layers' peaks"),
    ]
    if report["accuracy"] is not None:
        facts.append(("accuracy on the RTL", f"{report['accuracy']:.2%} of {report['inferences']:,}"))
    if report.get("accuracy_as_given") is not None:
        facts.append(("accuracy before requantisation", f"{report['accuracy_as_given']:.2%}"))
    if effective := report.get("precision_effective"):
        text = ", ".join(f"{name} at {precision}" for name, precision in effective.items())
        facts.append(("requantised after training", text))
    if synthesis := report.get("synthesis"):
        facts += _synthesis_facts(synthesis, report["throughput"])
    return facts


def _synthesis_facts(synthesis: dict[str, Any], speed: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("device", synthesis["target"] + ("" if synthesis["fits"] else ": does NOT fit"))]
    for key in ("lut", "ff", "dsp", "bram", "spram"):
        if available := synthesis["available"].get(key):
            used = synthesis[key]
            facts.append((key.upper(), f"{'?' if used is None else f'{used:,}'} of {available:,}"))
    if clocks := synthesis["fmax_mhz"]:
        met = "met" if synthesis["timing_met"] else "NOT met"
        aim = f"{synthesis['frequency_mhz']:g} MHz {met}"
        facts.append(("Fmax", f"{np.median(clocks):.1f} MHz, median of {len(clocks)}; {aim}"))
    if speed["gops"] is not None:
        facts += [
            ("inferences per second", f"{speed['inferences_per_second']:,.0f}"),
            ("GOPS", f"{speed['gops']:.2f} (peak {speed['peak_gops']:.2f})"),
        ]
    return facts
