"""Imports go one way, and the heavy libraries stay out of the light path."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blender_med

PACKAGE = Path(blender_med.__file__).parent

# A module may import from its own layer and from the layers before it. Packages of one layer
# do not import each other.
LAYERS = [
    {"errors", "records"},
    {"config", "registry", "batching", "models", "packed"},
    {"recipes_folder"},
    {"store", "prompts", "metrics"},
    {"data"},
    {"experts", "rankers", "fusers"},
    {"training", "blender"},
    {"stages"},
    {"executors"},
    {"reports"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PEERS_MAY_IMPORT = {("records", "errors"), ("config", "registry"), ("registry", "config")}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "blender_med":
                found |= {f"blender_med.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("blender_med.")}


def _edges() -> list[tuple[Path, str, str]]:
    edges = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in _imports(path):
            target = name.split(".")[1]
            if target in LEVEL and target != parts[0]:
                edges.append((path, parts[0], target))
    return edges


def test_every_module_has_a_layer() -> None:
    tops = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()
    }
    assert tops - {"__init__"} == set(LEVEL)


def test_imports_go_one_way() -> None:
    edges = _edges()
    assert len(edges) > 50
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path, source, target in edges
        if LEVEL[target] > LEVEL[source]
        or (LEVEL[target] == LEVEL[source] and (source, target) not in PEERS_MAY_IMPORT)
    ]
    assert not wrong


HEAVY = (
    "torch", "transformers", "vllm", "ray", "datasets", "pyarrow", "scipy", "sklearn", "altair",
    "vl_convert",
)  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import blender_med",
        "import blender_med.cli.app",
        "import blender_med.stages.config, blender_med.experts.loading",
        "import sys; sys.argv = ['x', '--help']; from blender_med.cli import app; app.run_app()",
    ],
)
def test_light_path_loads_nothing_heavy(code: str) -> None:
    script = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_recipe_folders_hold_no_python() -> None:
    root = PACKAGE.parent
    folders = [root / f for f in ("pipelines", "experts", "rankers", "fusers", "data")]
    assert not [p for folder in folders for p in folder.rglob("*.py")]
