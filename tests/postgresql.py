"""A PostgreSQL server of Debian's for tests, with a new database; a test that needs one is skipped where there is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from naturaltone.infra import local


@contextmanager
def running(arguments: Sequence[str] = (), *, user: str = "mlflow", password: str = "any") -> Iterator[str]:
    """HOST:PORT of a server with a database that is called as its user; it asks for the password. arguments: more of them."""
    programs = [Path(found) for found in [shutil.which("initdb")] if found]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("MLflow's database on PostgreSQL takes PostgreSQL")
    port, folder = local.free_port(), Path(tempfile.mkdtemp(prefix="naturaltone-postgresql-"))
    (folder / "password").write_text(password)
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses root
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
        as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    data = folder / "data"
    create = [*as_user, programs[0], "-D", data, "-U", user, "--auth", "scram-sha-256", "--pwfile", folder / "password"]
    subprocess.run(create, check=True, capture_output=True)
    server = programs[0].with_name("postgres")
    command = [*as_user, server, *arguments, "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE)
    try:
        local.wait_for_port(port, process)
        _create_database(port, user, password)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        shutil.rmtree(folder)


def _create_database(port: int, user: str, password: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = psycopg2.connect(host="127.0.0.1", port=port, user=user, password=password, dbname="postgres")
            break
        except psycopg2.OperationalError as error:  # it listens before it lets anybody in
            if "starting up" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    try:
        connection.autocommit = True  # PostgreSQL makes no database inside of a transaction
        connection.cursor().execute(f'CREATE DATABASE "{user}"')
    finally:
        connection.close()
