"""The package as others meet it: what is mapped, what a wheel holds."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def test_every_folder_with_code_is_in_the_package():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        "seqzoo." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("models", "tasks", "train")
        for path in (ROOT / top).rglob("*.py")
    }
    assert set(config["packages"]) == folders
    assert set(config["package-dir"]) == folders
    for name, folder in config["package-dir"].items():
        assert name == "seqzoo." + folder.replace("/", ".")
        assert (ROOT / folder / "__init__.py").exists()


def test_dependencies_point_one_way():
    """train -> tasks, models; tasks -> models.spec; models.ops -> nothing of ours above it."""
    allowed = {
        "models/ops": ("seqzoo.models.ops",),
        "models": ("seqzoo.models",),
        "tasks": ("seqzoo.tasks", "seqzoo.models.spec", "seqzoo.models.errors"),
        "train": ("seqzoo",),
    }
    for folder, prefixes in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            if folder == "models" and "ops" in path.parts:
                continue
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in ("from", "import") and "seqzoo" in words[1]:
                    assert words[1].startswith(prefixes), f"{path}: {line.strip()}"
