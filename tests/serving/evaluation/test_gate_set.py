"""The photos of the gate are always the same ones, until a command adds some."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from naturaltone.pipeline import storage
from naturaltone.serving.evaluation import gate_set
from naturaltone.serving.evaluation.gate_set import GATE, grow, missing, open_gate_set, read_gate_photos
from tests.serving.evaluation.conftest import Add


def test_what_is_ingested_later_is_never_in_the_gate(add: Add) -> None:
    add("natural", 0, 3)
    store = add("input", 0, 4)
    frozen = open_gate_set(store)
    assert {role: len(ids) for role, ids in frozen.ids.items()} == {"input": 4, "natural": 3}
    later = add("input", 10, 3)
    assert open_gate_set(later) == frozen
    assert [photo.name for photo in read_gate_photos(later, frozen) if photo.role == "input"] == [
        f"{number}.jpg" for number in range(4)
    ]


def test_the_gate_grows_only_by_command_and_loses_no_photo(add: Add) -> None:
    frozen = open_gate_set(add("input", 0, 4))
    grown = grow(add("input", 10, 3))
    assert grown.ids["input"][:4] == frozen.ids["input"] and len(grown.ids["input"]) == 7
    assert grown.digest != frozen.digest
    assert grow(add("input", 20, 3), {"input": 8, "natural": 8}).ids["input"][:7] == grown.ids["input"]
    assert len(open_gate_set(add("input", 30, 1)).ids["input"]) == 8


def test_nothing_new_leaves_the_file_as_it_is(add: Add) -> None:
    store = add("input", 0, 4)
    open_gate_set(store)
    before = storage.read_bytes(storage.join(store.uri, GATE))
    grow(store)
    assert storage.read_bytes(storage.join(store.uri, GATE)) == before


def test_a_large_store_gives_the_same_choice_to_everybody(add: Add) -> None:
    store = add("input", 0, 30)
    few = open_gate_set(store, {"input": 5, "natural": 5})
    storage.delete(storage.join(store.uri, GATE))
    assert open_gate_set(store, {"input": 5, "natural": 5}).ids == few.ids and len(few.ids["input"]) == 5


def test_a_forgotten_photo_is_missed(add: Add) -> None:
    store = add("input", 0, 4)
    frozen = open_gate_set(store)
    assert missing(store, frozen) == []
    forgetful = dataclasses.replace(store, row_groups=store.row_groups.slice(0, 0))
    assert missing(forgetful, frozen) == sorted(frozen.ids["input"])


def test_two_at_the_same_time_freeze_one_set(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    store = add("input", 0, 4)
    update = storage.update

    def other_first(uri: str, change: Callable[[bytes | None], bytes]) -> None:
        monkeypatch.setattr(storage, "update", update)
        first.append(open_gate_set(store, {"input": 2, "natural": 2}))
        update(uri, change)

    first: list[gate_set.GateSet] = []
    monkeypatch.setattr(storage, "update", other_first)
    assert open_gate_set(store) == first[0] == open_gate_set(store)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"photos": []}'])
def test_a_damaged_file_is_one_clear_line(add: Add, content: bytes) -> None:
    store = add("input", 0, 2)
    storage.write_bytes(storage.join(store.uri, GATE), content)
    with pytest.raises(storage.StorageError, match=r"gate\.json': cannot be used .* delete it to freeze"):
        open_gate_set(store)


def test_a_changed_list_of_photos_is_noticed(add: Add) -> None:
    store = add("input", 0, 2)
    open_gate_set(store)
    uri = storage.join(store.uri, GATE)
    document = json.loads(storage.read_bytes(uri))
    document["photos"]["input"].pop()
    storage.write_bytes(uri, json.dumps(document).encode())
    with pytest.raises(storage.StorageError, match="its digest does not match"):
        open_gate_set(store)
