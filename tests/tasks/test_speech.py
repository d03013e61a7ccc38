import numpy as np
import pytest

from seqzoo.tasks.speech import WORDS, SpeechCommands
from tests.tasks import published

SIZES = {"train_size": 2, "validation_size": 2, "test_size": 2}


@pytest.fixture(params=["folder", "archive"])
def speech(request, tmp_path):
    files = published.speech_files()
    if request.param == "folder":
        return published.folder_of(tmp_path / "speech", files)
    return published.tar(tmp_path / "speech_commands_v0.02.tar.gz", files).parent


def test_recordings_are_split_by_the_lists(speech):
    task = SpeechCommands(data=str(speech), normalise="none", **SIZES)
    for split, i in (("train", 0), ("validation", 1), ("test", 2)):
        source = task.source(split)
        assert [WORDS[int(x["targets"])] for x in source] == ["bed", "zero"]
        for k, example in enumerate(source):
            wave = 1000 * (i + 1) * np.sin(np.arange(16000 - 100 * i) * (k + 1) / 9)
            sound = example["inputs"][:, 0]
            assert np.abs(sound[: len(wave)] - wave / 2**15).max() < 2**-15
            assert not sound[len(wave) :].any()
            assert example["inputs"].shape == (16000, 1)
    assert task.baselines() == {"majority class": 0.5}
    assert task.decode(example).endswith("zero")


def test_recordings_are_standardised_and_only_the_test_split_is_halved(tmp_path):
    published.folder_of(tmp_path, published.speech_files())
    task = SpeechCommands(data=str(tmp_path), **SIZES)
    half = SpeechCommands(data=str(tmp_path), test_rate=8000, **SIZES)
    whole = task.source("test")[0]["inputs"]
    assert whole[:15800].std() == pytest.approx(1, abs=1e-2)
    assert np.array_equal(half.source("test")[0]["inputs"], whole[::2])
    assert half.source("validation")[0]["inputs"].shape == (16000, 1)
    with pytest.raises(ValueError, match="16000 or 8000; got 11025"):
        SpeechCommands(test_rate=11025)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (published.sound(np.zeros(400), rate=8000), r"\(1, 2, 8000\)"),
        (published.sound(np.zeros(400), channels=2), r"\(2, 2, 16000\)"),
        (published.sound(np.zeros(16001)), "16001 samples announced"),
    ],
)
def test_a_wrong_recording_is_named(tmp_path, content, message):
    published.folder_of(tmp_path, published.speech_files())
    (tmp_path / "bed" / "ab0_nohash_0.wav").write_bytes(content)
    source = SpeechCommands(data=str(tmp_path), **SIZES).source("train")
    with pytest.raises(ValueError, match=rf"bed/ab0_nohash_0.wav: .*{message}"):
        source[0]


def test_lists_and_counts_are_checked(tmp_path):
    published.folder_of(tmp_path, published.speech_files())
    with pytest.raises(ValueError, match="hold 2 examples, but train_size = 84843"):
        SpeechCommands(data=str(tmp_path)).source("train")
    (tmp_path / "testing_list.txt").write_text("bed/ab2_nohash_0.wav\nbed/other.wav\n")
    with pytest.raises(ValueError, match=r"testing_list.txt, line 2: there is no .*other.wav"):
        SpeechCommands(data=str(tmp_path), **SIZES).source("test")


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        SpeechCommands(data=str(tmp_path)).source("test")
    for word in ("speech_commands_v0.02.tar.gz", "2.4 GB", "--data.data"):
        assert word in str(caught.value)
