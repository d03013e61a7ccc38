"""The notebooks of docs/: kept without outputs, run from an empty folder with the package alone."""

import ast
import json
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
KNOWN = {"flax", "jax", "numpy", "optax", "rich", "safetensors", "seqzoo", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_needs_the_package_alone(path):
    cells = json.loads(path.read_text())["cells"]
    assert "pip install" in "".join(cells[0]["source"])
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [one.name for one in getattr(node, "names", [])] * isinstance(
                    node, ast.Import
                )
                assert {name.partition(".")[0] for name in names} <= KNOWN


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("ipykernel")
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    monkeypatch.delenv("XLA_FLAGS")  # of the tests; as users run it
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()
    assert list(tmp_path.iterdir()) == []
