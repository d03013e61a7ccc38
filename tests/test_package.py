"""The package as others meet it: what is mapped, what a wheel holds."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
WHOLE = "train/package"  # what stands under the name seqzoo beside the folders
LAWS = "tests/laws"  # installed as seqzoo.testing


def test_every_folder_with_code_is_in_the_package():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("models", "tasks", "train")
        for path in (ROOT / top).rglob("*.py")
    }
    named = {f"seqzoo.{folder}".replace("/", "."): folder for folder in folders - {WHOLE}}
    assert config["package-dir"] == named | {"seqzoo": WHOLE, "seqzoo.testing": LAWS}
    assert set(config["packages"]) == set(config["package-dir"])
    assert all((ROOT / folder / "__init__.py").exists() for folder in {*folders, LAWS})


def test_a_folder_is_seen_at_a_glance():
    for top in ("models", "tasks", "train"):
        for folder in {path.parent for path in (ROOT / top).rglob("*.py")}:
            assert len([*folder.glob("*.py")]) <= 22, folder


def test_the_laws_stand_on_the_models_alone():
    """They are installed without the other tests, and need no test runner."""
    known = {"flax", "jax", "jaxtyping", "numpy", "optax", "seqzoo", *sys.stdlib_module_names}
    for path in (ROOT / LAWS).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= known, path
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in known, path
                assert not node.module.startswith(("seqzoo.train", "seqzoo.tasks")), path


def test_the_package_is_a_program(tmp_path):
    inside = tmp_path / "seqzoo"
    inside.mkdir()
    for path in (
        *(ROOT / WHOLE).glob("*.py"),
        *(ROOT / top for top in ("models", "tasks", "train")),
    ):
        (inside / path.name).symlink_to(path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    call = "import seqzoo; print(seqzoo.__doc__.splitlines()[0], seqzoo.__version__)"
    said = [
        subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True).stdout
        for argv in (("-m", "seqzoo", "--version"), ("-c", call))
    ]
    version = said[0].removeprefix("seqzoo ")
    assert said[0].startswith("seqzoo 0.")
    assert said[1].startswith("A JAX/Flax NNX zoo")
    assert said[1].endswith(version)


# From the ground up: a folder may import itself and what stands on lower floors. Folders of one
# floor do not know each other.
FLOORS = {
    "train": (
        ("train",),  # config, published
        ("train/devices",),
        ("train/folder",),
        ("train/loop",),
        ("train/cost", "train/evaluation"),
        ("train/compare", "train/plan", "train/bench"),
        ("train/measured",),
        ("train/out",),
        ("train/cli",),
        ("train/cli/completion",),  # a verb that asks all others for their flags
        ("train/door",),  # what `from seqzoo.train import run` finds
        ("train/package",),  # what `import seqzoo` and `python -m seqzoo` find
    ),
    "models/ops": (
        ("models/ops/layout",),
        ("models/ops/softmax", "models/ops/matrix", "models/ops/scan"),
        ("models/ops/ssm", "models/ops/conv"),
        ("models/ops",),  # the public names
    ),
}
# What the packages may know of each other.
KNOWN = {
    "models/ops": ("seqzoo.models.ops.",),
    "models": ("seqzoo.models.",),
    "tasks": (
        "seqzoo.tasks.",
        "seqzoo.models.spec.",
        "seqzoo.models.errors.",
        "seqzoo.models.foreign.",
    ),
    "train": ("seqzoo.",),
}


def modules(root=ROOT):
    """Name -> path of every module."""
    found = {}
    for top in ("models", "tasks", "train"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(("seqzoo", *parts)).removesuffix(".__init__")] = path
    return found


def imports(path, known):
    """(name, private name or "") of each module that a file imports, late imports included.

    A text that is a module's name counts too: it is imported by that name or run as a program.
    """
    nodes, named = list(ast.walk(ast.parse(path.read_text()))), {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                named[alias.asname or alias.name] = whole
                private = alias.name if alias.name.startswith("_") else ""
                yield (whole if whole in known else node.module), private
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in known:
            yield node.value, ""
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = named.get(node.value.id)
            if module in known and node.attr.startswith("_"):
                yield module, node.attr


def faults(root=ROOT):
    """What breaks the directions of docs/design.md."""
    known = modules(root)
    folder = {name: path.parent.relative_to(root).as_posix() for name, path in known.items()}
    floor = {f: (top, i) for top, fs in FLOORS.items() for i, row in enumerate(fs) for f in row}
    graph = {}
    for name, path in known.items():
        here = folder[name]
        top = next(top for top in KNOWN if f"{here}/".startswith(f"{top}/"))
        for other, private in imports(path, known):
            if other == name or other not in known:
                continue
            there = folder[other]
            graph.setdefault(name, set()).add(other)
            if not f"{other}.".startswith(KNOWN[top]):
                yield f"{name} -> {other}: {top} knows only {', '.join(KNOWN[top])}"
            if here != there and here in floor and there in floor:
                (house, own), (same, below) = floor[here], floor[there]
                if house == same and below >= own:
                    yield f"{name} -> {other}: {there} is not below {here}"
            if private:
                yield f"{name} -> {other}: {private} is private"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"a circle: {' <- '.join(error.args[1])}"


def test_imports_go_down_only():
    assert list(faults()) == []


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("train/loop/a.py", "from seqzoo.train.cli import b", "train/cli is not below train/loop"),
        ("train/plan/a.py", "def f():\n    import seqzoo.train.compare.b", "not below train/plan"),
        ("train/plan/a.py", "RUN = 'seqzoo.train.cli.b'", "train/cli is not below train/plan"),
        ("train/cli/a.py", "from seqzoo.train.loop.b import _c", "_c is private"),
        ("train/cli/a.py", "from seqzoo.train.loop import b\nb._c()", "_c is private"),
        ("train/cli/a.py", "from seqzoo.train.cli.b import c", "a circle"),
        ("tasks/a.py", "from seqzoo.models.b import c", "tasks knows only seqzoo.tasks"),
        ("models/ops/scan/a.py", "import seqzoo.models.b", "models/ops knows only"),
        ("models/ops/scan/a.py", "from seqzoo.models.ops.ssm import b", "models/ops/ssm is not"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, path, text, says):
    others = ["train/cli", "train/loop", "train/compare", "models", "models/ops/ssm"]
    for name in (path, *(f"{folder}/b.py" for folder in others)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "train/cli/b.py").write_text("from seqzoo.train.cli import a\n")
    assert list(faults(tmp_path)) == []
    (tmp_path / path).write_text(text)
    assert any(says in fault for fault in faults(tmp_path)), list(faults(tmp_path))
