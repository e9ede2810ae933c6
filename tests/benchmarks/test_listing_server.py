"""The synthetic bucket lists and holds photos as a real one does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import s3, storage
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.photo.decode import decode
from tests.benchmarks.listing_server import BUCKET, KEYS, serving

COUNT = 2345


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serving(COUNT) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        with local.environment({**KEYS, "AWS_ENDPOINT_URL": endpoint}):
            yield f"s3://{BUCKET}"


def test_all_objects_are_listed_once_in_the_order_of_their_names(bucket: str) -> None:
    files = list(list_files(f"{bucket}/albums"))
    names = [file.relative for file in files]
    assert len(names) == COUNT and names == sorted(set(names))
    assert len({file.version for file in files}) == len({file.size for file in files}) == COUNT
    assert [file.relative for file in list_files(f"{bucket}/albums/000002")] == [
        f"IMG_{n:09}.jpg" for n in range(2000, COUNT)
    ]
    assert list(list_files(f"{bucket}/nothing")) == []


def test_an_object_is_a_photo_of_the_listed_size_and_no_other_has_its_bytes(bucket: str) -> None:
    files = list(islice(list_files(bucket), 8))
    contents = [storage.read_bytes(file.uri) for file in files]
    assert [len(content) for content in contents] == [file.size for file in files]
    assert len(set(contents)) == 8
    assert len({decode(content).pixels.tobytes() for content in contents}) <= 4
    assert storage.read_with(files[0].uri, lambda file: file.read()) == contents[0]


def test_what_does_not_exist_is_said_as_s3_says_it(bucket: str) -> None:
    storage.check_reachable(f"{bucket}/albums")
    assert storage.exists(f"{bucket}/albums/000000/IMG_000000001.jpg")
    assert not storage.exists(f"{bucket}/albums") and not storage.exists(f"{bucket}/albums/000000/IMG_000009999.jpg")
    with pytest.raises(storage.StorageError, match="there is no bucket 'other'"):
        storage.check_reachable("s3://other/albums")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{bucket}/albums/000009/IMG_000009999.jpg")
    with pytest.raises(PermissionError, match="refuses"):
        s3.write(f"{bucket}/new.jpg", b"")
