"""The commands as a whole: help, its speed, mistakes in typing, names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mezzotint import registry
from mezzotint.cli import COMMANDS, arguments, main, sample
from mezzotint.cli.sample import parse_ema
from mezzotint.errors import ConfigError, DataError

PROGRAM = [sys.executable, "-m", "mezzotint"]
HELPS = [[], *([name] for name in COMMANDS), ["train", "small"], ["train-classifier", "small-classifier"]]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_is_quick_and_imports_nothing_heavy(words):
    code = (
        "import sys, mezzotint.cli\n"
        "try: code = mezzotint.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'accelerate', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words, "--help"], capture_output=True, text=True)
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "mezzotint" in done.stdout
        if best < 0.5:
            return
    # A machine that is at work on other things says nothing about the program.
    if os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        pytest.skip(f"the machine is busy (load {os.getloadavg()[0]:.1f}); help took {best:.2f} s")
    assert best < 0.5


def test_help_lists_every_command():
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_help_lists_every_setting_of_a_recipe(mezzotint):
    said = " ".join(mezzotint("train", "small", "--help").out)
    for option in ("--data.path", "--net.width", "--train.images", "--ema.decays", "--label.drop", "--objective", "--resume", "--out"):
        assert f" {option} " in said


def test_the_package_gives_its_names_late():
    code = "import sys, mezzotint; assert 'torch' not in sys.modules; print(mezzotint.load.__name__, mezzotint.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("load ")
    import mezzotint

    for name in dir(mezzotint):
        assert getattr(mezzotint, name) is not None or name.startswith("__")
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        mezzotint.lod  # noqa: B018


def test_no_command_prints_help(mezzotint):
    said = mezzotint()
    assert said.code == 2 and said.out[0].startswith("usage: mezzotint")


def test_version(mezzotint):
    assert mezzotint("--version").out[0].split()[0] == "mezzotint"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["smaple"], ["unknown command 'smaple'", "'sample'"]),
        (["train"], ["needs a recipe", "small"]),
        (["train", "--data", "x"], ["the recipe comes first"]),
        (["train", "smal", "--data", "x", "--out", "y"], ["'smal'", "'small'"]),
        (["train", "small-classifier"], ["mezzotint train-classifier"]),
        (["train-classifier", "adm"], ["mezzotint train`"]),
        (["train", "small", "--data", "digits"], ["missing: --out"]),
        (["train", "small", "--out", "x"], ["no data", "--data"]),
        (["train", "small", "--data", "digits", "--out", "x", "--net.widht", "3"], ["--net.widht", "did you mean --net.width?"]),
        (["train", "small", "--data", "digits", "--out", "x", "--train.images", "many"], ["--train.images", "'many'"]),
        (["train", "small", "--data", "digits", "--out", "x", "--train.micro-batch", "few"], ["--train.micro-batch 'few'", "INT"]),
        (["train", "small", "--data", "digits", "--out", "x", "--train.precision", "fp8"], ["'fp8'", "'bf16'"]),
        (["train", "small", "--data", "digits", "--out", "x", "--objective", "vbl"], ["--objective 'vbl'", "'vlb'"]),
        (["sample"], ["missing: PATH"]),
        (["sample", "m", "--out", "x", "--nun", "3"], ["unknown option --nun", "did you mean --num?"]),
        (["sample", "m", "n", "--out", "x"], ["unknown argument n"]),
        (["sample", "m", "--out"], ["--out"]),
        (["sample", "m", "--out", "x", "--num", "few"], ["--num 'few'"]),
        (["sample", "m", "--out", "x"], ["no model at m", "does not exist"]),
        (["sample", "m", "--out", "x", "--ema", "best"], ["--ema best", "on, off"]),
        (["sample", "m", "--out", "x", "--every", "-1"], ["--every -1"]),
        (["redo", "a.png"], ["a.png does not exist"]),
        (["info", "a"], ["a does not exist"]),
        (["list", "smapler"], ["'smapler'", "'sampler'"]),
    ],
    ids=" ".join,
)
def test_mistakes_in_typing(refused, tmp_path, words, expected):
    line = refused(*words)
    for part in expected:
        assert part in line
    assert list(tmp_path.iterdir()) == []


def test_an_installed_program_shows_no_traceback(tmp_path):
    done = subprocess.run([*PROGRAM, "train", "small", "--data", "nowhere", "--out", "r"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [line for line in done.stderr.splitlines() if line.startswith("mezzotint: nowhere does not exist")]


def test_debug_shows_where_an_error_comes_from(monkeypatch):
    with pytest.raises(DataError):
        main(["info", "nowhere", "--debug"])
    monkeypatch.setenv("MEZZOTINT_DEBUG", "1")
    with pytest.raises(DataError):
        main(["info", "nowhere"])


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "a/b.png"), 2, "a/b.png: No space left on device"),
        (ConfigError("two\nlines"), 2, "two lines"),
    ],
)
def test_errors_of_any_command_are_one_line(mezzotint, monkeypatch, error, code, expected):
    def fail(command: str, words: list[str]) -> int:
        raise error

    monkeypatch.setattr(sample, "run", fail)
    said = mezzotint("sample", "m")
    assert said.code == code
    assert len(said.err) == 1 and expected in said.err[0]


def test_a_closed_pipe_is_no_error():
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "list"], stdout=writer, stderr=subprocess.PIPE, text=True, env=env)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""


def test_options_after_equals_signs_and_repeated(tmp_path):
    given = arguments.parse(sample.Arguments, ["m", "--out=o", "--guidance=cfg,scale=2", "--guidance", "classifier,model=c"], prog="p")
    assert given.out == Path("o")
    assert given.guidance == ("cfg,scale=2", "classifier,model=c")


@pytest.mark.parametrize(("text", "value"), [("on", True), ("off", False), ("0.999", 0.999)])
def test_choice_of_weights(text, value):
    assert parse_ema(text) == value


def test_list_shows_all_names_with_their_settings(mezzotint):
    said = "\n".join(mezzotint("list").out)
    for kind in ("sampler", "guidance", "recipe", "network"):
        assert all(name in said for name in registry.names(kind))
    lines = mezzotint("list", "samplers").out
    assert any(line.startswith("ddim,eta=0.0") for line in lines)
    assert "classifier,model=...,scale=1.0,from=0.0,to=inf" in mezzotint("list", "guidance").out


def test_demo_hands_on_its_arguments(mezzotint, monkeypatch):
    from mezzotint.cli import demo

    seen = []
    monkeypatch.setattr(demo, "run", lambda out, *, seed, check: seen.append((out, seed, check)) or 1)
    assert mezzotint("demo", "--out", "d", "--check", "--seed", "3").code == 1
    assert seen == [(Path("d"), 3, True)]
