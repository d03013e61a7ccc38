"""Corpora from small files in exactly the originals' formats."""

import dataclasses
import hashlib
import shutil
import sys
import zipfile

import datasets
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.language import enwik8, modelling, pg19, python_source, wikitext103
from seqzoo.tasks.language.enwik8 import Enwik8, Text8
from seqzoo.tasks.language.pg19 import PG19
from seqzoo.tasks.language.wikitext103 import WikiText103

WIKI = {  # split -> bytes of wiki.*.tokens: blank lines hold one space, as do line ends
    "train": b" \n = First <unk> = \n \n Some words , all told . \n \n = = Part = = \n \n More . \n"
    b" \n = Second = \n \n Text = text . \n",
    "validation": b" \n = Third = \n \n a b c \n",
    "test": b" \n = Fourth = \n \n d e \n",
}
LINES = {split: data.count(b"\n") for split, data in WIKI.items()}
WORDS = {split: len(data.split()) + LINES[split] for split, data in WIKI.items()}


def whole(task, split):
    return task.text(split).data.tobytes()


def parts(task, split):
    return list(task.text(split).documents())


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(path)


@pytest.fixture
def small(monkeypatch):
    """The published sizes, for files of a few bytes."""
    enwik8._whole.cache_clear(), pg19._books.cache_clear()
    wikitext103._text_of_wikipedia.cache_clear()
    data = bytes(range(97, 123)) * 4  # 104 letters, cut to 100
    for kind in (Enwik8, Text8):
        monkeypatch.setattr(kind, "SIZE", 100)
        monkeypatch.setattr(kind, "HELD_OUT", 5)
        monkeypatch.setattr(kind, "MD5", hashlib.md5(data[:100]).hexdigest())
    monkeypatch.setattr(WikiText103, "LINES", LINES)
    monkeypatch.setattr(WikiText103, "WORDS", WORDS)
    monkeypatch.setattr(PG19, "BOOKS", {"train": 3, "validation": 1, "test": 2})
    return data[:100]


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("form", ["file", "folder", "zip"])
def test_the_hutter_files_are_cut_at_their_published_places(tmp_path, small, name, form):
    if form == "zip":
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(name, small)
    else:
        (tmp_path / name).write_bytes(small)
    task = build(name, data=str(tmp_path / name if form == "file" else tmp_path))
    assert whole(task, "train") == small[:90]
    assert whole(task, "validation") == small[90:95]
    assert whole(task, "test") == small[95:]


def test_text8_comes_in_one_row_a_split_and_has_27_letters(tmp_path, small):
    cuts = {"train": small[:90], "validation": small[90:95], "test": small[95:]}
    for split, data in cuts.items():
        table(tmp_path / f"data/{split}-00000-of-00001.parquet", text=[data.decode()])
    task = build("text8", data=str(tmp_path), length=4)
    assert {split: whole(task, split) for split in cuts} == cuts
    assert (task.spec.vocab_size, build("enwik8").spec.vocab_size) == (27, 256)
    assert task.source("train")[0]["inputs"].tolist() == [1, 2, 3, 4]  # a is 1, space 0
    assert task.decode(task.source("train")[0]) == "'abcd'"


def test_wrong_sizes_and_sums_are_refused(tmp_path, small):
    (tmp_path / "enwik8").write_bytes(small[:-1])
    with pytest.raises(ValueError, match=r"enwik8 is no .*\(99 bytes; enwik8 has 100\)"):
        build("enwik8", data=str(tmp_path)).source("train")
    enwik8._whole.cache_clear()
    (tmp_path / "enwik8").write_bytes(small[::-1])
    with pytest.raises(ValueError, match="its MD5 sum is"):
        build("enwik8", data=str(tmp_path)).source("train")
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("readme", b"")
    with pytest.raises(ValueError, match="should hold one text8; it holds readme"):
        build("text8", data=str(tmp_path)).source("train")


def write_wiki(root, form):
    if form == "zip":
        with zipfile.ZipFile(root / "wikitext-103-v1.zip", "w") as archive:
            for split, data in WIKI.items():
                short = "valid" if split == "validation" else split
                archive.writestr(f"wikitext-103/wiki.{short}.tokens", data)
        return
    for split, data in WIKI.items():
        short = "valid" if split == "validation" else split
        if form == "files":
            (root / f"wiki.{short}.tokens").write_bytes(data)
        else:  # a row a line; those of blank lines are empty, the others keep their line end
            rows = ["" if not line.strip() else line.decode() + "\n" for line in data.split(b"\n")]
            name = f"wikitext-103-v1/{split}-00000-of-00001.parquet"
            table(root / name, text=rows[:-1])


@pytest.mark.parametrize("form", ["files", "zip", "parquet"])
def test_wikitext_is_read_by_article_and_its_words_are_counted(tmp_path, small, form):
    write_wiki(tmp_path, form)
    task = build("wikitext103", data=str(tmp_path), length=8)
    if form != "parquet":
        assert whole(task, "train") == WIKI["train"]
    begins = [part.split(b"\n")[0] for part in parts(task, "train")]
    assert begins[-2:] == [b" = First <unk> = ", b" = Second = "]
    share = task.words_per_byte("test") * len(whole(task, "test"))
    assert share == pytest.approx(WORDS["test"])


def test_wikitext_with_a_line_or_a_word_too_few_is_refused(tmp_path, small):
    write_wiki(tmp_path, "files")
    (tmp_path / "wiki.valid.tokens").write_bytes(WIKI["validation"][:-1])
    with pytest.raises(ValueError, match=r"validation has 3 lines, not 4"):
        build("wikitext103", data=str(tmp_path)).text("validation")
    (tmp_path / "wiki.test.tokens").write_bytes(WIKI["test"].replace(b" e ", b" "))
    with pytest.raises(ValueError, match=r"8 words, <eos> included, not 9"):
        build("wikitext103", data=str(tmp_path)).text("test")


@pytest.mark.parametrize("form", ["files", "parquet"])
def test_the_books_of_pg19_are_documents(tmp_path, small, form):
    books = {"train": ["b two", "a one", "c x"], "validation": ["v"], "test": ["t", "u u"]}
    for split, texts in books.items():
        (tmp_path / split).mkdir()
        for i, text in enumerate(texts):
            if form == "files":
                (tmp_path / split / f"{10 + i}.txt").write_text(text)
        if form == "parquet":
            (tmp_path / split).rmdir()
            about = {
                "short_book_title": ["x"] * len(texts),
                "publication_date": [1900] * len(texts),
            }
            name = f"data/{split}-00000-of-00001.parquet"
            table(tmp_path / name, **about, url=[""] * len(texts), text=texts)
    task = build("pg19", data=str(tmp_path))
    assert parts(task, "train") == [b"b two", b"a one", b"c x"]
    assert parts(task, "test") == [b"t", b"u u"]


def test_a_wrong_number_of_books_and_a_wrong_column_are_refused(tmp_path, small):
    table(tmp_path / "data/train-00000-of-00001.parquet", text=["one", "two"])
    with pytest.raises(ValueError, match="train has 2 books, not 3"):
        build("pg19", data=str(tmp_path)).text("train")
    table(tmp_path / "data/test-00000-of-00001.parquet", content=["one"])
    with pytest.raises(ValueError, match="no column 'text'; it has content"):
        build("pg19", data=str(tmp_path)).text("test")


@pytest.mark.parametrize("name", ["enwik8", "text8", "wikitext103", "pg19"])
def test_missing_data_says_what_to_fetch(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"Fetch .*(MB|GB).* option data"):
        build(name, data=str(tmp_path / "nowhere")).source("train")
    with pytest.raises(FileNotFoundError, match="task bytes: name a text file"):
        build("bytes").source("train")


def test_a_file_is_cut_and_a_folder_is_divided_by_files(tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(100)))
    task = build("bytes", data=str(tmp_path / "text"))
    assert [len(whole(task, s)) for s in ("train", "validation", "test")] == [90, 5, 5]
    folder = tmp_path / "many"
    for i in range(40):
        path = folder / f"{i % 2}" / f"{i:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%02d" % i)
    (folder / ".hidden").write_bytes(b"secret")
    task = build("bytes", data=str(folder), pattern="*.txt")
    every = [b"%02d" % i for i in (*range(0, 40, 2), *range(1, 40, 2))]
    assert parts(task, "validation") == [every[18], every[38]]
    assert parts(task, "test") == [every[19], every[39]]
    assert len(parts(task, "train")) == 36


SPLITS = ("train", "validation", "test")
OWN = {  # names of a folder's own splits
    "folders": ("train/{}", "validation/{}", "test/{}"),
    "valid": ("train/a/{}", "valid/a/{}", "test/a/{}"),
    "capitals": ("Train/{}", "Val/{}", "TEST/{}"),
    "deep": ("en/train/{}", "en/dev/{}", "en/test/{}"),
    "files": ("train-0000{}-of-00009.txt", "valid-0000{}-of-00009.txt", "test_{}.txt"),
    "words": ("my-train_{}.txt", "my_dev_{}-v2.txt", "my_test_set_{}.txt"),
    "wiki": ("wiki{}.train.tokens", "wiki{}.valid.tokens", "wiki{}.test.tokens"),
}


def write_splits(root, names, files):
    for split, name in zip(SPLITS, names, strict=True):
        for i in range(files):
            path = root / name.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{split} ")
    (root / "README").write_text("of no split")
    return build("bytes", data=str(root), length=2)


@pytest.mark.parametrize("files", [1, 9], ids=["few", "many"])
@pytest.mark.parametrize("names", OWN.values(), ids=OWN.keys())
def test_a_folder_with_splits_keeps_them(tmp_path, names, files):
    task = write_splits(tmp_path, names, files)
    for split in SPLITS:
        assert whole(task, split) == f"{split} ".encode() * files


@pytest.mark.parametrize("lacks", [0, 1, 2])
@pytest.mark.parametrize("names", [OWN["valid"], OWN["wiki"]], ids=["folders", "files"])
def test_a_folder_with_some_splits_is_refused(tmp_path, names, lacks):
    task = write_splits(tmp_path, names, 9)
    for path in tmp_path.glob(names[lacks].split("/")[0].format("*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if names == OWN["wiki"] and lacks == 0:  # files called test among others are no test split
        assert b"test" in whole(task, "train")
        return
    with pytest.raises(ValueError, match=rf"nothing named {SPLITS[lacks]}: .*--data.splits cut"):
        task.text("train")
    cut = dataclasses.replace(task, splits="cut")
    assert sum(len(whole(cut, split)) for split in SPLITS) == sum(
        path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("name", ["train.py", "test.py"])
def test_one_file_called_like_a_split_is_a_file_like_others(tmp_path, name):
    for other in (name, "a.py", "b.py"):
        (tmp_path / other).write_text("x" * 40)
    assert len(whole(build("bytes", data=str(tmp_path), length=2), "train")) == 108


def test_python_source_is_pinned_by_content(tmp_path):
    for i in range(20):
        (tmp_path / f"m{i:02}.py").write_text(f"x = {i}\n")
    for other in ("test/a.py", "site-packages/b.py", "__pycache__/c.py", "notes.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("no")
    task = build("python_source", data=str(tmp_path), length=4)
    assert b"".join(parts(task, "train")).count(b"x") == 18
    assert (whole(task, "validation"), whole(task, "test")) == (b"x = 18\n", b"x = 19\n")
    again = build("python_source", **dataclasses.asdict(task))
    assert again == task
    python_source._source_digest.cache_clear()
    modelling._text_of.cache_clear()
    (tmp_path / "m03.py").write_text("x = 4\n")
    changed = build("python_source", data=str(tmp_path), length=4)
    assert changed.digest != task.digest
    with pytest.raises(ValueError, match="belong to another Python"):
        build("python_source", **dataclasses.asdict(task) | {"length": 5}).text("train")


def test_the_standard_library_is_the_corpus():
    task = build("python_source", length=256)
    sizes = {split: len(whole(task, split)) for split in ("train", "validation", "test")}
    total = sum(sizes.values())
    assert 10e6 < total < 14e6  # 11.5 to 12.1 MB from Python 3.11 to 3.13
    assert 0.03 < sizes["validation"] / total < 0.07
    assert 0.03 < sizes["test"] / total < 0.07
    text = task.text("test").data
    assert np.mean(text < 128) > 0.99
    assert sys.version_info >= (3, 11)
