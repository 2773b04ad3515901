"""The arrows of the house: who may import whom, and what stays out of a light start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSES = ("sim", "workloads", "parity", "backends", "experiments")
GROUND_FLOOR = {"sim.kinds", "sim.errors", "sim.files", "sim.atomic"}
ALLOWED: dict[str, set[str]] = {
    "sim": set(),
    "workloads": GROUND_FLOOR | {"sim.recorded", "sim.distributions", "sim.schedule"},
    "parity": GROUND_FLOOR | {"sim.code"},
    "backends": {"parity", "sim"},
    "experiments": set(HOUSES),
}


def imports(file: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("house", HOUSES)
def test_imports_run_one_way(house: str) -> None:
    files = sorted((ROOT / house).rglob("*.py"))
    assert files
    for file in files:
        for module in imports(file):
            top = module.split(".")[0]
            if top in HOUSES and top != house:
                prefixes = {".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)}
                assert prefixes & ALLOWED[house], f"{file.relative_to(ROOT)} imports {module}"
            if house == "sim":
                assert top not in {"torch", "torchvision", "pandas", "matplotlib"}, file


@pytest.mark.parametrize(
    "modules",
    [
        "sim.simulation",
        "workloads.datasets, workloads.arrivals",
        "parity.codes, parity.networks",
        "experiments.config.schema",
    ],
)
def test_the_schema_and_the_simulator_start_without_torch(modules: str) -> None:
    program = (
        f"import sys, {modules}; print(sorted({{'torch', 'torchvision', 'matplotlib', 'pandas'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_over_600_lines() -> None:
    for house in HOUSES:
        for file in (ROOT / house).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 600, (
                f"{file.relative_to(ROOT)} is over 600 lines"
            )


def import_graph() -> dict[str, set[str]]:
    """The modules that each module of ours imports anywhere in its file, for types or inside functions too."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for house in HOUSES
        for file in (ROOT / house).rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {one if one in files else node.module for one in whole}
        graph[module] = named & files.keys() - {module}
    return graph


def test_imports_make_no_cycle() -> None:
    graph = import_graph()
    assert len(graph) > 100
    while free := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in free}
    while top := graph.keys() - set().union(*graph.values()):  # imports a cycle, but is in none
        graph = {module: needs for module, needs in graph.items() if module not in top}
    assert not graph


STOREYS = (
    {"analysis"}, {"figures"}, {"config"}, {"run"}, {"accuracy", "calibration", "capacity", "validation", "api"},
    {"commands"}, {"cli"},
)  # fmt: skip
"""The rooms of experiments/ from the lowest to the highest: a module imports from its own room or from lower ones."""


def test_the_rooms_of_experiments_import_downwards_only() -> None:
    storey = {room: height for height, rooms in enumerate(STOREYS) for room in rooms}
    for module, needs in import_graph().items():
        for other in needs:
            if module.startswith("experiments.") and other.startswith("experiments."):
                mine, theirs = module.split(".")[1], other.split(".")[1]
                assert mine == theirs or storey[theirs] < storey[mine], f"{module} imports {other}"


def test_experiments_has_few_entries() -> None:
    entries = {path.name for path in (ROOT / "experiments").iterdir() if path.suffix not in (".yaml", ".typed")}
    assert len(entries - {"__pycache__", "__init__.py"}) <= 12, sorted(entries)
