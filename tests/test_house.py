"""The house keeps its shape: imports go down one ladder, rooms stay small, every registry entry has its cases."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = [{"errors", "env", "special"}, {"spec", "kernels"}, {"core"}, {"ops"}, {"graph", "autodiff"}, {"optim", "nn", "data"}, {"plan"}, {"devices"},
          {"train", "catalogue"}, {"export"}]
SERVICE = [{"settings", "errors", "notation", "unfinished"}, {"jobs"}, {"logs", "tally"}, {"traces"}, {"store"},
           {"stream", "artifacts", "origins", "webhooks"}, {"datasets", "samples"},
           {"child", "devices", "heartbeat", "tables", "endings", "recording", "backup"}, {"rows", "kserve", "weights"},
           {"attempt", "worker", "probe", "predictor", "ask", "courier"}, {"ahead", "crew", "supervisor"}, {"routes"}, {"app", "client"}, {"cli"}]
FILES = sorted(path for folder in ("engine", "service") for path in (ROOT / folder).rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES_P95 = 300, 40
OPTIONAL = {"torch", "jax", "sklearn"}


def module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, types: bool = True) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top level; without `types` those for type hints alone are left out."""
    tree = ast.parse(path.read_text())
    if not types:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    top = {id(node) for node in tree.body} | {id(child) for node in tree.body if isinstance(node, ast.If) for child in node.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if is_module(name) else node.module, id(node) in top) for name in names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
    return found


def is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").exists()


def rung(name: str) -> tuple[str, int] | None:
    """The house and the height of a module; None for a package's own front door."""
    house, _, rest = name.partition(".")
    ladder = {"engine": ENGINE, "service": SERVICE}.get(house)
    room = rest.split(".")[0]
    if ladder is None or not room:
        return None
    heights = [height for height, rooms in enumerate(ladder) if room in rooms]
    return (house, heights[0]) if heights else (house, -1)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_module_has_a_place_on_the_ladder(path: Path) -> None:
    place = rung(module(path))
    assert place is None or place[1] >= 0, f"{module(path)} is on no rung: give it one, or put it into a room that has one"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down_the_ladder(path: Path) -> None:
    here = rung(module(path))
    if here is None:
        return
    for name, _ in imports(path):
        there = rung(name)
        if there is None:
            assert not (name == "service" and here[0] == "engine")
        elif here[0] == there[0]:
            assert there[1] <= here[1], f"{module(path)} imports {name}, which is above it"
        else:
            assert here[0] == "service", f"{module(path)} imports {name}: the engine knows nothing of the service"


def test_imports_have_no_cycles() -> None:
    graph = {module(path): {name for name, top in imports(path, types=False) if top and name != module(path)} for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"imports go round: {' -> '.join((*trail[trail.index(name):], name))}"
        if name in done or name not in graph:
            return
        for other in graph[name]:
            if not name.startswith(other + "."):     # a module may be imported by its own package's front door
                visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        if not any(path.name == "__init__.py" and module(path) == name for path in FILES):
            visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=module)
def test_rooms_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES, f"{path.name} has more than {MOST_LINES} lines: it has two ideas"


def test_functions_are_small() -> None:
    lengths = sorted(node.end_lineno - node.lineno + 1 for path in FILES for node in ast.walk(ast.parse(path.read_text()))
                     if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno)
    assert lengths[int(len(lengths) * 0.95)] <= MOST_FUNCTION_LINES_P95


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_imports_inside_functions(path: Path) -> None:
    inside = [name for name, top in imports(path) if not top and name.split(".")[0] not in OPTIONAL]
    assert not inside, f"{module(path)} imports {inside} inside a function"


def test_the_top_level_is_the_settled_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    settled = {"pyproject.toml", "README.md", "LICENSE", "service", "engine", "tests", "docker"}
    assert {name.split("/")[0] for name in listed if not name.startswith(".")} <= settled


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "misc", "manager")]
