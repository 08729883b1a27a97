"""Makes dataclasses of values from a file, which may be anything."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import GenericAlias
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

__all__ = ["typed"]

T = TypeVar("T")


@cache
def _adapters(kind: Any) -> dict[str, TypeAdapter[Any]]:
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    hints = get_type_hints(kind)
    # In a tuple each, as pydantic takes no configuration beside a type that could have its own.
    alone: Any = GenericAlias
    return {
        field.name: TypeAdapter(alone(tuple, (hints[field.name],)), config=config) for field in fields(kind)
    }


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass whose fields have the types that they are annotated with, nothing being converted.

    Parameters
    ----------
    kind
        The dataclass.
    values
        Its fields by name.

    Raises
    ------
    TypeError
        A field is missing, or there is one too many.
    ValueError
        A value is of another type.
    """
    own: Any = kind
    adapters = _adapters(own)
    for name, value in values.items():
        if name not in adapters:
            raise TypeError(f"{kind.__name__} has no {name!r}")
        try:
            adapters[name].validate_python((value,))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{name} of {kind.__name__}: {first['msg']}") from None
    return kind(**values)
