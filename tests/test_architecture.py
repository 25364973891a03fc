"""The imports between packages point one way, and the leaf of the graph is light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sweeps", "trainables", "moe_models", "analysis")
ALLOWED = {
    "moe_models": set(),
    "analysis": set(),
    "trainables": {"moe_models", "analysis.schema"},
    "sweeps": {"trainables", "moe_models", "analysis"},
}
FORBIDDEN_LIBRARIES = {
    "moe_models": {"ray", "mlflow", "pandas", "scipy", "optuna", "datasets", "transformers"},
    "analysis": {"ray", "torch", "optuna", "datasets", "transformers"},
    "trainables": {"mlflow", "pandas", "scipy", "transformers"},
    "sweeps": {"transformers"},
}
LAYERS = (
    {"__init__", "schema", "errors", "text", "terminal", "help_page"},
    {"csv_file", "tuning_records", "statistics", "published"},
    {"study"},
    {"comparing"},
    {"factors", "audits", "table_audit"},
    {"tracking"},
    {"loading", "summary"},
    {"seeds", "sync"},
    {"figures"},
    {"reporting"},
    {"tuning", "__main__"},
)
"""The parts of `analysis`: each imports from those above it in this list alone."""
TOP_LEVEL = {
    "sweeps", "moe_models", "trainables", "analysis", "tests", "benchmarks", "docs", "pyproject.toml",
    "constraints.txt", "README.md",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Return every module a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for module in imports(path):
            root = module.split(".")[0]
            if root in PACKAGES and root != package:
                allowed = ALLOWED[package]
                by_schema = module == "analysis" or module.startswith("analysis.schema")
                assert root in allowed or ("analysis.schema" in allowed and by_schema), f"{path} imports {module}"
            assert root not in FORBIDDEN_LIBRARIES[package], f"{path} imports {module}"


def test_the_parts_of_the_analysis_stand_in_layers() -> None:
    home = ROOT / "analysis"
    layer = {part: place for place, parts in enumerate(LAYERS) for part in parts}
    assert set(layer) == {
        path.stem for path in home.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    for path in home.rglob("*.py"):
        part = path.relative_to(home).with_suffix("").parts[0]
        for module in imports(path):
            other = module.split(".")[1] if module.startswith("analysis.") else part
            assert other == part or layer[other] < layer[part], f"{path} imports {module}"


def test_no_files_import_each_other_in_a_circle() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    name = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files}
    known = set(name.values())

    def imported(path: Path) -> set[str]:
        """Return the files that a file imports; the face of a package only where a name of its own is taken."""
        found = imports(path) & known
        return {it for it in found if not any(other.rpartition(".")[0] == it for other in found)} - {name[path]}

    graph = {name[path]: imported(path) for path in files}
    graphlib.TopologicalSorter(graph).prepare()  # else CycleError names the circle


def test_models_know_torch_alone() -> None:
    known = {"torch", "moe_models", *sys.stdlib_module_names}
    for path in (ROOT / "moe_models").rglob("*.py"):
        assert {module.split(".")[0] for module in imports(path)} <= known, path


@pytest.mark.parametrize("module", ["analysis.schema", "analysis.__main__", "sweeps.__main__", "sweeps.tune"])
def test_what_is_loaded_first_loads_nothing_slow(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('numpy', 'pandas', 'scipy', 'torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_top_level_is_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0 or not tracked.stdout:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
