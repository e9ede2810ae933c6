"""Checks the servers: what the storage of a store really allows, the tracking server, and the registry's champion."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from naturaltone.infra.doctor.finding import Finding, failure, ok, warning
from naturaltone.infra.doctor.machine import check_folder
from naturaltone.pipeline import lease, s3, storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.pipeline.listing import list_files
from naturaltone.serving import promotions, registry
from naturaltone.serving.service.access import Access
from naturaltone.serving.service.settings import API_KEYS
from naturaltone.training import model_registry, tracking

_CONTENT = b"naturaltone doctor wrote this, and removes it again"
_SKEW_WARNING, _SKEW_FAILURE = 30, 300  # seconds; S3 refuses requests whose clock is 15 minutes off


def check_storage(uri: str, *, for_deployment: bool) -> Iterator[Finding]:
    """Check that `uri` can be written, listed, read and deleted, and keeps two machines apart. Leaves nothing behind.

    for_deployment: several machines will use it.
    """
    folder = None if storage.is_s3(uri) else Path(storage.resolve(uri)[1])
    is_new = folder is not None and not folder.exists()
    try:
        yield from _check_rights(uri, for_deployment=for_deployment)
    finally:
        if is_new and folder is not None and folder.exists():
            folder.rmdir()


def _check_rights(uri: str, *, for_deployment: bool) -> Iterator[Finding]:
    try:
        storage.check_reachable(uri)
    except storage.StorageError as error:
        yield failure("storage", first_line(error), "correct this first")
        return
    probe = storage.join(uri, f".naturaltone-doctor-{uuid.uuid4().hex[:8]}", "probe")
    done, wrong = [], None
    for right, attempt in (
        ("write", lambda: storage.write_bytes(probe, _CONTENT)),
        ("list", lambda: _expect([file.size for file in list_files(probe.rpartition("/")[0])], [len(_CONTENT)])),
        ("read", lambda: _expect(storage.read_bytes(probe), _CONTENT)),
        ("delete", lambda: _delete(probe)),
    ):
        try:
            attempt()
            done.append(right)
        except OSError as error:
            wrong = f"may not {right} ({first_line(error)})"
            break
    if wrong:
        with contextlib.suppress(OSError):
            _delete(probe)
        may = f"may {', '.join(done)}, but " if done else ""
        yield failure(
            "storage", f"'{uri}': {may}{wrong}", "give these keys the rights to list, read, write and delete there"
        )
        return
    yield ok("storage", f"'{uri}': may {', '.join(done)}")
    yield _check_lock(uri, for_deployment=for_deployment)
    if storage.is_s3(uri):
        yield check_clock_of_s3(uri)
    else:
        yield check_folder("disk of the store", Path(storage.resolve(uri)[1]), "STORE")


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise OSError("the server gave other content than it was given")


def _delete(probe: str) -> None:
    if storage.is_s3(probe):
        s3.delete(probe)
    else:
        shutil.rmtree(Path(storage.resolve(probe)[1]).parent)


def _check_lock(uri: str, *, for_deployment: bool) -> Finding:
    """Check that a lock keeps two machines apart. It needs an S3 server with conditional writes."""
    check = "locks"
    if not storage.is_s3(uri):
        return ok(check, "a locked file, on the disks of this machine and on NFS 4")
    if lease.is_safe(storage.join(uri, "doctor")):
        return ok(check, "the S3 server knows conditional writes")
    give = failure if for_deployment else warning
    return give(
        check,
        "the S3 server ignores conditional writes, so two machines may get the same lock",
        "retrain on one machine alone, or use a server that knows them, such as AWS S3, RustFS or versitygw",
    )


def check_clock_of_s3(uri: str) -> Finding:
    """Compare this machine's clock with the S3 server's. A server refuses requests of a clock that is 15 minutes off."""
    check = "clock of the S3 server"
    bucket, _ = s3.split(uri)
    before = time.time()
    try:
        answer = s3.client().head_bucket(Bucket=bucket)
        said = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except Exception as error:  # boto3 has many; the rights were checked before, so this is only a missing answer
        return warning(check, f"not known ({first_line(error)})", "compare it yourself")
    apart = max(0.0, before - said - 1, said - time.time())  # the server's date is cut to whole seconds
    return judge_clock(check, apart)


def judge_clock(check: str, apart: float) -> Finding:
    """apart: the least seconds by which the two clocks differ."""
    found = f"differs by {apart:.0f} s" if apart >= 1 else "agrees with ours"
    remedy = "let both machines keep their time by NTP (systemd-timesyncd or chrony)"
    if apart > _SKEW_FAILURE:
        return failure(check, found, remedy)
    return warning(check, found, remedy) if apart > _SKEW_WARNING else ok(check, found)


def check_store(uri: str) -> Finding:
    """Check that the store can be opened, if there is one."""
    try:
        store = shards.open_store(uri)
    except UserError as error:
        if f"{shards.MANIFEST} is missing" in str(error):
            return warning(
                "store", f"'{uri}' is no store yet", f"fill it: `naturaltone ingest SRC --role input --to {uri}`"
            )
        return failure("store", first_line(error), "correct this first")
    counts = {role: store.count(role) for role in shards.ROLES}
    found = f"{counts['input']} input and {counts['natural']} natural photos"
    if missing := [role for role, count in counts.items() if not count]:
        return warning(
            "store", found, f"training needs {missing[0]} photos too: `naturaltone ingest --role {missing[0]}`"
        )
    return ok("store", found)


def check_tracking(*, for_deployment: bool) -> Iterator[Finding]:
    """Check that the tracking server and its registry answer, and that the champion can be loaded."""
    uri = tracking.tracking_uri()
    if not tracking.database_exists(uri):
        yield warning(
            "tracking", f"'{uri}' does not exist yet", "the first training makes it; or set MLFLOW_TRACKING_URI"
        )
        return
    tracking.give_up_soon()
    try:
        versions = model_registry.versions()
    except tracking.TrackingError as error:
        yield failure("tracking", first_line(error), "start the server, or correct the variable")
        return
    if "://" in uri and not uri.startswith("http") and for_deployment:
        yield failure(
            "tracking",
            f"'{uri}' is a database, which other machines do not reach",
            "run `mlflow server`, and set MLFLOW_TRACKING_URI to its http:// address on all machines",
        )
    else:
        yield ok("tracking", f"'{uri}' answers; {len(versions)} versions of the model")
    yield check_champion()


def check_champion() -> Finding:
    """Load the champion as a service does. A champion whose version was deleted is a failure, not the pretrained model."""
    try:
        number = promotions.champion()
        if number is None:
            return warning("champion", "no model is registered", "until then, the pretrained model serves")
        bundle, name = registry.load_model(model_registry.CHAMPION_URI)
    except (UserError, OSError) as error:
        return failure("champion", first_line(error), "`naturaltone models list` shows the versions")
    return ok("champion", f"version {number} loads ({name}, working resolution {bundle.working_resolution})")


def check_keys(*, for_deployment: bool) -> Finding:
    """Check who may use a service that starts with this environment."""
    check = "API keys of the service"
    try:
        access = Access.from_environment()
    except UserError as error:
        return failure(check, first_line(error), "correct the variable")
    if access.keys is not None:
        return ok(check, f"{API_KEYS} is set")
    if access.is_open:
        return warning(check, "everybody may use it (NATURALTONE_NO_AUTH)", f"set {API_KEYS} instead")
    give = warning if not for_deployment else failure
    return give(check, "none, so it answers this machine alone", f"set {API_KEYS} (docs/serving.md)")
