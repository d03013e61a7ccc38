"""Tables of one's own: from file to examples, splits that are not mixed, faults with their row."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data import cache_folder
from seqzoo.tasks.describe import check_example
from seqzoo.tasks.rows import tables
from seqzoo.tasks.task import SPLITS
from tests.tasks.rows.files import FILES


def made(folder, name, **more):
    options = FILES[name](folder / name)
    return build("rows", data=str(folder / name), **{**options, **more})


@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_examples_that_a_model_can_be_given(tmp_path, name):
    task = made(tmp_path, name)
    for split in SPLITS:
        source = task.source(split)
        assert len(source) > 0
        for i in range(len(source)):
            example = source[i]
            check_example(task, example)
            assert example["inputs"].shape[0] == task.spec.length
            assert task.decode(example)
        with pytest.raises(IndexError):
            source[len(source)]
    assert all(np.isfinite(list(task.baselines(split).values())).all() for split in SPLITS)
    assert any("train" in line for line in task.facts)


def test_a_long_table_keeps_its_series_and_groups_whole(tmp_path):
    task = made(tmp_path, "sensors.csv")
    parts = {split: task.source(split) for split in SPLITS}
    assert sum(map(len, parts.values())) == 40
    from seqzoo.tasks.rows.parts import parts as parts_of

    sites = {
        split: {part.table.value("site", int(i)) for i in part.rows}
        for split, part in parts_of(task).items()
    }
    assert set.union(*sites.values()) == set(range(10))
    assert sum(map(len, sites.values())) == 10
    example = parts["train"][0]
    assert example["inputs"].shape == (8, 2)
    lengths = {int(parts["train"][i]["segment_ids"].sum()) for i in range(len(parts["train"]))}
    assert lengths == {5, 6, 7, 8}
    examples = [parts["train"][i] for i in range(len(parts["train"]))]
    real = np.concatenate([e["inputs"][e["segment_ids"] > 0] for e in examples])
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)  # by the training rows
    np.testing.assert_allclose(real.std(0), 1, atol=1e-5)
    assert task.facts_found.classes == ("ill", "well")
    assert any("'site' together" in note for note in task.notes)


def test_a_split_column_is_kept_and_texts_are_bytes(tmp_path):
    task = made(tmp_path, "reviews.parquet")
    assert [len(task.source(split)) for split in SPLITS] == [20, 10, 10]
    first = task.source("train")[0]
    length = int(first["segment_ids"].sum())
    assert first["inputs"][:length].astype(np.uint8).tobytes() == b"good"
    assert int(first["targets"]) == 0
    assert task.notes == ()
    words = dataclasses.replace(task, tokens="character")
    assert words.spec.vocab_size == len(set("good fine bad sad")) + 1
    assert words.decode(words.source("train")[0]).startswith("good")


def test_each_token_of_a_document_is_predicted_once(tmp_path):
    task = made(tmp_path, "documents.jsonl")
    rows = [json.loads(line)["body"] for line in (tmp_path / "documents.jsonl").open()]
    total = 0
    for split in SPLITS:
        source = task.source(split)
        pieces = [source[i] for i in range(len(source))]
        total += sum(int((piece["targets"] >= 0).sum()) for piece in pieces)
        assert sum(float(piece["bytes"]) for piece in pieces) == sum(
            int((piece["targets"] >= 0).sum()) for piece in pieces
        )
        assert pieces[0]["targets"][0] == ord("b")
    assert total == sum(len(row) - 1 for row in rows)
    assert task.main_metric == "bits_per_byte"
    assert 0 < task.baselines()["frequencies of training"] < 8


def test_padded_arrays_end_where_their_lengths_say(tmp_path):
    task = made(tmp_path, "channels.npz", standardise=False)
    file = np.load(tmp_path / "channels.npz")
    from seqzoo.tasks.rows.parts import parts as parts_of

    row = int(parts_of(task)["train"].rows[3])
    example = task.source("train")[3]
    length = file["n"][row]
    np.testing.assert_array_equal(example["inputs"][:length], file["x"][row, :length])
    assert not example["inputs"][length:].any()
    np.testing.assert_allclose(example["targets"], file["y"][row], rtol=1e-6)
    assert (task.spec.head, task.spec.outputs, task.spec.features) == ("classify", 2, 3)


def test_folders_with_splits_keep_them(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 6), ("valid", 3)):
        each = [1 + i % 3 for i in range(count)]
        rows = [{"w": ["a", "b", "c"][:n], "t": [0, 1, 0][:n]} for n in each]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = build("rows", data=str(folder), inputs="w", target="t", kind="tag", test_share=0.3)
    assert [len(task.source(split)) for split in SPLITS] == [4, 3, 2]
    assert task.notes == ("The test split is cut from the training rows by a fixed random order.",)
    example = task.source("validation")[1]
    assert example["targets"].tolist() == [0, 1, -100]
    (folder / "more.jsonl").write_text('{"w": ["a"], "t": [0]}\n')
    with pytest.raises(ValueError, match=r"more\.jsonl belongs to none"):
        dataclasses.replace(task, test_share=0.2).source("train")


def test_pairs_are_two_rows(tmp_path):
    rows = [{"a": "x" * (1 + i % 3), "b": "y", "same": i % 2 == 0} for i in range(20)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = build("rows", data=str(tmp_path / "p.jsonl"), inputs="a,b", target="same", kind="pairs")
    example = task.source("train")[0]
    assert example["inputs"].shape == example["segment_ids"].shape == (2, 3)
    assert task.spec.head == "two_tower"
    assert "|" in task.decode(example)
    with pytest.raises(ValueError, match="pairs need two columns"):
        dataclasses.replace(task, inputs="a").source("train")


def test_folders_of_hugging_face_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"ids": list(range(1 + i % 4)), "label": i % 3} for i in range(12)]
    whole = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(5))}).save_to_disk(
        tmp_path / "d"
    )
    task = build("rows", data=str(tmp_path / "d"), inputs="ids", target="label")
    assert [len(task.source(split)) for split in SPLITS] == [11, 1, 5]
    assert task.spec.vocab_size == 4
    assert task.source("test")[3]["inputs"].tolist() == [0, 1, 2, 3]


def test_a_file_is_read_once_and_then_mapped(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "PIECE", 8, raising=False)
    task = made(tmp_path, "documents.jsonl")
    before = len(task.source("train"))
    assert any(cache_folder.folder().glob("rows-*/rows.arrow"))
    monkeypatch.setattr(tables, "read", lambda path: pytest.fail("read again"))
    assert len(dataclasses.replace(task, standardise=False).source("train")) == before


def test_several_files_are_one_table_whose_rows_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\nab,1\ncd,0\n")
    (tmp_path / "b.csv").write_text("x,y\nef,1.5\ngh,0\n")
    table = tables.open_table((tmp_path / "a.csv", tmp_path / "b.csv"))
    assert [table.value("y", i) for i in range(4)] == [1.0, 0.0, 1.5, 0.0]
    assert table.place(3) == f"{tmp_path / 'b.csv'}, row 3"


CSV = "text,label,num\n" + "".join(f"ab{i},{'xy'[i % 2]},{i}\n" for i in range(20))
LINES = "".join(json.dumps({"s": [i, 1], "y": i / 2}) + "\n" for i in range(20))
FAULTS = [
    # CSV: what is replaced, options, what is said
    ("d.csv", ("ab3,y,3", "ab3,y"), {}, ["d.csv, row 5 has 2 cells and the header 3"]),
    ("d.csv", ("ab3,y,3", "ab3,,3"), {}, ["d.csv, row 5: column 'label' is ''", "a class is"]),
    ("d.csv", ("text,label,num", "text,label,label"), {}, ["the column 'label' twice"]),
    ("d.csv", ("text,label,num", "text,,num"), {}, ["a column without a name"]),
    ("d.csv", ("ab3,y", ",y"), {}, ["row 5: column 'text' has no steps"]),
    ("d.csv", ("", ""), {"inputs": "txt"}, ["unknown column", "'txt'", "did you mean text?"]),
    ("d.csv", ("", ""), {"target": "lable"}, ["'lable'", "did you mean label?"]),
    ("d.csv", ("", ""), {"inputs": "num"}, ["row 2: column 'num' is 0"]),
    ("d.csv", (",y,", ",x,"), {}, ["column 'label' has one class in the training rows (x)"]),
    ("d.csv", ("", ""), {"split": "label"}, ["row 2: column 'label' says 'x'", "train, training"]),
    ("d.csv", ("", ""), {"target": "text"}, ["the target 'text' is among the inputs"]),
    ("d.csv", ("", ""), {"form": "numbers"}, ["row 2: column 'text' holds no numbers"]),
    ("d.csv", (CSV, ""), {}, ["d.csv is empty"]),
    ("d.csv", ("ab3", '"ab3'), {}, ["d.csv, row 5", "unexpected end of data"]),
    ("d.csv", ("", ""), {"tokens": "bytes"}, ["unknown tokens 'bytes'", "did you mean byte?"]),
    ("d.csv", ("", ""), {"kind": "clasify"}, ["'clasify'; did you mean classify?"]),
    # JSON lines
    ("d.jsonl", ('"y": 1.5}', '"y": 1.5'), {}, ["d.jsonl, line 4 is not JSON"]),
    ("d.jsonl", ('{"s": [3, 1], "y": 1.5}', "[1]"), {}, ["line 4 is a list; a row is an object"]),
    ("d.jsonl", ('"y": 1.5', '"y": "no"'), {}, ["line 4: column 'y' is of another type"]),
    ("d.jsonl", ('"y": 1.5', '"z": 1.5'), {}, ["line 4: column 'y' is None, not finite"]),
    ("d.jsonl", ("[3, 1]", "[3, NaN]"), {}, ["line 4: column 's' is not finite at step 1"]),
    ("d.jsonl", ("[3, 1]", "[]"), {}, ["line 4: column 's' has no steps"]),
    ("d.jsonl", ("[3, 1]", "[-3, 1]"), {}, ["line 4: column 's' has tokens from -3 to 1"]),
    ("d.jsonl", ("[3, 1]", "null"), {}, ["line 4: column 's' is empty"]),
    ("d.jsonl", ("[3, 1]", '"text"'), {}, ["line 4: column 's' is of another type"]),
    ("d.jsonl", ("[3, 1]", "[[3, 1], [2]]"), {}, ["line 4: column 's' is of another type"]),
]


@pytest.mark.parametrize(("name", "change", "options", "words"), FAULTS)
def test_a_fault_is_one_sentence_with_file_and_row(tmp_path, name, change, options, words):
    text = CSV if name.endswith("csv") else LINES
    (tmp_path / name).write_text(text.replace(*change) if change[0] else text)
    own = {"inputs": "text", "target": "label"}
    if name.endswith("jsonl"):
        own = {"inputs": "s", "target": "y", "kind": "regress"}
    with pytest.raises(ValueError, match=r".") as caught:
        build("rows", data=str(tmp_path / name), **{**own, **options}).source("train")
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\n" not in said


ARRAYS = {"x": np.ones((10, 4, 2), np.float32), "y": np.arange(10) % 2, "n": np.full(10, 3)}


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"y": np.arange(9)}, {}, ["the first axis of every array is the rows"]),
        ({"x": np.float32(1)}, {}, ["the first axis of every array"]),
        ({"x": np.array([[1], [1, 2]] * 5, object)}, {}, ["'x' holds Python objects"]),
        ({"x": np.full((10, 4, 2), np.nan)}, {}, ["row 0: column 'x' is not finite at step 0"]),
        ({"n": np.full(10, 9)}, {"lengths": "n"}, ["has 4 steps, and column 'n' says 9"]),
        ({"n": np.zeros(10, int)}, {"lengths": "n"}, ["row 0: column 'x' has no steps"]),
        ({}, {"lengths": "m"}, ["unknown column", "'m'"]),
        ({"x": np.ones((10, 4, 2, 2))}, {}, ["a sequence is a text or a list"]),
        ({"x": np.ones(10)}, {}, ["a sequence is a text or a list"]),
        (
            {"y": np.linspace(0, 1, 10)},
            {},
            ["column 'y' is 0.", "a class is a text"],
        ),
        ({}, {"kind": "tag"}, ["a tag for every step is a list"]),
        ({}, {"kind": "lm", "target": ""}, ["lm predicts tokens"]),
    ],
)
def test_a_fault_of_arrays_is_one_sentence(tmp_path, arrays, options, words):
    np.savez(tmp_path / "d.npz", **{**ARRAYS, **arrays})
    own = {"inputs": "x", "target": "y", **options}
    with pytest.raises(ValueError, match=r".") as caught:
        build("rows", data=str(tmp_path / "d.npz"), **own).source("train")
    said = str(caught.value)
    assert all(word in said for word in words), said


TEXTS = [{"text": f"ab{i}", "stars": i % 2, "part": "train"} for i in range(20)]


def of_row(i, **cells):
    """The table with other cells in one row."""
    return [{**row, **cells} if i == k else row for k, row in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (of_row(3, text=None), {}, ["d.parquet, row 3: column 'text' is empty"]),
        (of_row(3, text=""), {}, ["row 3: column 'text' has no steps"]),
        (of_row(3, stars=None), {}, ["row 3: column 'stars' is None", "a class is"]),
        (of_row(3, part="exam"), {"split": "part"}, ["row 3: column 'part' says 'exam'"]),
        ([{**row, "stars": 1} for row in TEXTS], {}, ["'stars' has one class"]),
        ([{**row, "stars": i / 7} for i, row in enumerate(TEXTS)], {}, ["a class is a text"]),
        ([{**row, "text": i} for i, row in enumerate(TEXTS)], {}, ["row 0: column 'text' is 0"]),
        (TEXTS, {"inputs": "texts"}, ["unknown column", "did you mean text?"]),
        (TEXTS, {"target": "star"}, ["unknown column", "did you mean stars?"]),
        (TEXTS[:0], {}, ["d.parquet"]),
    ],
)
def test_a_fault_of_a_parquet_file_is_one_sentence(tmp_path, rows, options, words):
    schema = pa.Table.from_pylist(TEXTS).schema if not rows else None
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "d.parquet")
    own = {"inputs": "text", "target": "stars", **options}
    with pytest.raises(ValueError, match=r".") as caught:
        build("rows", data=str(tmp_path / "d.parquet"), **own).source("train")
    said = str(caught.value)
    assert all(word in said for word in words), said
    assert "\n" not in said


def test_rows_of_every_split_are_read_before_training(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    text = {"train": "text,label\na,x\nb,y\nc,y\n", "valid": "text,label\na,y\n"}
    for split, rows in text.items():
        (folder / f"{split}.csv").write_text(rows)
    (folder / "test.csv").write_text("text,label\na,x\nb,z\n")
    with pytest.raises(ValueError, match=r"test\.csv, row 3: column 'label' is 'z', a class"):
        build("rows", data=str(folder), inputs="text", target="label").source("train")
    (folder / "test.csv").write_text("text,label\na,x\n")
    task = build("rows", data=str(folder), inputs="text", target="label", length=3)
    assert task.facts_found.counts == {"train": (1, 2), "validation": (0, 1), "test": (1, 0)}
    assert [task.baselines(split)["majority class"] for split in SPLITS] == [2 / 3, 1.0, 0.0]


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "d.csv").write_bytes(b"\x1f\x8b zipped")
    (tmp_path / "d.txt").write_text("a text")
    for name in ("d.parquet", "d.npz", "d.csv", "d.txt"):
        with pytest.raises(ValueError, match=name):
            build("rows", data=str(tmp_path / name), inputs="x", target="y").source("train")
    with pytest.raises(FileNotFoundError, match=r"--data\.data"):
        build("rows").source("train")
