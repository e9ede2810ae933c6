"""Containers without an engine: each has an address and a name of its own, a read-only root, and a user without rights.

A command in one of them runs with exactly the arguments, ports, names and variables that it has in infra/compose.yaml. It takes
root, `ip` and `setpriv`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compose import ROOT

_ADDRESS = "10.77.0"  # inside the network namespaces, which nothing leaves
# A new home of root, where nobody else may look but where Python may be installed; then nothing can be written but $PLACE.
_ENTER = """
set -e
mount --bind "$OWN" "$PLACE"; mount --bind "$PYTHON" "$PLACE/python"
mount -t tmpfs -o mode=755 none ~; mkdir -p "$PYTHON" || true; mount --bind "$PLACE/python" "$PYTHON"
mount -o remount,ro ~; mount -o remount,bind,ro /
cd /
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all env -i "$@"
"""


def image_environment() -> dict[str, str]:
    """The variables of the Dockerfile, with folders of this machine in place of those of the image."""
    text = (ROOT / "infra/docker/Dockerfile").read_text().rpartition("\nFROM ")[2]
    [instruction] = re.findall(r"^ENV ((?:.*\\\n)*.*)", text, re.MULTILINE)
    found = dict(pair.partition("=")[::2] for pair in instruction.replace("\\\n", " ").split())
    del found["NATURALTONE_BUILT_CACHE"]
    found |= {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
    return found | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


@dataclass(frozen=True, kw_only=True)
class Container:
    """own: what it can write to; its processes find it at `place`, a path that all containers have. log: what they print.

    The path is the same, because a Ray node takes the path of its temporary folder from the head.
    """

    namespace: str
    own: Path
    place: Path

    @property
    def log(self) -> Path:
        return self.own / "log"

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process of our image."""
        own = image_environment() | dict(environment)
        own |= {"NATURALTONE_CACHE": f"{self.place}/cache", "TMPDIR": f"{self.place}/tmp"}
        words = [f"{name}={value}" for name, value in own.items()]
        outside = {**os.environ, "OWN": str(self.own), "PLACE": str(self.place), "PYTHON": sys.base_prefix}
        return self.start_as_root(["sh", "-c", _ENTER, "sh", *words, *command], outside)

    def start_as_root(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A server of others, which Debian or PyPI brings in place of its image."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def run(self, command: Sequence[str], environment: Mapping[str, str], *, seconds: float = 120) -> int:
        return self.start(command, environment).wait(seconds)


@contextlib.contextmanager
def containers(names: Sequence[str]) -> Iterator[dict[str, Container]]:
    """Containers that reach each other by name. The processes in them end with the context."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("setpriv"):
        pytest.skip("containers take root, ip and setpriv")
    prefix = f"naturaltone-{os.getpid()}-"
    hub = f"{prefix}hub"
    hosts = "127.0.0.1 localhost\n" + "".join(f"{_ADDRESS}.{i} {name}\n" for i, name in enumerate(names, 1))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_namespace(hub, ""))
        except subprocess.CalledProcessError:
            pytest.skip("containers take the right to make network namespaces")
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        place, made = _folder(stack), {}
        for number, name in enumerate(names, 1):
            own_folder = _folder(stack)
            for part in ("tmp", "cache", "python"):
                (own_folder / part).mkdir()
                (own_folder / part).chmod(0o1777)
            stack.enter_context(_namespace(prefix + name, hosts))
            own = ("-n", prefix + name)
            _ip(*own, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", hub)
            _ip("-n", hub, "link", "set", f"port{number}", "master", "bridge", "up")
            _ip(*own, "address", "add", f"{_ADDRESS}.{number}/24", "dev", "eth0")
            _ip(*own, "link", "set", "lo", "up")
            _ip(*own, "link", "set", "eth0", "up")
            _ip(*own, "route", "add", "default", "dev", "eth0")  # by which a program finds its own address
            made[name] = Container(namespace=prefix + name, own=own_folder, place=place)
        yield made


def _folder(stack: contextlib.ExitStack) -> Path:
    """A temporary folder. Its path is short, because the paths of Ray's sockets may have 107 bytes."""
    folder = tempfile.TemporaryDirectory(prefix="nt-", dir="/tmp", ignore_cleanup_errors=True)
    Path(folder.name).chmod(0o755)
    return Path(stack.enter_context(folder))


@contextlib.contextmanager
def _namespace(name: str, hosts: str) -> Iterator[None]:
    """A network namespace, and what its processes find in /etc: the names of the others, and no server of names."""
    _ip("netns", "add", name)
    files = Path("/etc/netns", name)
    files.mkdir(parents=True)
    (files / "hosts").write_text(hosts)
    (files / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    try:
        yield
    finally:
        _end(name)
        _ip("netns", "delete", name)
        shutil.rmtree(files)
        with contextlib.suppress(OSError):
            files.parent.rmdir()


def _end(namespace: str) -> None:
    """End all processes of the namespace, first by SIGTERM."""
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + seconds
        pids = _pids(namespace)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while _pids(namespace) and time.monotonic() < deadline:
            time.sleep(0.2)


def _pids(namespace: str) -> list[int]:
    """The processes of the namespace that have not ended."""
    printed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in printed.split()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
