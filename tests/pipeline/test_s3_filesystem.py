"""pyarrow's S3 filesystem leaves no objects that stand for folders."""

from __future__ import annotations

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.s3_filesystem import without_directories


def test_making_a_directory_writes_no_object_that_blocks_files_below_it(object_store: local.ObjectStore) -> None:
    filesystem, path = storage.resolve(storage.join(object_store.uri, "runs/one"))
    flat = without_directories(filesystem)
    flat.create_dir(path)
    with flat.open_output_stream(path + "/state") as stream:
        stream.write(b"saved")
    assert storage.read_bytes(storage.join(object_store.uri, "runs/one/state")) == b"saved"
