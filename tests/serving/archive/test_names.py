"""Any file name on a disk converts to text and back, and two names never have the same text."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from naturaltone.serving.archive.names import from_text, to_text


@given(name=st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and not name.startswith(b"/")))
def test_any_name_on_a_disk_converts_to_text_and_back(name: bytes) -> None:
    text = to_text(os.fsdecode(name))
    text.encode()
    assert os.fsencode(from_text(text)) == name


@given(names=st.sets(st.binary(min_size=1, max_size=4).filter(lambda n: b"/" not in n and b"\0" not in n), max_size=20))
def test_two_names_never_have_the_same_text(names: set[bytes]) -> None:
    assert len({to_text(os.fsdecode(name)) for name in names}) == len(names)
