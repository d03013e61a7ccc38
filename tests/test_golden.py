"""The golden files are those that were published, all of them and no other."""

import pytest

from tests.golden import FOLDER, golden, golden_cases, manifest


def test_the_manifest_lists_the_files_that_are_there():
    there = {path for path in FOLDER.rglob("*") if path.is_file() and path.parent != FOLDER}
    there = {path for path in there if "__pycache__" not in path.parts}
    assert {file.path for file in manifest().values()} == there
    assert len(manifest()) == len(there)
    assert all(file.source and file.made_with for file in manifest().values())


@pytest.mark.parametrize("family", sorted({name.partition("/")[0] for name in manifest()}))
def test_every_file_is_the_one_that_was_published(family):
    for case in golden_cases(family):
        assert len(golden(f"{family}/{case}")) > 0


def test_a_file_that_changed_is_refused(tmp_path, monkeypatch):
    name = "s5/init"
    changed = tmp_path / "changed.npz"
    changed.write_bytes(manifest()[name].path.read_bytes()[:-1] + b"!")
    monkeypatch.setitem(manifest(), name, manifest()[name]._replace(path=changed))
    with pytest.raises(ValueError, match="golden files never change"):
        golden(name)
