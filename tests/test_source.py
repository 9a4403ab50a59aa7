"""The house rules, held by reading the source with `ast`."""

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import distdqn
from distdqn.config.command_line import flag, prints_run_help
from distdqn.config.config import HEADINGS, Config

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "distdqn").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
ALL_FILES = PACKAGE + TESTS + BENCHMARKS

ARRAY_TYPES = {"FloatArray", "AnyArray", "IntArray", "BoolArray", "ItemIds", "Tensor", "ndarray", "NDArray"}
TOP_LEVEL = {"pyproject.toml", "distdqn", "tests", "benchmarks", "docs", "cluster.yaml", "README.md"}
TOP_LEVEL |= {"LICENSE", "CHANGELOG.md"}
NEW_RANDOM_API = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Every node of the parsed file."""
    return list(ast.walk(tree_of(path)))


def where(path: Path, node: ast.AST, text: str = "") -> str:
    """A place in the source, to be shown when a rule is broken."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {text}".strip()


def functions_of(path: Path) -> Iterator[Function]:
    """Every function, method and function within a function."""
    for node in nodes_of(path):
        if isinstance(node, Function):
            yield node


def public_definitions(path: Path) -> Iterator[tuple[str, ast.ClassDef | Function, ast.ClassDef | None]]:
    """Public functions, classes and methods of public classes, each with its class.

    Overrides are left out: the docstring stands with what they override.
    """
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, Function) and is_documented_here(inner):
                        yield f"{node.name}.{inner.name}", inner, node


def is_documented_here(method: Function) -> bool:
    """Whether a method is public and overrides none, where its docstring would stand."""
    is_override = any(isinstance(each, ast.Name) and each.id == "override" for each in method.decorator_list)
    return not method.name.startswith("_") and not is_override


def bound_names(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every name that a file binds: variables, attributes, arguments, functions, imports."""
    for node in nodes_of(path):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node, name
            case ast.ClassDef(name=name):
                yield node, name
            case ast.alias(name=name, asname=other):
                yield node, other or name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node, name
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node, name


def dotted(node: ast.AST) -> str:
    """`np.random.rand` for that chain of attributes; empty for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = [
        where(path, function, f"{function.name}: {length} lines")
        for path in ALL_FILES
        for function in functions_of(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > 60
    ]

    assert long == []


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ALL_FILES}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_function_of_the_package_is_annotated() -> None:
    bare = []
    for path in PACKAGE:
        for function in functions_of(path):
            own = function.args
            arguments = [*own.posonlyargs, *own.args, *own.kwonlyargs]
            arguments += [argument for argument in (own.vararg, own.kwarg) if argument]
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if missing or function.returns is None:
                bare.append(where(path, function, f"{function.name} {missing}"))

    assert bare == []


def test_every_public_definition_has_a_docstring() -> None:
    bare = [
        where(path, node, name)
        for path in PACKAGE
        for name, node, _ in public_definitions(path)
        if not ast.get_docstring(node)
    ]
    bare += [where(path, ast.Pass()) for path in PACKAGE if not ast.get_docstring(tree_of(path))]

    assert bare == []


def test_docstrings_give_the_shape_of_every_array_argument() -> None:
    silent = []
    for path in PACKAGE:
        for name, node, owner in public_definitions(path):
            if isinstance(node, ast.ClassDef):
                continue
            own = node.args
            annotations = [
                a.annotation for a in (*own.posonlyargs, *own.args, *own.kwonlyargs) if a.annotation
            ]
            named = {
                inner.id if isinstance(inner, ast.Name) else inner.attr
                for annotation in annotations
                for inner in ast.walk(annotation)
                if isinstance(inner, ast.Name | ast.Attribute)
            }
            texts = [ast.get_docstring(node) or "", (ast.get_docstring(owner) or "") if owner else ""]
            if named & ARRAY_TYPES and not re.search(r"`?\[[A-Z.*][^\]]*\]", " ".join(texts)):
                silent.append(where(path, node, name))

    assert silent == []


def test_forbidden_names_are_bound_nowhere() -> None:
    wrong = [
        where(path, node, name)
        for path in ALL_FILES
        for node, name in bound_names(path)
        if name in ("done", "gamma") or "freq" in name.lower()
    ]

    assert wrong == []


def test_no_module_is_called_utils() -> None:
    assert [str(path) for path in ALL_FILES if "utils" in path.with_suffix("").parts] == []


def test_global_random_functions_of_numpy_are_called_nowhere() -> None:
    wrong = []
    for path in ALL_FILES:
        for node in nodes_of(path):
            match dotted(node).split("."):
                case ["np" | "numpy", "random", name] if name not in NEW_RANDOM_API:
                    wrong.append(where(path, node, name))
            if isinstance(node, ast.ImportFrom) and node.module == "numpy.random":
                wrong += [where(path, node, a.name) for a in node.names if a.name not in NEW_RANDOM_API]

    assert wrong == []


def test_predict_of_keras_is_called_nowhere() -> None:
    wrong = [
        where(path, node)
        for path in ALL_FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("predict", "predict_on_batch")
    ]

    assert wrong == []


def test_every_option_is_read_somewhere_in_the_package() -> None:
    read = {
        node.attr
        for path in PACKAGE
        if path.parent.name != "config"
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        if dotted(node.value).split(".")[-1] in ("config", "_config", "options", "_options")
    }

    assert set(Config.model_fields) - read == set()


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_option_stands_in_the_help_on_its_group(
    heading: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    prints_run_help(["--help", heading])
    flags = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))

    names = [name for name in Config.model_fields if Config.heading_of(name) == heading]
    assert names
    assert [name for name in names if flag(name) not in flags] == []


def test_every_option_stands_in_the_page_about_options() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")

    assert [name for name in Config.model_fields if f"\n| `{flag(name)}` |" not in page] == []


def test_names_for_everyone_are_the_public_names_of_the_package() -> None:
    tree = tree_of(ROOT / "distdqn" / "__init__.py")
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distdqn.")
        for alias in node.names
    }

    assert sorted(distdqn.__all__) == list(distdqn.__all__)
    assert set(distdqn.__all__) == typed
    assert set(distdqn._HOMES) <= typed
    for name in distdqn.__all__:
        assert getattr(distdqn, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        distdqn.no_such_name  # noqa: B018


def test_every_test_is_named_by_a_sentence() -> None:
    short = [
        where(path, function, function.name)
        for path in TESTS
        for function in functions_of(path)
        if function.name.startswith("test_") and len(function.name.removeprefix("test_").split("_")) < 4
    ]

    assert short == []


def test_top_level_holds_only_what_was_agreed() -> None:
    if (ROOT / ".git").exists():
        listing = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    else:
        listing = [path.name for path in ROOT.iterdir()]
    entries = {line.split("/")[0] for line in listing}

    assert {entry for entry in entries if not entry.startswith(".")} - TOP_LEVEL == set()
