"""DNA of FASTA files and of packages: what is read, how it is cut, and what is no nucleotide."""

import gzip
import importlib.util

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.tasks.genomes import fasta
from tests.tasks import published

SPLITS = ("train", "validation", "test")


def letters(path):
    return [(record.name, record.letters.tobytes().decode()) for record in fasta.read(path)]


def test_what_repositories_write_is_read(tmp_path):
    text = ";a comment\n>one Genus\nACGT\nacgu\n\n>two\r\nRYN\r\n"
    (tmp_path / "a.fa").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert letters(tmp_path / "a.fa") == [("one", "ACGTACGT"), ("two", "NNN")]
    (tmp_path / "b.fna.gz").write_bytes(gzip.compress(text.encode()))
    assert letters(tmp_path / "b.fna.gz") == letters(tmp_path / "a.fa")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ACGT\n", r"a\.fa, line 1: letters before the first line that begins with >"),
        (">one\nACGT\nACEGT\n", r"a\.fa, line 3: 'E' at place 3 is no nucleotide .*proteins\?"),
        (">one\n>two\nAC\n", r"a\.fa, line 2: record one before it is empty"),
        (">one\nAC\n>two\n", r"a\.fa, line 4: record two before it is empty"),
        ("", "is empty; it should be a text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, says):
    (tmp_path / "a.fa").write_text(text)
    with pytest.raises(ValueError, match=says):
        fasta.read(tmp_path / "a.fa")


def test_splits_are_stretches_of_every_record_and_each_nucleotide_is_predicted_once(tmp_path):
    (tmp_path / "a.fa").write_text(published.fasta(("one", 400), ("two", 200)))
    task = tasks.build("genome", data=str(tmp_path), length=7)
    assert (task.spec.vocab_size, task.spec.outputs) == (5, 5)
    whole = dict(letters(tmp_path / "a.fa"))
    for split, (first, last) in zip(SPLITS, ((0, 18), (18, 19), (19, 20)), strict=True):
        text = "".join(w[len(w) * first // 20 : len(w) * last // 20] for w in whole.values())
        assert task.text(split).data.tobytes().decode() == text
        source = task.source(split)
        targets = np.concatenate([source[i]["targets"] for i in range(len(source))])
        said = "".join("ACGTN"[i] for i in targets if i >= 0)
        assert said == text[1:]
    frequencies = task.baselines("validation")["byte frequencies"]
    assert 1.8 < frequencies <= 2


def test_a_window_is_of_its_genome_its_split_and_either_strand(tmp_path):
    whole = {}
    for seed, name in enumerate(("a", "b", "c")):
        (tmp_path / f"{name}.fa").write_text(published.fasta((name, 600), seed=seed))
        ((_, whole[name]),) = letters(tmp_path / f"{name}.fa")
    turn = str.maketrans("ACGT", "TGCA")
    task = tasks.build("genome_species", data=str(tmp_path), length=20, train_size=60, test_size=60)
    assert task.classes == ("a", "b", "c")
    for split, (first, last) in zip(SPLITS[::2], ((0, 540), (570, 600)), strict=True):
        ways, places = set(), set()
        source = task.source(split)
        for i in range(60):
            name = task.classes[int(source[i]["targets"])]
            text = "".join("ACGTN"[k] for k in source[i]["inputs"])
            part = whole[name][first:last]
            strand = next(
                (s for s, t in ((1, text), (-1, text.translate(turn)[::-1])) if t in part)
            )
            ways.add((name, strand))
            places.add(text)
        assert len(ways) == 6
        assert len(places) > 30
    one = tasks.build("genome_species", data=str(tmp_path), length=20, both_strands=False)
    found = [one.source("train")[i] for i in range(20)]
    for example in found:
        text = "".join("ACGTN"[k] for k in example["inputs"])
        assert text in whole[one.classes[int(example["targets"])]]


def test_what_is_missing_or_too_short_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'e_cola'; did you mean e_coli"):
        tasks.build("genome", data="e_cola").source("train")
    with pytest.raises(FileNotFoundError, match=r"seqzoo\[genomes\].*4\.6 million"):
        tasks.build("genome", data=str(tmp_path)).source("train")
    (tmp_path / "a.fa").write_text(published.fasta(("one", 400)))
    with pytest.raises(ValueError, match="is one genome; name a folder with a file for each"):
        tasks.build("genome_species", data=str(tmp_path)).source("train")
    (tmp_path / "new").mkdir()
    for name in "ab":
        (tmp_path / "new" / f"{name}.fa").write_text(published.fasta((name, 400)))
    short = tasks.build("genome_species", data=str(tmp_path / "new"), length=30)
    with pytest.raises(ValueError, match=r"the test stretches of .* have at most 20 nucleotides"):
        short.source("test")


@pytest.mark.parametrize(("name", "size"), [("e_coli", 4_646_332), ("c_diphtheriae", 2_463_666)])
def test_genomes_of_packages_are_the_whole_chromosomes(name, size):
    package, _ = fasta.GENOMES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    (path,) = fasta.files_of("genome", name)
    (record,) = fasta.read(path)
    assert len(record.letters) == size
