"""The rules on who imports whom and who reads the environment, so that the layout stays true."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [name for name in ("handler", "vllm_service", "runpod_emulator") if (ROOT / name).is_dir()]
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 350, 50

# Who alone may import a library: paths, or folders, relative to the repository.
ONLY_HERE = {
    # cpu_lora is loaded by vLLM itself, by its name, in the engine's process.
    "vllm": ("handler/engine/vllm_parts.py", "handler/engine/vllm_serve.py", "handler/engine/cpu_lora.py"),
    "runpod": ("handler/queue/runpod_sdk.py",),
    "fastapi": (
        "vllm_service/api/",
        "vllm_service/server/dispatch.py",
        "runpod_emulator/",
        "handler/engine/vllm_parts.py",
    ),
    "huggingface_hub": (
        "handler/model_cache/hub.py",
        "handler/model_cache/hub_errors.py",
        "vllm_service/deployment/hub.py",
    ),
    "sqlite3": ("vllm_service/storage/",),
    "psycopg": ("vllm_service/storage/",),
    "asyncpg": ("vllm_service/storage/",),
    "aiosqlite": ("vllm_service/storage/",),
    "redis": ("vllm_service/storage/",),
}
# The rooms of a package, a folder or a module each, from the roof down. A room imports only from rows below its own.
ROOMS = {
    "handler": (
        ("__main__",),
        ("http", "local", "queue"),
        ("dispatch", "watchdog", "door"),
        ("jobs", "streaming"),
        ("engine",),
        ("start", "guided_decoding"),
        ("model_cache", "settings", "outputs", "metrics", "logs"),
        ("variables", "volume", "request_limits"),
        ("errors", "line_writer"),
    ),
    "vllm_service": (
        ("__main__",),
        ("cli",),
        ("server",),
        ("api",),
        ("client",),
        ("gateway",),
        ("autoscaling",),
        ("deployment",),
        ("simulation",),
        ("resilience",),
        ("runpod",),
        ("http",),
        ("observability",),
        ("routing",),
        ("catalog",),
        ("accounting",),
        ("storage",),
        ("settings", "logs", "data"),
        ("domain", "errors", "version", "testing"),
    ),
    "runpod_emulator": (
        ("__main__",),
        ("emulator",),
        ("api", "hosted"),
        ("account",),
        ("balancer",),
        ("workers",),
        ("endpoint",),
        ("jobs", "billing"),
        ("http", "settings", "signals"),
        ("errors", "line_writer"),
    ),
}
# Within a package, beside its rooms: what lives here imports nothing of what is named there.
FORBIDDEN = {
    "handler/streaming.py": ("handler.engine", "handler.settings"),
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Every module that is imported anywhere, also inside functions, with its statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def is_part_of(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_the_three_packages_never_import_one_another(path: Path) -> None:
    own = relative(path).partition("/")[0]
    others = [
        package for package in ("handler", "vllm_service", "runpod_emulator", "tests", "scripts") if package != own
    ]
    assert [module for module, _ in imports(tree_of(path)) for other in others if is_part_of(module, other)] == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    wrong = [
        module
        for module, _ in imports(tree_of(path))
        for library, places in ONLY_HERE.items()
        if is_part_of(module, library) and not relative(path).startswith(places)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_layers_import_downwards_only(path: Path) -> None:
    wrong = [
        module
        for module, _ in imports(tree_of(path))
        for place, forbidden in FORBIDDEN.items()
        for name in forbidden
        if relative(path).startswith(place) and is_part_of(module, name)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_its_row(package: str) -> None:
    there = {room_of(module) for module in modules_of(package)} - {""}
    assert sorted(room for row in ROOMS[package] for room in row) == sorted(there)


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_from_the_rows_below_its_own(package: str) -> None:
    row_of = {room: number for number, row in enumerate(ROOMS[package]) for room in row}
    wrong = [
        f"{module} imports {imported}"
        for module, all_imported in imports_within(package).items()
        for imported in sorted(all_imported)
        if room_of(module) and room_of(imported) not in ("", room_of(module))
        if row_of[room_of(imported)] <= row_of[room_of(module)]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_no_files_import_one_another_in_a_circle(package: str) -> None:
    assert circle(imports_within(package)) == []


def modules_of(package: str) -> dict[str, Path]:
    """Every module by its full name; a package's `__init__` by the package's."""
    paths = [path for path in SOURCES if relative(path).startswith(f"{package}/")]
    return {relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in paths}


def room_of(module: str) -> str:
    """The folder or module below the package; an empty string for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imports_within(package: str) -> dict[str, set[str]]:
    """Which modules of the package each of its modules imports, inside functions and for type checking too."""
    modules = modules_of(package)
    return {
        module: {
            imported
            for imported, statement in imports(tree_of(path))
            if imported in modules and not names_modules_only(imported, statement, modules)
        }
        - {module}
        for module, path in modules.items()
    }


def names_modules_only(imported: str, statement: ast.stmt, modules: dict[str, Path]) -> bool:
    """Whether `from imported import ...` takes nothing from the package's own file."""
    if not isinstance(statement, ast.ImportFrom) or statement.module != imported:
        return False
    return all(f"{imported}.{alias.name}" in modules for alias in statement.names)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of modules, its first again at its end; empty where there is none."""
    finished: set[str] = set()
    trail: list[str] = []

    def visit(module: str) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return []
        trail.append(module)
        found = next((found for imported in sorted(graph[module]) if (found := visit(imported))), [])
        trail.pop()
        finished.add(module)
        return found

    return next((found for module in sorted(graph) if (found := visit(module))), [])


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, []),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
    ],
)
def test_a_circle_is_found(graph: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(graph) == expected


@pytest.mark.parametrize("library", ["vllm", "runpod"])
def test_heavy_libraries_are_imported_inside_functions(library: str) -> None:
    path = ROOT / ONLY_HERE[library][0]
    statements = [node for module, node in imports(tree_of(path)) if is_part_of(module, library)]
    assert statements, f"{path} no longer imports {library}: has the rule moved?"
    assert [node.lineno for node in statements if node in tree_of(path).body] == []


def test_what_vllm_loads_by_its_name_is_imported_by_no_other_module() -> None:
    """It imports vLLM at once, which takes seconds."""
    assert [module for module, names in imports_within("handler").items() if "handler.engine.cpu_lora" in names] == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_settings_touches_the_environment(path: Path) -> None:
    if path.name == "settings.py":
        return
    touched = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
    ]
    assert touched == []


@pytest.mark.parametrize("path", [path for path in SOURCES if "vllm_service" in relative(path)], ids=relative)
def test_http_exceptions_are_raised_nowhere(path: Path) -> None:
    assert "HTTPException" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_opens_with_what_lives_in_it_and_stays_readable(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the first line says what lives here"
    assert path.read_text(encoding="utf-8").count("\n") <= LONGEST_FILE
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert long == []


def test_no_package_registry_is_named() -> None:
    """Where packages come from is pip's configuration; only PyTorch's own index of CPU builds is named."""
    hosts = (b"pypi" + b".org", b"pythonhosted" + b".org", b"registry.npmjs" + b".org")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.splitlines()]
    named = [
        relative(path) for path in files if ".venv" not in path.parts for host in hosts if host in path.read_bytes()
    ]
    assert named == []
