"""Reads configurations: TOML files, the ones that ship with the project, and overrides of single keys."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bitwright.hw.config import EngineConfig
from bitwright.hw.errors import BitwrightError, ConfigError, printable

__all__ = ["label", "load", "schema", "shipped", "toml", "validated"]

_ADAPTER = TypeAdapter(EngineConfig)
_FOLDER = resources.files("bitwright.gen") / "configs"


def shipped() -> list[str]:
    """Names of the configurations that ship with the project."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml")
    )


def schema() -> dict[str, Any]:
    """JSON schema of a configuration."""
    return _ADAPTER.json_schema() | {
        "title": "Bitwright engine configuration",
        "description": "Parameters of one generated engine.",
    }


@cache
def _keys() -> dict[str, Any]:
    properties: dict[str, Any] = schema()["properties"]
    return properties


def toml(config: EngineConfig) -> str:
    """A configuration as a TOML file, every key with its description."""
    described = schema()["properties"]
    lines = []
    for key, value in asdict(config).items():
        text = described[key]["description"].split("\n")
        lines += [*(f"# {line.strip()}".rstrip() for line in text), f"{key} = {json.dumps(value)}", ""]
    return "\n".join(lines)


def label(source: str | Path) -> str:
    """What reports call a configuration: the name of a shipped one, or of the file, without its folder."""
    return Path(source).name


def load(source: str | Path, overrides: Sequence[str] = ()) -> EngineConfig:
    """Read and validate a configuration.

    Parameters
    ----------
    source
        Path of a TOML file, or the name of a shipped configuration.
    overrides
        ``key=value`` each, applied in order; the value is written as in TOML, quotes may be left out.

    Raises
    ------
    BitwrightError
        The file cannot be read or is not TOML.
    ConfigError
        A key is unknown or missing, or its value is not allowed.
    """
    name = str(source)
    values = _read(name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise BitwrightError(f"--set {override}: must be key=value")
        values[key.strip()] = _value(text.strip())
    return validated(name, values)


def validated(name: str, values: dict[str, Any]) -> EngineConfig:
    """A configuration of values by key.

    Parameters
    ----------
    name
        Where they are from, for messages.
    values
        As TOML or JSON has them.

    Raises
    ------
    ConfigError
        A key is unknown or missing, or its value is not allowed.
    """
    try:
        # Strict validation takes a dataclass from JSON only. TOML has dates, JSON has not.
        return _ADAPTER.validate_json(json.dumps(values, default=str))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.key}", error.value, error.allowed) from None
    except ValidationError as error:
        raise _explain(name, error, values) from None


def _read(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.exists() and name in shipped():
        text = (_FOLDER / f"{name}.toml").read_text()
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BitwrightError(
                f"{name}: there is no such file, and no shipped configuration of that name "
                f"(there are {', '.join(shipped())})"
            ) from None
        except (OSError, ValueError) as error:
            raise BitwrightError(f"{name}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits and thousands of brackets are valid TOML, but not for tomllib.
        raise BitwrightError(f"{name}: is not valid TOML: {printable(str(error))}") from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explain(name: str, error: ValidationError, values: dict[str, Any]) -> BitwrightError:
    """The first problem that pydantic found, in our words; an unknown key before a missing one."""
    errors = error.errors(include_url=False)
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = next((found for found in errors if found["type"] in unknown), errors[0])
    # What follows the key is the place of an element in it.
    key = ".".join(map(str, first["loc"][:1]))
    known = _keys()
    match first["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            close = get_close_matches(key, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            allowed = f"left out{hint}; the keys are {', '.join(known)}"
            return ConfigError(f"{name}: {key}", values.get(key), allowed)
        case "missing" | "missing_argument":
            missing = [str(found["loc"][-1]) for found in errors if found["type"] == first["type"]]
            return BitwrightError(f"{name}: {' and '.join(missing)} must be given")
    properties = known.get(key, {})
    value = values.get(key) if len(first["loc"]) > 1 else first["input"]
    return ConfigError(f"{name}: {key}", value, _allowed(properties, value) or first["msg"])


def _allowed(properties: dict[str, Any], value: Any) -> str | None:
    """What a key's value must be, by its part of the schema; None where that does not say it."""
    if properties.get("type") == "array":
        return _allowed_list(properties, value)
    if choices := properties.get("enum") or ([properties["const"]] if "const" in properties else []):
        return "one of " + ", ".join(map(json.dumps, choices))
    return {"integer": "a whole number", "string": "a text", "boolean": "true or false"}.get(
        str(properties.get("type"))
    )


def _allowed_list(properties: dict[str, Any], value: Any) -> str:
    choices = properties.get("items", {}).get("enum", [])
    if isinstance(value, list):
        if choices:
            return "some of " + ", ".join(map(str, choices))
        return f"a list of texts, such as {json.dumps(properties.get('default'))}"
    # On a command line quotes and brackets get lost: show what was meant, if that can be seen.
    words = value.strip("[] ").replace(",", " ").split() if isinstance(value, str) else []
    meant = [word.strip("\"'") for word in words]
    if not meant or (choices and set(meant) - set(choices)):
        meant = properties.get("default", [])
    return f"a list, such as {json.dumps(meant)}" + (f", of {', '.join(choices)}" if choices else "")
