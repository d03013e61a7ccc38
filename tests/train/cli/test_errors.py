"""What a command ends with: a documented code, and of an error its sentence alone."""

import errno
import io
import os
import subprocess
import sys
import threading

import jax
import pytest

from seqzoo.train.cli import command, errors, report
from seqzoo.train.cli.command import dispatch, main
from seqzoo.train.devices.backend import check_flags


@pytest.fixture
def failing(monkeypatch):
    """Lets `seqzoo report` fail with an error."""

    def fail(error):
        def raises(_):
            raise error

        monkeypatch.setattr(report, "main", raises)
        return dispatch(["report", "x"])

    return fail


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("no such thing"), 2, "no such thing"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: '/x'"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "Read-only"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 2, "too long"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x"), 2, "Not a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "No space"),
        (OSError(errno.EIO, "Input/output error"), 4, "Input/output"),
        (OSError(errno.ESTALE, "Stale file handle"), 4, "Stale"),
        (MemoryError(), 2, "MemoryError"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nmore"), 2, "seqzoo plan"),
        (OverflowError("cannot fit 'int'"), 2, "too large to count with (cannot fit 'int')"),
        (TypeError("get(): incompatible function arguments. 1. get(shape:"), 2, "smaller sizes"),
        (NotImplementedError("random bits array of size exceeding 2 ** 64"), 2, "smaller sizes"),
        (RuntimeError("Unable to initialize backend 'x'"), 2, "asks for what is not here"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            KeyError("rate"),
            1,
            "a fault of seqzoo, not of the request: KeyError: 'rate' in",
        ),
        (ValueError("\n".join(map(str, range(50)))), 2, "... 42 more lines\n49"),
        (ValueError("long" * 10_000), 2, "long"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_error_is_its_sentence(failing, capsys, error, code, says):
    assert failing(error) == code
    said = capsys.readouterr().err
    assert said.startswith("seqzoo report: ")
    assert says in said
    assert said.count("\n") <= 10
    assert len(said) < 5000


def test_an_error_without_words_is_asked_for_devices(failing, capsys, monkeypatch):
    assert failing(AssertionError()) == 1  # there are some
    monkeypatch.setattr(jax, "devices", _raises(AssertionError()))
    assert failing(AssertionError()) == 2
    assert "asks for what is not here" in capsys.readouterr().err.splitlines()[1]


def _raises(error):
    def call(*_):
        raise error

    return call


@pytest.mark.parametrize("flags", ["--nonsense", "nonsense", "--xla_dump_hlo_as_text=x"])
def test_flags_that_would_end_the_process_are_a_sentence(monkeypatch, flags):
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(ValueError, match=f"XLA_FLAGS='{flags}' is nothing that XLA reads"):
        check_flags()


def test_flags_that_xla_reads_are_fine(monkeypatch):
    for flags in ("", "--xla_dump_hlo_as_text=true"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        check_flags()


def test_a_working_folder_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert dispatch(["new", "mixer", "abc_mixer"]) == 2
    error = capsys.readouterr().err
    assert "the folder that this command was started in is gone" in error
    assert error.count("\n") == 1


def test_whoever_debugs_sees_where_an_error_arose(failing, capsys, monkeypatch):
    monkeypatch.setenv("SEQZOO_DEBUG", "1")
    assert failing(ValueError("no such thing")) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.of_the_day("no such device", 3)
def test_a_device_that_is_not_there_is_named_by_the_doctor_too():
    env = {**os.environ, "JAX_PLATFORMS": "nonsense", "PYTHONIOENCODING": "ascii"}
    call = [sys.executable, "-m", "seqzoo.train.cli", "doctor"]
    done = subprocess.run(call, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("seqzoo doctor: JAX_PLATFORMS=nonsense asks for what is not here")
    assert done.stderr.count("\n") == 1


def test_libraries_print_no_tracebacks_beside_the_sentence(monkeypatch, capsys):
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(errors.warnings, "showwarning", errors.warnings.showwarning)
    monkeypatch.setattr(errors.logging.getLogger(), "handlers", [])
    errors.only_sentences()
    sys.excepthook(ValueError, ValueError("from a library's thread"), None)
    errors.logging.getLogger("absl").error("a library's log")
    errors.logging.getLogger("jax._src.xla_bridge").warning("no GPU\nand more")
    thread = threading.Thread(target=errors.sentence, args=(None,))
    thread.start()
    thread.join()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "no GPU"
    assert len(said) == 2
    assert said[1].startswith("seqzoo: a fault of seqzoo")


class Full(io.RawIOBase):
    """What /dev/full is."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)


@pytest.mark.parametrize(("raw", "code"), [(io.BytesIO, 0), (lambda: io.BufferedWriter(Full()), 4)])
def test_output_that_knows_few_signs_or_is_full(monkeypatch, capsys, raw, code):
    monkeypatch.setattr(command, "only_sentences", lambda: None)
    written = raw()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as stop:
        main(["list"])
    assert stop.value.code == code
    if code == 0:
        assert rb"1 + s + s\xb2/2" in written.getvalue()
        assert capsys.readouterr().err == ""


def test_closed_streams_where_no_file_can_be_opened(monkeypatch):
    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(command, "open", none_left, raising=False)
    monkeypatch.setattr(command, "only_sentences", lambda: None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0


def test_the_version(capsys):
    assert dispatch(["--version"]) == 0
    assert capsys.readouterr().out == "seqzoo 0.1.0\n"


def test_what_fails_before_the_verb_is_a_sentence_too(monkeypatch, capsys):
    """As JAX does when it is imported, on a value of the environment that is none."""

    def fails(_):
        raise ValueError("invalid truth value 'maybe'")

    monkeypatch.setattr(command, "_begin", fails)
    monkeypatch.setattr(command, "only_sentences", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main(["list"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "seqzoo list: invalid truth value 'maybe'\n"
