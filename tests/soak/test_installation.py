"""The built wheel, in an environment of its own, works in a folder that holds packages of our folders' names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.serving.archive.report import FOLDER as REPORT
from naturaltone.serving.archive.report import JSON_LINES
from tests.processes import kill_with_children, start_until_ready

pytestmark = pytest.mark.timeout(1200)  # an environment is filled with everything that naturaltone needs

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ["pipeline", "training", "serving", "infra"]
_SERVE_SECONDS = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment in which the wheel is installed, as a user would."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    # Python compiles what it imports; pip would compile everything, for a minute.
    command = [folder / "bin" / "pip", "install", "--quiet", "--no-compile", wheel]
    subprocess.run(command, env=environment, check=True)
    return folder / "bin"


def hostile(folder: Path) -> Path:
    """A folder with packages that end every process that imports them."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('{name} of the working folder is imported')")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def own(clean_environment: dict[str, str], programs: Path) -> dict[str, str]:
    """The environment of somebody who has activated theirs."""
    variables = {name: value for name, value in clean_environment.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return variables | {"PATH": f"{programs}{os.pathsep}{variables['PATH']}"}


def test_the_wheel_holds_one_package_and_every_file_of_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"naturaltone"}
    tracked = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {f"naturaltone/{name}" for name in tracked.stdout.split()} <= set(names), "with templates and the model"


def test_no_other_name_can_be_imported(programs: Path, own: dict[str, str], tmp_path: Path) -> None:
    script = f"import naturaltone, importlib.util as u; print([n for n in {FOLDERS} if u.find_spec(n)])"
    done = subprocess.run(["python", "-c", script], cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context; what it prints is in `folder`/log."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def printed(process: subprocess.Popen[bytes], folder: Path, words: str, *, seconds: int) -> None:
    """Wait until a running process has printed `words`."""
    deadline = time.monotonic() + seconds
    while words not in (text := (folder / "log").read_text()):
        assert process.poll() is None and time.monotonic() < deadline, text
        time.sleep(0.5)


def test_python_m_runs_it_too(folder: Path, own: dict[str, str]) -> None:
    assert "naturaltone" in run(folder, own, "python", "-m", "naturaltone", "--help")


def test_ingest_train_and_enhance_by_the_trained_model(folder: Path, own: dict[str, str], photo_folder: Path) -> None:
    for role in ("input", "natural"):
        command = ("naturaltone", "ingest", str(photo_folder), "--role", role, "--to", "store", "--long-side", "128")
        run(folder, own, *command)
    run(folder, own, "naturaltone", "train", "store", "--recipe", "smoke", "--run", "first")
    # The champion, loaded from MLflow by its models-from-code script.
    run(folder, own, "naturaltone", "enhance", str(photo_folder), "enhanced")
    rows = [json.loads(line) for line in (folder / "enhanced" / REPORT / JSON_LINES).read_text().splitlines()]
    assert {row["status"] for row in rows} == {"enhanced"} and len(rows) == 24
    script = (
        "import mlflow, numpy; "
        "model = mlflow.pyfunc.load_model('models:/naturaltone@champion'); "
        "print(model.predict(numpy.zeros((1, 64, 64, 3), numpy.uint8)).shape)"
    )
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    assert "(1, 64, 64, 3)" in run(folder, own | tracking, "python", "-c", script)


def test_the_service_answers(folder: Path, own: dict[str, str], photo_folder: Path) -> None:
    address = f"http://127.0.0.1:{local.free_port()}"
    command = ["naturaltone", "serve", "--model", "pretrained", "--port", address.rpartition(":")[2]]
    with running(command, folder, own) as process:
        printed(process, folder, "serving", seconds=_SERVE_SECONDS)
        request = urllib.request.Request(
            f"{address}/v1/enhance",
            data=(photo_folder / "01.jpg").read_bytes(),
            headers={"Content-Type": "application/octet-stream"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200 and answer.read()[:2] == b"\xff\xd8"
    assert process.returncode == 0, "a signal is how a server is meant to end"


@pytest.fixture(scope="module")
def two_nodes(
    programs: Path, own: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The variables of a cluster whose head has no CPU, and whose other node works in a hostile folder of its own."""
    port = local.free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test"}
    node = ["ray", "start", "--block", "--disable-usage-stats", "--min-worker-port", "0", "--max-worker-port", "0"]
    head = [*node, "--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false"]
    other = [*node, "--address", f"127.0.0.1:{port}", "--num-cpus", "4"]
    with contextlib.ExitStack() as running:
        for number, command in enumerate((head, other)):
            cwd = hostile(tmp_path_factory.mktemp(f"node-{number}"))

            def start(command: list[str] = command, cwd: Path = cwd) -> subprocess.Popen[bytes]:
                with open(cwd / "log", "wb") as log:
                    return subprocess.Popen(command, cwd=cwd, env=own | token, stdout=log, stderr=subprocess.STDOUT)

            def is_ready(cwd: Path = cwd) -> bool:
                return "Ray runtime started" in (cwd / "log").read_text()

            running.callback(kill_with_children, start_until_ready(start, is_ready))
        yield token | {"RAY_ADDRESS": f"127.0.0.1:{port}"}


def test_a_worker_on_another_node_finds_the_installed_package(
    two_nodes: dict[str, str], folder: Path, own: dict[str, str], photo_folder: Path
) -> None:
    cluster = own | two_nodes
    run(folder, cluster, "naturaltone", "enhance", str(photo_folder), "elsewhere", "--model", "pretrained")
    run(folder, own, "naturaltone", "enhance", str(photo_folder), "here", "--model", "pretrained")
    for path in (folder / "here").rglob("*.jpg"):
        assert path.read_bytes() == (folder / "elsewhere" / path.relative_to(folder / "here")).read_bytes()
    trained = ("naturaltone", "train", str(folder / "store"), "--recipe", "smoke", "--run", "elsewhere")
    run(folder, cluster, *trained, "--workers", "1")
    shutil.rmtree(folder / "elsewhere")
