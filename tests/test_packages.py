"""The three packages: where they lie, how their arrows point, what importing the model brings."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("trbert", "envs", "tune")


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def top_level_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_the_one_in_this_checkout(package):
    assert Path(importlib.import_module(package).__file__) == ROOT / package / "__init__.py"


def loaded_by(statement):
    """Returns the libraries that a statement has loaded in a process of its own."""
    script = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_trbert_is_light():
    found = loaded_by("import trbert")
    assert found.isdisjoint({"torch", "transformers", "numpy", "ray", "gymnasium", "datasets"})


FOLDERS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_package_imports_alone(folder):
    loaded_by(f"import {'.'.join(folder.relative_to(ROOT).parts)}")


def test_every_folder_of_modules_is_a_package():
    for package in PACKAGES:
        assert {path.parent for path in modules(package)} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_holds_at_most_fifteen_files(folder):
    # A folder is one idea. One that grows beyond this holds two.
    files = [path.name for path in folder.iterdir() if path.is_file()]
    assert len(files) <= 15, f"find the second idea in {folder.relative_to(ROOT)}/: {sorted(files)}"


@pytest.mark.slow
def test_importing_all_of_trbert_needs_neither_ray_nor_gymnasium():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules("trbert")]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(("__main__", ".serve"))]
    script = (
        "import importlib, sys; sys.modules.update(ray=None, gymnasium=None); "
        f"[importlib.import_module(name) for name in {names}]"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_of_tune_hides_another_library():
    # `python tune/search.py` puts tune/ first on sys.path: tune/types.py would be everyone's `types`.
    taken = (sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()) - set(PACKAGES)
    names = {path.stem if path.is_file() else path.name for path in (ROOT / "tune").iterdir()} - {"__init__"}
    assert names.isdisjoint(taken), f"rename {sorted(names & taken)} in tune/"


@pytest.mark.parametrize("package", ["trbert", "envs"])
def test_ray_is_known_in_tune_alone(package):
    knowing = [path.name for path in modules(package) if "ray" in top_level_imports(path) and path.name != "serve.py"]
    assert knowing == []


def test_the_import_contracts_hold(monkeypatch):
    importlinter = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(ROOT)
    assert importlinter.lint_imports(no_cache=True) == importlinter.EXIT_STATUS_SUCCESS


def test_the_wheel_is_the_model_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["trbert"]
    assert (ROOT / "trbert" / "py.typed").exists()
    core = {re.match(r"[\w-]+", dependency)[0] for dependency in project["project"]["dependencies"]}
    assert core >= {"torch", "transformers"}
    assert core.isdisjoint({"ray", "gymnasium", "datasets", "optuna"})


def test_shapes_are_checked_in_this_run():
    # Without the import hook of pyproject.toml, every jaxtyping annotation would be a comment.
    assert any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path)
