import logging
import os
import signal
import subprocess
import sys
import types

import pytest

import destseg
from destseg.cli import main as main_module
from destseg.cli.main import COMMANDS, main
from destseg.errors import DataError, SettingsError, TrainingInterrupted


@pytest.fixture
def command(monkeypatch):
    """Adds a command ``fake`` that does what it is given."""

    def add(run) -> list[str]:
        module = types.ModuleType("destseg.cli.fake")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "destseg.cli.fake", module)
        monkeypatch.setitem(main_module.COMMANDS, "fake", "for tests")
        return ["fake", "a", "--b"]

    return add


def raising(error: BaseException):
    def run(words):
        raise error

    return run


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_usage_lists_every_command(words, capsys):
    assert main(words) == (0 if words else 2)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: destseg COMMAND")
    for name, what in COMMANDS.items():
        assert f"  {name} " in printed
        assert what in printed


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"destseg {destseg.__version__}\n"


@pytest.mark.parametrize("word", ["pridict", "--halp", "", "main", "flags", "../x"])
def test_an_unknown_command_is_refused_with_the_known_ones(word, capsys):
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert repr(word) in err
    assert all(name in err for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: destseg {name} ")
    assert err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_flag_is_refused(name, capsys):
    assert main([name, "--no-such-flag", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: destseg" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["train"], ["train", "data"], ["predict"], ["preview"]])
def test_missing_arguments_are_refused(words, capsys):
    assert main(words) == 2
    assert "required" in capsys.readouterr().err


def test_abbreviated_flags_are_refused(tmp_path, capsys):
    # A flag that is added later must not change what an abbreviation means.
    assert main(["train", str(tmp_path), "--outp", str(tmp_path / "model")]) == 2


def test_a_command_gets_its_words_and_its_code_is_the_exit_code(command):
    got = []
    for code in (0, 1, 3):
        words = command(lambda words, code=code: got.append(words) or code)
        assert main(words) == code
    assert got == [["a", "--b"]] * 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("expected this, got that"), 1),
        (SettingsError("expected this, got that"), 2),
        (TrainingInterrupted(signal.SIGINT, "expected this, got that"), 130),
        (TrainingInterrupted(signal.SIGTERM, "expected this, got that"), 143),
    ],
)
def test_our_errors_are_one_message_and_an_exit_code(error, code, command, capsys):
    assert main(command(raising(error))) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("destseg: ")
    assert err.count("expected this, got that") == 1
    assert "Traceback" not in err


def test_an_interruption_from_the_keyboard_exits_as_shells_expect(command, capsys):
    assert main(command(raising(KeyboardInterrupt()))) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("made_of_it", [None, OSError("no such device"), SystemExit(15)])
def test_a_signal_ends_a_command_that_cleans_up_and_says_so(number, made_of_it, command, capsys):
    """A library may also have made an error of its own of it, as imports in C do."""
    before, steps = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)], []

    def run(words):
        try:
            os.kill(os.getpid(), number)
            steps.append("went on")
        except BaseException:
            if made_of_it is not None:
                raise made_of_it from None
            raise
        finally:
            steps.append("cleaned up")
        return 0

    assert main(command(run)) == 128 + number
    assert steps == ["cleaned up"]
    assert capsys.readouterr() == ("", f"destseg: stopped by {number.name}\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


THROUGH_EXEC = """
import sys, types
from destseg.cli import main
fake = types.ModuleType("destseg.cli.fake")
fake.run = lambda words: exec("import os; os.kill(os.getpid(), 15)")
sys.modules["destseg.cli.fake"] = fake
main.COMMANDS["fake"] = "for tests"
sys.exit(main.main(["fake"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_while_a_module_makes_its_classes_is_the_exit_code_too(tmp_path):
    (tmp_path / "through_exec.py").write_text(THROUGH_EXEC, encoding="utf-8")
    words = [sys.executable, "-m", "through_exec"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "destseg: stopped by SIGTERM\n")


def test_a_fault_of_ours_is_not_hidden(command):
    with pytest.raises(ZeroDivisionError):
        main(command(raising(ZeroDivisionError())))


@pytest.mark.parametrize(("given", "code"), [(0, 0), (2, 2), (None, 0), ("words", 2)])
def test_a_command_may_exit_as_argparse_does(given, code, command):
    assert main(command(raising(SystemExit(given)))) in {code, 2 if given is None else code}


def test_the_program_leaves_no_log_handler_behind(command):
    before = list(logging.getLogger("destseg").handlers)
    main(command(lambda _: 0))
    main(command(raising(DataError("x"))))
    assert logging.getLogger("destseg").handlers == before


def test_without_arguments_those_of_the_process_are_used(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["destseg", "--version"])
    assert main() == 0
    assert destseg.__version__ in capsys.readouterr().out
