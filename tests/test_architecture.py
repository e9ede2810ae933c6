"""The structure of the code: each room imports what its `__init__` says, and each framework stays in its edge files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["pipeline", "training", "serving", "infra"]
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
ROOMS = sorted({path.parent for path in MODULES})
FRONT = sorted((ROOT / "naturaltone").glob("*.py"))
# Other tests cover these: every command tests exit codes and arguments, test_installation.py tests `python -m`.
UNTESTED_BY_NAME = {"infra/exit_codes.py", "infra/commands/shared.py", "naturaltone/__main__.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """The modules that a file imports, also inside functions; `from m import n` counts as m and m.n."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """The room of one of our modules, such as `pipeline.photo`; None for the front, or if there is no such module."""
    path = ROOT.joinpath(*module.split(".")[1:])
    folder = path if path.is_dir() else path.parent if path.with_suffix(".py").exists() else None
    return None if folder in (None, ROOT) else ".".join(folder.relative_to(ROOT).parts)


def allowed(room: Path) -> set[str]:
    """The imports that the room's `__init__` allows."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    found = re.search(r"^May import: (.*)\.$", docstring, re.MULTILINE | re.DOTALL)
    assert found, f"{name_of(room)}/__init__.py ends with 'May import: …, ….'"
    return set(re.split(r",\s+", found[1]))


def used(room: Path) -> set[str]:
    """Our rooms and the packages of others that the room's files import."""
    names = {name for path in room.glob("*.py") for name in imported(path)}
    ours = {room_of(name) for name in names if name.startswith("naturaltone.")} - {None}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"naturaltone"}
    return {str(name) for name in ours} | others


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_a_room_imports_what_its_init_says_and_nothing_else(room: Path) -> None:
    assert used(room) - {".".join(room.relative_to(ROOT).parts)} == allowed(room)


@pytest.mark.parametrize("room", ROOMS, ids=name_of)
def test_imports_run_one_way(room: Path) -> None:
    """cli -> infra -> serving -> training -> pipeline."""
    own = LAYERS.index(room.relative_to(ROOT).parts[0])
    layers = {name.split(".")[0] for name in used(room)} & set(LAYERS)
    assert layers <= set(LAYERS[: own + 1])
    assert not any(name.startswith("naturaltone.cli") for path in room.glob("*.py") for name in imported(path))


@pytest.mark.parametrize("path", [*MODULES, *FRONT], ids=name_of)
def test_our_code_has_one_name(path: Path) -> None:
    """Ray puts the working folder first on the path, so `import training` would import a folder of the user."""
    assert not {name for name in imported(path) if name.split(".")[0] in LAYERS}


@pytest.mark.parametrize(
    ("framework", "files"),
    [
        ("mlflow", {"training/tracking.py", "training/model_registry.py", "training/recorder.py", "serving/pyfunc.py"}),
        ("ray.train", {"training/train.py"}),
        ("ray.serve", {"serving/service/app.py"}),
        ("ray.util.metrics", {"pipeline/figures.py"}),
        ("ray.data._internal", {"pipeline/handover.py"}),
        ("boto3", {"pipeline/s3.py"}),
        ("duckdb", {"serving/archive/report.py", "serving/archive/planner.py"}),
        ("jinja2", {"serving/sheet/render.py"}),
    ],
)
def test_frameworks_stay_in_their_edge_files(framework: str, files: set[str]) -> None:
    users = {
        name_of(path)
        for path in MODULES
        if any(name == framework or name.startswith(framework + ".") for name in imported(path))
    }
    assert users == files


@pytest.mark.parametrize("path", [*MODULES, *FRONT], ids=name_of)
def test_every_file_says_its_idea(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_modules_tests_are_in_its_namesake() -> None:
    """The tests of `serving/archive/plan.py` are in `tests/serving/archive/test_plan.py`."""
    untested = set()
    for path in [*MODULES, *FRONT]:
        room = path.parent.relative_to(ROOT)
        folder = ROOT / "tests" / (room if room != Path("naturaltone") else "")
        if path.name != "__init__.py" and not (folder / f"test_{path.name}").exists():
            untested.add(name_of(path))
    assert untested == UNTESTED_BY_NAME


def test_every_test_file_of_a_room_has_its_module() -> None:
    """If a module is renamed, so is its test file. The exceptions test what is no module, or several modules together."""
    orphans = {
        name_of(path)
        for layer in LAYERS
        for path in (ROOT / "tests" / layer).rglob("test_*.py")
        if path.parent.name != "page"  # whose modules are JavaScript
        if not (ROOT / path.parent.relative_to(ROOT / "tests") / path.name.removeprefix("test_")).exists()
    }
    assert orphans == {
        "tests/infra/test_cloud.py",
        "tests/infra/test_compose.py",
        "tests/infra/test_docker.py",
        "tests/infra/kubernetes/test_commands.py",
        "tests/infra/kubernetes/test_networks.py",
        "tests/infra/kubernetes/test_pods.py",
        "tests/infra/kubernetes/test_ray.py",
        "tests/infra/kubernetes/test_schemas.py",
        "tests/infra/kubernetes/test_secrets.py",
        "tests/infra/kubernetes/test_settings.py",
        "tests/infra/test_monitoring.py",
        "tests/infra/test_systemd.py",
        "tests/serving/service/test_reverse_proxy.py",
        "tests/serving/service/test_schema.py",
        "tests/serving/service/test_serving_docs.py",
        "tests/serving/test_pretrained.py",
        "tests/training/test_ddp.py",
    }


@pytest.mark.parametrize("use", ["import naturaltone", "import naturaltone.cli", "naturaltone.cli.main(['--help'])"])
def test_nothing_heavy_is_imported_before_it_is_needed(use: str) -> None:
    script = (
        "import sys\n"
        f"{'import naturaltone.cli' if 'main' in use else ''}\n"
        "try:\n"
        f"    {use}\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'mlflow', 'cv2', 'numpy', 'pyarrow', 'PIL', 'boto3', 'duckdb', 'jinja2'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
