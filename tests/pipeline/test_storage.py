"""Storage: writes are whole or absent, and a wrong place is one clear line."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import s3, storage
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.s3_filesystem import without_directories
from tests.fault_proxy import Faults, fault_proxy


def test_paths_and_file_uris_name_the_same_place(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a b.txt"), b"1")
    assert storage.read_bytes(f"file://{tmp_path}/a%20b.txt") == b"1"


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    storage.write_bytes(str(target), b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError):
        storage.write_bytes(str(target), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


def test_listing_is_sorted_recursive_and_by_suffix_in_any_case(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.jpg", "a/d.txt", "e.png"):
        storage.write_bytes(str(tmp_path / name), b"12")
    found = list(list_files(str(tmp_path), suffixes=(".jpg",)))
    assert [file.relative for file in found] == ["a/c.jpg", "b.JPG"]
    assert found[0].size == 2 and storage.read_bytes(found[0].uri) == b"12"


def test_an_unknown_scheme_is_named_with_what_is_known() -> None:
    with pytest.raises(storage.StorageError, match=r"'gs://bucket'.*s3://"):
        storage.resolve("gs://bucket")


def test_a_server_that_is_not_there_fails_at_once_with_the_remedy() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoint = f"http://127.0.0.1:{local.free_port()}"
    with local.environment({**keys, "AWS_ENDPOINT_URL": endpoint}):
        with pytest.raises(storage.StorageError, match=r"cannot be reached .*--s3-endpoint"):
            storage.check_reachable("s3://bucket/store")


def test_wrong_keys_and_a_missing_bucket_say_so(object_store: local.ObjectStore) -> None:
    storage.check_reachable(object_store.uri)
    with pytest.raises(storage.StorageError, match="no bucket 'elsewhere'"):
        storage.check_reachable("s3://elsewhere/store")
    with local.environment({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        with pytest.raises(storage.StorageError, match=r"refuses access.*AWS_SECRET_ACCESS_KEY"):
            storage.check_reachable(object_store.uri)


def test_no_update_is_lost_or_made_twice_whatever_answers_are_lost(conditional_s3: str) -> None:
    """A server that knows conditions refuses the repetition of a write that it has done."""
    uri = storage.join(conditional_s3, "counter")
    upstream = os.environ["AWS_ENDPOINT_URL"]

    def count(letter: str) -> None:
        for number in range(12):
            line = f"{letter}{number}\n".encode()
            storage.update(uri, lambda before, line=line: (before or b"").replace(line, b"") + line)  # type: ignore[misc]

    with fault_proxy(upstream, Faults(share=0.3, kinds=("truncate", "reset"), seed=2)) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            threads = [threading.Thread(target=count, args=(letter,)) for letter in "ab"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert sorted(storage.read_bytes(uri).decode().split()) == sorted(
        f"{letter}{n}" for letter in "ab" for n in range(12)
    )
    assert proxy.injected["truncate"] > 2


def test_keys_with_double_slashes_are_objects_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    found = [
        {"Key": key, "Size": 1, "ETag": '"e"', "LastModified": datetime(2026, 1, 1)} for key in ("p/a.jpg", "p//a.jpg")
    ]
    monkeypatch.setattr(s3, "list_objects", lambda uri: iter(found))
    assert [file.uri for file in list_files("s3://b/p")] == ["s3://b/p/a.jpg", "s3://b/p//a.jpg"]


def test_an_object_is_written_read_and_listed(object_store: local.ObjectStore) -> None:
    uri = storage.join(object_store.uri, "some", "object")
    storage.write_bytes(uri, b"content")
    assert storage.exists(uri) and storage.read_bytes(uri) == b"content"
    assert [file.relative for file in list_files(storage.join(object_store.uri, "some"))] == ["object"]


def test_making_a_directory_puts_no_object_in_the_way(object_store: local.ObjectStore) -> None:
    filesystem, path = storage.resolve(storage.join(object_store.uri, "runs/one"))
    flat = without_directories(filesystem)
    flat.create_dir(path)
    with flat.open_output_stream(path + "/state") as stream:
        stream.write(b"saved")
    assert storage.read_bytes(storage.join(object_store.uri, "runs/one/state")) == b"saved"
