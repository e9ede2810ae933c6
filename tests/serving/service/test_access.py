"""Only a valid key enters, no secret is ever shown, and no key may send more than its share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.errors import UserError
from naturaltone.serving.service import settings
from naturaltone.serving.service.access import Access, Keys, RateLimit
from tests.serving.service.conftest import sha256

NAMES = st.text("abcXYZ019_.@-", min_size=1, max_size=64)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(lambda text: text == text.strip())


@given(keys=st.dictionaries(TEXTS, NAMES, min_size=1, max_size=5), other=TEXTS, data=st.data())
def test_exactly_the_keys_of_the_hashes_are_found(keys: dict[str, str], other: str, data: Any) -> None:
    blanks = data.draw(st.sampled_from(["", " ", "  "]))
    entries = [f"{blanks}{sha256(text)} {blanks}{name}{blanks}" for text, name in keys.items()]
    found = Keys(",".join(entries))
    for text, name in keys.items():
        key = found.find(text)
        assert key is not None and key.name == name and key.digest.hex() == sha256(text)
        assert found.find(sha256(text)) is None or sha256(text) in keys, "a hash is no key"
    assert (found.find(other) is None) == (other not in keys)


def test_a_key_without_a_name_is_called_by_the_start_of_its_hash() -> None:
    digest = sha256("k").upper()
    key = Keys(f"{digest},").find("k")
    assert key is not None and key.name == digest[:8]


SECRET = "hunter2-my-secret"


@pytest.mark.parametrize(
    "setting",
    [
        SECRET,
        f"{SECRET},{SECRET}2",
        f"{'a' * 64},{SECRET}",
        f"{SECRET} name,{'a' * 64}",
        f"{'a' * 64} {SECRET} and a blank",
        f"{'a' * 64} <script>{SECRET}",
        f"{'a' * 63} {SECRET}",
        f"{'a' * 65} {SECRET}",
        SECRET * 100,
        f"{SECRET}\n{SECRET}",
        f"/nowhere/{SECRET}",
    ],
)
def test_a_bad_entry_is_refused_and_never_shown(setting: str) -> None:
    """It may be a key that somebody forgot to hash."""
    with pytest.raises(UserError) as caught:
        Keys(setting)
    assert SECRET not in str(caught.value) and "SHA-256" in str(caught.value) and "sha256sum" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(setting=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=100))
def test_any_setting_is_read_or_is_a_user_error(setting: str) -> None:
    with contextlib.suppress(UserError):
        Keys(setting)


def test_keys_are_read_from_a_file_with_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"# of the office\n\n{sha256('one')} anna\n  {sha256('two')}\n")
    keys = Keys(str(path))
    assert keys.find("one").name == "anna" and keys.find("two") is not None  # type: ignore[union-attr]
    assert keys.find("three") is None


def write(path: Path, text: str | bytes) -> None:
    """As an editor does: a new file in the place of the old one."""
    new = path.with_suffix(".new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(new, path)


def test_a_changed_file_is_read_again_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    write(path, sha256("one"))
    keys = Keys(str(path))
    write(path, sha256("two"))
    assert keys.find("one") is None and keys.find("two") is not None
    write(path, "")
    assert keys.find("two") is None, "an empty file lets nobody in"
    with path.open("a") as file:
        file.write(sha256("three"))
    assert keys.find("three") is not None, "a file that is appended to"


@pytest.mark.parametrize("broken", ["no hash", sha256("two")[:-1], b"\xff\xfe\x00", None])
def test_a_file_that_breaks_keeps_the_keys_of_before_until_it_is_mended(
    broken: str | bytes | None, tmp_path: Path, service_log: Callable[[], list[dict[str, Any]]]
) -> None:
    path = tmp_path / "keys.txt"
    write(path, sha256("one"))
    keys = Keys(str(path))
    if broken is None:
        path.unlink()
    else:
        write(path, broken)
    assert keys.find("one") is not None and keys.find("one") is not None
    assert [line["level"] for line in service_log()] == ["error"], "it is said once, not at each request"
    assert "no hash" not in str(service_log())
    write(path, sha256("two"))
    assert keys.find("one") is None and keys.find("two") is not None


@pytest.mark.parametrize("kind", ["folder", "binary"])
def test_a_file_that_cannot_be_read_at_the_start_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=rf"{settings.API_KEYS} '{path}'"):
        Keys(str(path))


@given(
    per_minute=st.floats(1, 1000),
    waits=st.lists(st.floats(0, 30), max_size=200),
)
def test_no_key_gets_more_than_its_rate_and_one_burst(per_minute: float, waits: list[float]) -> None:
    rate, now, allowed = RateLimit(per_minute), 1000.0, 0
    for wait in waits:
        now += wait
        seconds = rate.seconds_to_wait("a", now=now)
        allowed += seconds == 0
        assert 0 <= seconds <= 60 / per_minute * (1 + 1e-9)
    assert allowed <= per_minute + (now - 1000) * per_minute / 60 + 1e-6


@given(per_minute=st.floats(1, 1000), used=st.integers(0, 1500))
def test_who_waits_as_long_as_told_gets_through(per_minute: float, used: int) -> None:
    rate, now = RateLimit(per_minute), 5.0
    for _ in range(used):
        rate.seconds_to_wait("a", now=now)
    if seconds := rate.seconds_to_wait("a", now=now):
        assert rate.seconds_to_wait("a", now=now + seconds * (1 + 1e-6) + 1e-6) == 0
    assert rate.seconds_to_wait("b", now=now) == 0, "another key is free"


def test_after_a_quiet_minute_a_whole_minutes_requests_may_come_at_once() -> None:
    rate = RateLimit(3)
    assert [rate.seconds_to_wait("a", now=0) for _ in range(4)] == [0, 0, 0, 20]
    assert [rate.seconds_to_wait("a", now=3600) for _ in range(4)] == [0, 0, 0, 20], "and not those of an hour"


@pytest.mark.parametrize("value", ["many", "-1", "0.5", "nan", "inf", "1e9", "1,5"])
def test_a_bad_rate_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.RATE_LIMIT, value)
    with pytest.raises(UserError, match=rf"{settings.RATE_LIMIT} '{value}': must be a number"):
        Access.from_environment()


@pytest.mark.parametrize(("value", "has_rate"), [("", False), ("0", False), ("1", True), ("60.5", True)])
def test_a_rate_is_read(value: str, has_rate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.RATE_LIMIT, value)
    assert (Access.from_environment().rate is not None) == has_rate


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_keys_this_machine_enters(address: str) -> None:
    assert Access().client(None, address) == "open"


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "0.0.0.0", "", "::", "::11", "1::1", "fe80::1", "::ffff:10.0.0.1", "12.7.0.0"]
)
def test_without_keys_other_machines_do_not_enter(address: str) -> None:
    assert Access().client(None, address) is None
    assert Access(is_open=True).client(None, address) == "open"


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.3.2.1", "[::1]", "[::1]:8000"]
)
def test_without_keys_this_machine_enters_by_its_local_names(host: str) -> None:
    assert Access().client(None, "127.0.0.1", host) == "open"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8000",
        "localhost:8000:1",
        "::1",
        "x\n",
    ],
)
def test_without_keys_a_web_page_whose_name_points_here_does_not_enter(host: str) -> None:
    assert Access().client(None, "127.0.0.1", host) is None
    assert Access(is_open=True).client(None, "127.0.0.1", host) == "open"
    assert Access(keys=Keys(sha256("k") + " anna")).client("Bearer k", "127.0.0.1", host) == "anna"


def test_with_keys_this_machine_needs_one_too_and_openness_does_not_count() -> None:
    access = Access(keys=Keys(sha256("k") + " anna"), is_open=True)
    assert access.client(None, "127.0.0.1") is None and access.client("Bearer k", "10.0.0.1") == "anna"


@pytest.mark.parametrize(
    ("value", "is_open"), [("", False), ("0", False), ("1", True), ("false", False), ("no", False)]
)
def test_only_1_opens_the_service_to_everybody(value: str, is_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.NO_AUTH, value)
    assert Access.from_environment().is_open == is_open


def test_an_empty_variable_means_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.API_KEYS, "  ")
    assert Access.from_environment().keys is None
