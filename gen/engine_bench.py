"""LUTs of engines beside those of their units, measured and fitted: what :mod:`.suggest` estimates from.

::

    engines.json: engines ─► fitted() ─► emit() ─► synthesised() ─► LUTs, blocks
                                                                        │ less the units' price
    engines.json: overheads ◄──────────── fit() ◄───────────────────────┘

A row of ``engines`` says what is built: device, network, unit, keys that are set, bit products. ``lut``,
``dsp`` and ``bram`` are what it took, ``current`` whether the hardware of today took it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError
from bitwright.sim.graph import Graph

from .compare import base_config, fitted
from .importers import load
from .pe_bench import synthesised
from .suggest import Overhead, features, units_lut
from .synthesis import TARGETS
from .synthetic import random_residual
from .verilog import emit

__all__ = ["FILE", "fit", "measure", "read", "row_config", "write"]

FILE = Path(__file__).with_name("engines.json")
"""What ships with the package."""

_EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "digits_mlp"
_HOLD = 0.02
"""How much an old constant counts, in the square of a relative error that it makes alone."""

Row = dict[str, Any]


@cache
def _network(name: str) -> Graph:
    if name == "residual":
        return random_residual((16, 16, 3), channels=16)
    return load(_EXAMPLES / f"{name}.onnx")


def row_config(row: Row) -> EngineConfig:
    """The engine of a row, as ``bitwright compare`` makes it."""
    base, explicit = base_config(None, row["set"], None)
    return fitted(
        _network(row["network"]),
        row["unit"],
        base,
        target=TARGETS[row["target"]],
        explicit=explicit,
        bit_products=row["bit_products"],
    )


def read(path: Path = FILE) -> tuple[dict[str, Overhead], list[Row]]:
    """Constants by family, and the engines that they were fitted to."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return {family: Overhead(**each) for family, each in values["overheads"].items()}, values["engines"]


def write(overheads: Mapping[str, Overhead], rows: Sequence[Row], path: Path = FILE) -> None:
    """The same to a file, a row a line."""
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    kept = ",\n".join(f'    "{family}": {json.dumps(asdict(each))}' for family, each in overheads.items())
    path.write_text(
        f'{{\n  "overheads": {{\n{kept}\n  }},\n  "engines": [\n{lines}\n  ]\n}}\n', encoding="utf-8"
    )


def measure(row: Row, progress: Callable[[str], None] | None = None) -> Row:
    """A row with what its engine takes today, by Yosys and nextpnr; kept in the cache folder by content.

    Raises
    ------
    BitwrightError
        A tool is missing or failed.
    """
    say = progress or (lambda text: None)
    name = f"{row['unit']}, {row['network']}, {row['target']}"
    say(f"{name}: elaborating")
    verilog = emit(row_config(row))
    say(f"{name}: synthesising")
    found = synthesised(verilog, row["target"], 1)
    clocks = found["fmax_mhz"]
    return row | {
        **{key: found[key] for key in ("lut", "dsp", "bram")},
        "fmax_mhz": round(clocks[0], 1) if clocks else None,
        "current": True,
    }


def fit(rows: Sequence[Row], overheads: Mapping[str, Overhead]) -> dict[str, Overhead]:
    """Constants with the least squares of relative errors over the current rows, none below zero.

    A constant that the rows say little about stays near what it was.

    Raises
    ------
    BitwrightError
        A row's unit has no price.
    """
    found = dict(overheads)
    for family, old in overheads.items():
        own = [row for row in rows if row["current"] and TARGETS[row["target"]].family == family]
        if not own:
            continue
        names = list(old.lut)
        before = np.array([old.lut[name] for name in names])
        sizes, rest = [], []
        for row in own:
            config = row_config(row)
            units = units_lut(config, TARGETS[row["target"]])
            if units is None:
                raise BitwrightError(f"{row['unit']}: no unit like it was measured for {row['target']}")
            grown = features(config)
            sizes.append(np.array([grown[name] for name in names]) / row["lut"])
            rest.append((row["lut"] - units) / row["lut"])
        matrix, wanted = np.array(sizes), np.array(rest)
        hold = np.sqrt(_HOLD) * np.diag(np.abs(matrix).mean(axis=0).clip(1e-6))
        free = np.ones(len(names), dtype=bool)
        while True:
            system = np.concatenate([matrix[:, free], hold[:, free]])
            solved = np.linalg.lstsq(system, np.concatenate([wanted, hold @ before]), rcond=None)[0]
            if (solved >= 0).all():
                break
            free[np.flatnonzero(free)[solved < 0]] = False
        values = np.zeros(len(names))
        values[free] = solved
        clocks = dict(old.clock_mhz)
        found[family] = replace(
            old,
            lut={name: float(f"{value:.3g}") for name, value in zip(names, values, strict=True)},
            clock_mhz=clocks,
        )
    return found
