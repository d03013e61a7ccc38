import csv

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.lra.expressions import binarise, expression_to_tokens
from tests.golden import golden

GOOD = [("[MAX 3 9 ]", 9), ("[MED 1 [SM 9 4 ] 7 ]", 3), ("[MIN 5 2 8 ]", 2)]
NAMES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}


def write(folder, rows=GOOD):
    """The three files as the official writer leaves them."""
    folder.mkdir(parents=True)
    for name in NAMES.values():
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["Source", "Target"])
            writer.writerows((binarise(expression_to_tokens(text)), value) for text, value in rows)
    return folder


def task(data, **options):
    sizes = {"train_size": 3, "validation_size": 3, "test_size": 3}
    return build("listops", data=str(data), **(sizes | options))


@pytest.mark.parametrize("split", NAMES)
def test_official_files_are_read(tmp_path, cache_folder, split):
    folder = write(tmp_path / "listops-1000")
    assert b"( ( ( [MAX 3 ) 9 ) ] )\t9\r\n" in (folder / NAMES[split]).read_bytes()
    for _ in range(2):  # from the file, then from the cache
        source = task(tmp_path).source(split)
        assert len(source) == 3
        assert source[1]["inputs"].shape == (2000,)
        assert [task(tmp_path).decode(example) for example in source] == [
            f"{text} = {value}" for text, value in GOOD
        ]
        assert len(list(cache_folder.glob(f"listops-{split}-*"))) == 1


@pytest.mark.parametrize("given", [".", "lra_release", "lra_release/lra_release/listops-1000"])
def test_the_inner_copy_is_taken(tmp_path, given):
    write(tmp_path / "lra_release/listops-1000", rows=[("[MAX 0 0 ]", 0)] * 3)
    write(tmp_path / "lra_release/lra_release/listops-1000")
    assert task(tmp_path / given).source("test")[0]["targets"] == 9


def test_a_changed_file_is_read_again(tmp_path):
    folder = write(tmp_path / "listops-1000")
    assert task(tmp_path).source("test")[0]["targets"] == 9
    (folder / NAMES["test"]).write_text("Source\tTarget\n" + "[MAX 1 2 ]\t2\n" * 3)
    assert task(tmp_path).source("test")[0]["targets"] == 2


def test_baselines_come_from_the_file(tmp_path):
    write(tmp_path / "listops-1000", rows=[*GOOD, ("[MAX 9 1 ]", 9), ("[MAX 3 1 ]", 3), ("2", 2)])
    baselines = task(tmp_path, test_size=6).baselines()
    assert baselines == {"majority class": pytest.approx(2 / 6), "root operator": 5 / 6}


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        task(tmp_path / "nowhere").source("train")
    for word in ("basic_train.tsv", "lra_release.gz", "GB", "listops-1000", "data"):
        assert word in str(caught.value)
    folder = write(tmp_path / "listops-1000")
    (folder / NAMES["test"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"listops-1000/basic_test\.tsv"):
        task(tmp_path).source("test")


def test_a_wrong_count_is_refused(tmp_path):
    write(tmp_path / "listops-1000")
    with pytest.raises(ValueError, match=r"basic_test.tsv holds 3 .* test_size=2000"):
        build("listops", data=str(tmp_path)).source("test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[MAX 1 2 ]", "expected 2 columns separated by a tab; got 1"),
        (b"[MAX 1 2 ]\t2\t4", "got 3"),
        (b"", "got 0"),
        (b"[MAX 1 2 ]\t", "target must be an integer from 0 to 9; got ''"),
        (b"[MAX 1 2 ]\t10", "got '10'"),
        (b"[MAX 1 2 ]\t2.0", "got '2.0'"),
        (b"[MAX 1 2\t2", r"without '\]'"),
        (b"( [MAX 1 2 ]\t2", "do not balance"),
        (b"[MAX 1 2 ]\t1", "target is 1, but the expression is worth 2"),
        (b"[MAX 1 \xff ]\t1", "utf-8"),
        (b"[MAX" + b" 1" * 1998 + b" ]\t1", "2000 tokens"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    folder = write(tmp_path / "listops-1000")
    file = folder / NAMES["train"]
    file.write_bytes(b"Source\tTarget\r\n[MAX 1 2 ]\t2\r\n" + line + b"\r\n[MAX 1 2 ]\t2\r\n")
    with pytest.raises(ValueError, match=message) as caught:
        task(tmp_path).source("train")
    if b"\xff" not in line:  # text is decoded ahead of the lines
        assert f"{file}, line 3: " in str(caught.value)


@pytest.mark.parametrize("header", [b"[MAX 1 2 ]\t2\r\n", b"Source,Target\r\n"])
def test_a_missing_header_is_refused(tmp_path, header):
    folder = write(tmp_path / "listops-1000")
    (folder / NAMES["train"]).write_bytes(header)
    with pytest.raises(ValueError, match=r"basic_train.tsv, line 1: the header must be"):
        task(tmp_path).source("train")


def test_the_golden_expressions_as_an_official_file(tmp_path):
    rows = [[row["Source"], row["Target"]] for row in golden("lra_listops/listops")]
    folder = tmp_path / "listops-1000"
    folder.mkdir()
    with (folder / NAMES["train"]).open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["Source", "Target"], *rows])
    source = task(tmp_path, train_size=300).source("train")
    assert [int(example["targets"]) for example in source] == [int(target) for _, target in rows]
    assert np.max([example["segment_ids"].sum() for example in source]) > 500
