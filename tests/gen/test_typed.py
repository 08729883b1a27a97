"""Dataclasses from a file: every field of its type, none converted."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from bitwright.gen.typed import typed


@dataclass
class Inner:
    x: int


@dataclass
class Outer:
    a: int
    b: tuple[int, ...]
    c: Literal["x", "y"]
    d: NDArray[Any] | None
    e: Inner
    f: float = 1.0


SOUND = {"a": 1, "b": (1, 2), "c": "x", "d": None, "e": Inner(1)}


def test_sound():
    assert typed(Outer, SOUND) == Outer(1, (1, 2), "x", None, Inner(1))
    array = np.arange(3)
    assert typed(Outer, SOUND | {"d": array, "f": 2}).d is array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "1"}, "a of Outer: Input should be a valid integer"),
        ({"a": True}, "a of Outer: Input should be a valid integer"),
        ({"a": 1.0}, "a of Outer: Input should be a valid integer"),
        ({"b": [1]}, "b of Outer: Input should be a valid tuple"),
        ({"b": (1, None)}, "b of Outer: Input should be a valid integer"),
        ({"c": "z"}, "c of Outer: Input should be 'x' or 'y'"),
        ({"d": [1]}, "d of Outer: Input should be an instance of ndarray"),
        ({"e": {"x": 1}}, "e of Outer: Input should be .* instance of Inner"),
        ({"g": 1}, "Outer has no 'g'"),
    ],
)
def test_refused(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        typed(Outer, SOUND | change)


def test_missing():
    with pytest.raises(TypeError, match="'a'"):
        typed(Outer, {key: value for key, value in SOUND.items() if key != "a"})
