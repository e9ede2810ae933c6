"""A mistake in retrain.toml is found before anything runs, and each gets one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.infra.retrain_config import WrongConfig, read_config
from tests.test_architecture import ROOT


def lines(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "retrain.toml"
    path.write_text(text)
    with pytest.raises(WrongConfig) as caught:
        read_config(str(path))
    assert all(line.startswith(f"'{path}': ") and "\n" not in line for line in caught.value.lines)
    return [line.removeprefix(f"'{path}': ") for line in caught.value.lines]


def test_the_example_is_whole_and_right() -> None:
    config = read_config(str(ROOT / "infra/retrain.example.toml"))
    assert (config.limits.train, config.limits.promote, config.gate.slots_per_year) == (8 * 3600, 300, 365)
    assert config.train.config().steps == 2000
    text = (ROOT / "infra/retrain.example.toml").read_text()
    for part, known in [(config, type(config).model_fields), *_parts(config)]:
        missing = [name for name in known if f"\n{name} =" not in text and f"[{name}]" not in text]
        assert [name for name in missing if name != "processes"] == [], type(part)


def _parts(config: object) -> list[tuple[object, dict[str, object]]]:
    values = [getattr(config, name) for name in type(config).model_fields]  # type: ignore[attr-defined]
    return [(value, type(value).model_fields) for value in values if hasattr(type(value), "model_fields")]


def test_defaults_need_only_a_store_and_relative_folders_are_below_the_file(tmp_path: Path) -> None:
    (tmp_path / "retrain.toml").write_text('store = "photos"\n[ingest]\ninputs = ["in", "/abs", "s3://b/in"]')
    config = read_config(str(tmp_path / "retrain.toml"))
    assert (config.name, config.store) == ("nightly", str(tmp_path / "photos"))
    assert config.ingest.inputs == [str(tmp_path / "in"), "/abs", "s3://b/in"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "store is missing; add it (`naturaltone retrain --example` shows every field)"),
        ('store = ""', "store = '': write a folder or an s3:// prefix"),
        ('store = "gs://b/s"', "store = 'gs://b/s': 'gs://b/s': only paths, file:// and s3:// are supported"),
        ('store = "s"\nstroe = 1', "stroe is unknown; use name, store, ingest, train, gate, limits, report, metrics"),
        (
            'store = "s"\n[gate]\nleast = 1',
            "[gate] least is unknown; use slots_per_year, processes",
        ),
        ('store = "s"\n[limits]\ntrain = 5', "[limits] train = 5: write a number and its unit (s, min or h)"),
        ('store = "s"\n[limits]\ntrain = "5 days"', "[limits] train = '5 days': write a number and its unit"),
        ('store = "s"\n[limits]\ntrain = "0 h"', "[limits] train = '0 h': write a number and its unit"),
        ('store = "s"\n[train]\nset = {step = 3}', "[train] set 'step=3': there is no field 'step'; use one of width"),
        ('store = "s"\n[train]\nrecipe = "huge"', "[train] recipe = 'huge': use one of smoke, small, patent"),
        ('store = "s"\n[train]\nworkers = "4-2"', "[train] workers = '4-2': MIN must be at least 1"),
        ('store = "s"\n[gate]\nslots_per_year = "daily"', "[gate] slots_per_year = 'daily': must be a valid"),
        ('store = "s"\n[ingest]\nlong_side = 3', "[ingest] long_side = 3: must be greater than or equal to 64"),
        ('store = "s"\n[report]\nwebhook = "example.org"', "[report] webhook = 'example.org': write an http:// or"),
        (
            'store = "s"\n[metrics]\npushgateway = "host:9091"',
            "[metrics] pushgateway = 'host:9091': write an http:// or",
        ),
        (
            'store = "s"\n[metrics]\ntextfile = "slot.txt"',
            "[metrics] textfile = 'slot.txt': write the absolute path of",
        ),
        ('name = "a b"\nstore = "s"', "name = 'a b': use up to 41 letters, digits"),
        ("store = [", "not TOML ("),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field_the_value_and_the_remedy(
    tmp_path: Path, text: str, told: str
) -> None:
    [line] = lines(tmp_path, text)
    assert line.startswith(told)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = lines(tmp_path, '[limits]\ntrain = "soon"\n[ingest]\nalgorithm = "magic"\nphotos = 3')
    assert len(found) == 4


def test_a_file_that_is_not_there_is_one_line() -> None:
    with pytest.raises(WrongConfig, match=r"'/nowhere/retrain\.toml': cannot be read \(No such file"):
        read_config("/nowhere/retrain.toml")
