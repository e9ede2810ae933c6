"""The shape of the code base: imports run one way, frameworks stay in their edge files, start-up stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["pipeline", "training", "serving", "infra"]
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """cli -> infra -> serving -> training -> pipeline."""
    above = [*LAYERS[LAYERS.index(path.relative_to(ROOT).parts[0]) + 1 :], "cli"]
    names = imported(path)
    assert not {name for name in names if name.split(".")[:2] in [["naturaltone", layer] for layer in above]}
    assert not {name for name in names if name.split(".")[0] in LAYERS}, "all code has one name, naturaltone.…"


@pytest.mark.parametrize(
    ("framework", "files"),
    [
        ("PIL", {"pipeline/photo"}),
        ("mlflow", {"training/tracking.py", "serving/pyfunc.py"}),
        ("ray.train", {"training/train.py"}),
        ("ray.serve", {"serving/service/app.py"}),
        ("boto3", {"pipeline/s3.py"}),
    ],
)
def test_frameworks_stay_in_their_edge_files(framework: str, files: set[str]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name == framework or name.startswith(framework + ".") for name in imported(path))
    }
    outside = {user for user in users if not any(Path(user).is_relative_to(file) for file in files)}
    assert users and not outside


def test_the_pipeline_knows_no_networks() -> None:
    assert not any("torch" in imported(path) for path in MODULES if path.is_relative_to(ROOT / "pipeline"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_its_idea(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("use", ["import naturaltone", "import naturaltone.cli", "naturaltone.cli.main(['--help'])"])
def test_nothing_heavy_is_imported_before_it_is_needed(use: str) -> None:
    script = (
        "import sys\n"
        f"{'import naturaltone.cli' if 'main' in use else ''}\n"
        "try:\n"
        f"    {use}\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'mlflow', 'cv2', 'numpy', 'pyarrow', 'PIL', 'boto3'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
