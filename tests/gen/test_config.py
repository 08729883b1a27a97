"""Configuration files, shipped ones and overrides."""

import json
from dataclasses import asdict

import pytest

from bitwright.gen import config
from bitwright.hw.errors import BitwrightError, ConfigError


def test_every_shipped_configuration_is_valid() -> None:
    assert config.shipped() == ["base", "icebreaker", "small", "tiny"]
    for name in config.shipped():
        assert config.load(name).peak_macs_per_cycle >= 4


def test_a_file_gives_what_it_says(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.toml"
    values = asdict(config.load("tiny")).items()
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values))
    assert config.load(path) == config.load("tiny")
    assert config.load(path, ['precisions=["a8w8", "a4w2"]']).precisions == ("a8w8", "a4w2")
    assert config.load(path, ["lanes=8", "multiplier = lut", 'pe = "parallel"']) == config.load(
        "tiny"
    ).replace(lanes=8, multiplier="lut")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("colums=4", "colums = 4: must be left out (did you mean cols?); the keys are pe, target"),
        ("cols=0", "cols = 0: must be from 1 to 128"),
        ('precisions=["a8w0"]', "precisions = ['a8w0']: must be a list of precisions"),
        ("cols=many", "cols = 'many': must be a whole number"),
        ("cols=1.5", "cols = 1.5: must be a whole number"),
        ("cols=true", "cols = True: must be a whole number"),
        ("cols=1979-05-27", "cols = '1979-05-27': must be a whole number"),
        ("pe=systolic", "pe = 'systolic': must be one of \"parallel\""),
        ("bus_bits=48", "bus_bits = 48: must be one of 32, 64, 128"),
        ("requantisers=3", "requantisers = 3: must be a power of two that divides cols = 16"),
        ("lanes=3", "lanes = 3: must be such that"),
        ("weight_depth=1000", "weight_depth = 1000: must be a power of two"),
        ("burst_beats=3", "burst_beats = 3: must be one of 4, 8"),
        ('quantisers=["treshold"]', "quantisers = ['treshold']: must be some of requantise, thresholds, acc"),
        ("quantisers=[1]", "quantisers = [1]: must be some of requantise, thresholds, accumulators"),
        ('quantisers=["requantise", 1]', "quantisers = ['requantise', 1]: must be some of requantise"),
        ("quantisers=thresholds", "quantisers = 'thresholds': must be a list, such as [\"thresholds\"], of "),
        ("quantisers=7", 'quantisers = 7: must be a list, such as ["requantise"], of requantise, thresholds'),
        ("quantisers=[]", "of activations of int8: add requantise or accumulators"),
        ('precisions=["au8w8", "a8w8"]', "not in 9: name signed formats only, unsigned tensors fit them"),
        ("precisions=a4w4", "precisions = 'a4w4': must be a list, such as [\"a4w4\"]"),
        ("precisions=[a4w4]", "precisions = '[a4w4]': must be a list, such as [\"a4w4\"]"),
        ("precisions=['a8w8', a4w4]", 'must be a list, such as ["a8w8", "a4w4"]'),
        ("precisions=7", 'precisions = 7: must be a list, such as ["a8w8"]'),
        ("precisions=[1]", 'precisions = [1]: must be a list of texts, such as ["a8w8"]'),
        ('precisions=[["a8w8"]]', "precisions = [['a8w8']]: must be a list of texts"),
        ("precisions={a=1}", "precisions = {'a': 1}: must be a list, such as"),
        ("pe=[1]", 'pe = [1]: must be one of "parallel"'),
        ("cols=[4]", "cols = [4]: must be a whole number"),
    ],
)
def test_a_bad_value_names_its_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^base: ") as caught:
        config.load("base", [override])
    assert message in str(caught.value)


def test_what_makes_results_of_bipolar_activations_is_said() -> None:
    with pytest.raises(ConfigError, match="of activations of bipolar: add thresholds or accumulators"):
        config.load("base", ["pe=xnor", 'precisions=["abwb"]'])
    assert (
        "thresholds"
        in config.load("base", ["pe=xnor", 'precisions=["abwb"]', 'quantisers=["thresholds"]']).quantisers
    )


def test_a_missing_key_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(BitwrightError, match="cols and lanes must be given"):
        config.load(tmp_path / "empty.toml")
    (tmp_path / "typo.toml").write_text("cols = 4\nlane = 8\n")
    with pytest.raises(ConfigError, match=r"lane = 8: must be left out \(did you mean lanes\?\)"):
        config.load(tmp_path / "typo.toml")


def test_a_file_to_start_from(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine.toml").write_text(config.toml(config.load("small")))
    assert config.load(tmp_path / "mine.toml") == config.load("small")


def test_an_element_of_a_file_is_explained(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine.toml").write_text('cols = 4\nlanes = 4\nquantisers = [\n  "treshold",\n]\n')
    with pytest.raises(ConfigError, match=r"mine.toml: quantisers = \['treshold'\]: must be some of requant"):
        config.load(tmp_path / "mine.toml")


def test_files_that_are_none(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BitwrightError, match=r"no such file.*base, icebreaker, small, tiny"):
        config.load("bse")
    (tmp_path / "broken.toml").write_text("cols = ")
    with pytest.raises(BitwrightError, match=r"is not valid TOML.*at "):
        config.load(tmp_path / "broken.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BitwrightError, match="cannot be read"):
        config.load(tmp_path / "binary.toml")
    with pytest.raises(BitwrightError, match="cannot be read"):
        config.load(tmp_path)
    with pytest.raises(BitwrightError, match="must be key=value"):
        config.load("base", ["cols"])


def test_the_schema_documents_every_key() -> None:
    properties = config.schema()["properties"]
    assert list(properties) == list(asdict(config.load("base")))
    assert all(value["description"] for value in properties.values())
    assert properties["bus_bits"]["enum"] == [32, 64, 128]
    assert config.schema()["additionalProperties"] is False
