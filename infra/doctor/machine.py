"""Checks this machine: versions, GPU, codecs, memory, disks and ports."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import psutil

from naturaltone import __version__
from naturaltone.infra.doctor.finding import Finding, failure, ok, warning
from naturaltone.infra.local import check_port
from naturaltone.pipeline import caches
from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import CONVERTIBLE, convert, encode
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.serving import room

GIB = 2**30
LEAST_MEMORY, _GOOD_MEMORY = 4 * GIB, 8 * GIB
LEAST_DISK, _GOOD_DISK = GIB, 10 * GIB
_FULL = 0.95  # Ray starts no task where more of the disk is used
_OBJECT_STORE = 0.3  # of the memory: what Ray wants in /dev/shm
_DRIVER = Path("/proc/driver/nvidia/version")
_SERVICE_PORT, _METRICS_PORT = 8000, 9464


def versions() -> dict[str, str]:
    """The versions that all machines of a cluster must share."""
    return {
        "naturaltone": __version__,
        "Python": platform.python_version(),
        "torch": version("torch"),
        "Ray": version("ray"),
    }


def check_machine() -> Iterator[Finding]:
    """Check everything that needs no server."""
    yield ok("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    yield check_gpu()
    yield check_codecs()
    yield check_heic()
    yield check_exiftool()
    yield check_memory(room.memory(), room.total_slots())
    yield check_shared_memory(Path("/dev/shm"), room.memory())
    yield check_folder("disk of TMPDIR", Path(tempfile.gettempdir()), "TMPDIR")
    yield check_folder("disk of the cache", caches.cache_folder(""), caches.VARIABLE)
    yield check_free_port("port of the service", _SERVICE_PORT, "serve --port")
    yield check_free_port("port of the metrics", _METRICS_PORT, "serve --metrics")


def check_gpu(driver: Path = _DRIVER) -> Finding:
    """Check whether torch can use the GPUs that the driver has. driver: the file in which the driver says its version."""
    import torch

    name = f"torch {torch.__version__}"
    if count := torch.cuda.device_count():
        found = f"{count} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ok("GPU", f"{found}, bf16")
        return warning("GPU", f"{found}, without bf16", "training uses fp32 and takes about twice as long")
    if not driver.exists():
        return warning(
            "GPU",
            "no driver of a GPU",
            "the CPU enhances photos well, but trains a full recipe for days; in a container, pass the GPU on (--gpus all)",
        )
    number = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", driver.read_text())
    found = f"driver {number[0] if number else 'of unknown version'}, but {name} cannot use the GPU"
    if torch.version.cuda is None:
        return failure("GPU", found, "this torch is built for the CPU alone; install a build with CUDA")
    return failure("GPU", found, f"install a driver that knows CUDA {torch.version.cuda}, or an older torch")


def check_codecs() -> Finding:
    """Write a small picture in each format that naturaltone writes, and read it again."""
    pixels = np.linspace(0, 255, 3 * 32 * 48, dtype=np.uint8).reshape(32, 48, 3)
    broken = []
    for format in (*CONVERTIBLE, "TIFF"):
        try:
            photo = decode(cv2.imencode(".tiff" if format == "TIFF" else ".png", pixels)[1].tobytes())
            data = encode(photo, photo.pixels) if format == "TIFF" else convert(photo, photo.pixels, format=format)
            if decode(data).pixels.shape != pixels.shape:
                broken.append(format)
        except Exception as error:  # a codec that is missing or damaged fails in its own way
            broken.append(f"{format} ({type(error).__name__}: {first_line(error)})")
    if broken:
        return failure("codecs", f"cannot write and read {', '.join(broken)}", "install Pillow's wheel again from PyPI")
    return ok("codecs", f"{', '.join((*CONVERTIBLE, 'TIFF'))} written and read")


def check_heic(has_heif: bool = HAS_HEIF) -> Finding:
    if has_heif:
        return ok("HEIC", "can be read and written")
    return warning("HEIC", "can be neither read nor written", "`pip install 'naturaltone[heif]'`")


def check_exiftool() -> Finding:
    found = shutil.which("exiftool")
    if found:
        return ok("ExifTool", found)
    return warning(
        "ExifTool",
        "not found",
        "naturaltone does not need it; you need it to compare metadata yourself (libimage-exiftool-perl)",
    )


def check_memory(total: int, slots: int) -> Finding:
    """total: bytes of this machine or its container. slots: photos of 16 MP that it enhances at once at most."""
    free = psutil.virtual_memory().available
    found = f"{total / GIB:.1f} GiB, room to enhance {slots} photos of 16 MP at once; {free / GIB:.1f} GiB free"
    if total < LEAST_MEMORY:
        return failure(
            "memory", found, f"Ray and one photo need {LEAST_MEMORY / GIB:.0f} GiB; raise the container's limit"
        )
    if total < _GOOD_MEMORY:
        return warning("memory", found, f"training and large photos need {_GOOD_MEMORY / GIB:.0f} GiB")
    return ok("memory", found)


def check_shared_memory(folder: Path, memory: int) -> Finding:
    """folder: where Ray keeps its objects. memory: bytes of the machine."""
    wanted = memory * _OBJECT_STORE
    try:
        size = shutil.disk_usage(folder).total
    except OSError:
        return warning("shared memory", f"no {folder}", "Ray keeps its objects on the disk, which is slow; mount it")
    found = f"{folder} has {size / GIB:.1f} GiB"
    if size < wanted * 0.9:
        return warning(
            "shared memory",
            found,
            f"Ray wants {wanted / GIB:.1f} GiB, and else uses the slow disk; give the container "
            f"--shm-size={wanted / GIB:.0f}g, or mount an emptyDir of medium Memory there",
        )
    return ok("shared memory", found)


def check_folder(check: str, folder: Path, variable: str) -> Finding:
    """Check that a folder can be written and has room. variable: the one that chooses another folder."""
    try:
        probe = folder / f"naturaltone-doctor-{uuid.uuid4().hex[:8]}"
        with contextlib.ExitStack() as stack:
            stack.callback(probe.unlink, missing_ok=True)
            probe.write_bytes(b"doctor")
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return failure(
            check, f"'{folder}' cannot be written ({error.strerror})", f"set {variable} to a folder that can be"
        )
    used = 1 - usage.free / usage.total
    found = f"'{folder}' has {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    remedy = f"free some space, or set {variable} to a folder on another disk"
    if usage.free < LEAST_DISK:
        return failure(check, found, remedy)
    if used > _FULL:
        return failure(check, f"{found}; Ray starts no task above {_FULL:.0%}", remedy)
    if usage.free < _GOOD_DISK:
        return warning(check, found, remedy)
    return ok(check, found)


def check_free_port(check: str, port: int, option: str) -> Finding:
    try:
        check_port("127.0.0.1", port)
    except UserError:
        return warning(check, f"{port} is taken{_by_whom(port)}", f"stop that program, or give `{option}` another port")
    return ok(check, f"{port} is free")


def _by_whom(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid and each.pid != os.getpid():
                return f" by process {each.pid} ({psutil.Process(each.pid).name()})"
    return ""
