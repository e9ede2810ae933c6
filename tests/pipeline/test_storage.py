"""Writes are whole or absent, and a wrong URI gives one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.listing import list_files
from tests.fault_proxy import Faults, fault_proxy


def test_a_path_and_its_file_uri_name_the_same_file(tmp_path: Path) -> None:
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


def test_an_unknown_scheme_is_named_with_the_supported_ones() -> None:
    with pytest.raises(storage.StorageError, match=r"'gs://bucket'.*s3://"):
        storage.resolve("gs://bucket")


def test_a_missing_server_fails_at_once_with_the_remedy() -> None:
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


def test_no_update_is_lost_or_made_twice_when_answers_are_lost(conditional_s3: str) -> None:
    """A server with conditional writes refuses the retry of a write that succeeded."""
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


def test_an_object_is_written_read_and_listed(object_store: local.ObjectStore) -> None:
    uri = storage.join(object_store.uri, "some", "object")
    storage.write_bytes(uri, b"content")
    assert storage.exists(uri) and storage.read_bytes(uri) == b"content"
    assert [file.relative for file in list_files(storage.join(object_store.uri, "some"))] == ["object"]


_FULL_DISK = """
import resource, sys
from naturaltone.pipeline import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a quota does to a write
storage.write_bytes(sys.argv[1], bytes(50_000))
try:
    storage.write_bytes(sys.argv[1], bytes(200_000))
except OSError as error:
    print(type(error).__name__)
"""


def test_a_full_disk_keeps_the_old_file_and_no_half_written_one(tmp_path: Path) -> None:
    target = tmp_path / "shard"
    finished = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(target)], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "OSError"
    assert [path.name for path in tmp_path.iterdir()] == ["shard"] and target.stat().st_size == 50_000


def test_a_folder_that_we_may_not_look_into_is_refused_by_its_name() -> None:
    with tempfile.TemporaryDirectory() as closed:  # other users cannot read pytest's own folders
        os.makedirs(f"{closed}/below")
        os.chmod(closed, 0)
        is_root = os.geteuid() == 0
        try:
            if is_root:  # root reads everything
                os.seteuid(65534)
            for folder in (closed, f"{closed}/below"):
                with pytest.raises(storage.StorageError, match=f"'{folder}': permission denied; give this user access"):
                    storage.check_folder(folder)
        finally:
            if is_root:
                os.seteuid(0)
            os.chmod(closed, 0o700)


def test_a_copy_to_and_from_s3_has_the_same_bytes_and_leaves_nothing_in_tmpdir(
    object_store: local.ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    here, there, again, back = (
        str(tmp_path / "a.mov"),
        storage.join(object_store.uri, "copies/a.mov"),
        storage.join(object_store.uri, "copies/b.mov"),
        str(tmp_path / "back.mov"),
    )
    Path(here).write_bytes(os.urandom(9_000_000))  # more than two blocks
    storage.copy(here, there)
    storage.copy(there, again)
    storage.copy(again, back, modified=1_500_000_000)
    assert Path(back).read_bytes() == Path(here).read_bytes() and os.stat(back).st_mtime == 1_500_000_000
    assert storage.same_content(here, again) and storage.same_content(there, again)
    storage.write_bytes(again, Path(here).read_bytes()[:-1] + b"!")
    assert not storage.same_content(there, again)
    assert list(scratch.iterdir()) == []
