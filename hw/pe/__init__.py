"""Dot-product units, one file per architecture, behind one contract (:mod:`bitwright.hw.pe.contract`)."""

from .bismo import Bismo
from .bitblade import BitBlade
from .bitfusion import BitFusion
from .contract import DotProduct
from .log2 import Log2
from .loom import Loom
from .parallel import Parallel
from .stripes import Stripes
from .ternary import TernaryDot
from .unpu import Unpu
from .xnor import Xnor

__all__ = ["UNITS"]

UNITS: dict[str, type[DotProduct]] = {
    unit.name: unit
    for unit in (Parallel, BitFusion, BitBlade, Stripes, Unpu, Loom, Bismo, Xnor, TernaryDot, Log2)
}
"""Every architecture, by the name that configurations use."""
