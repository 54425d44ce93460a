"""The README tells the truth about files and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> set[str]:
    """The paths of the file tree, relative to the root; folders end in a slash."""
    block = re.search(r"^```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no file tree"
    paths, above = set(), {0: ""}
    for line in block[1].splitlines():
        depth = len(line) - len(line.lstrip())
        path = above[depth] + line.split()[0]
        above[depth + 2] = path
        paths.add(path)
    return paths


def commands(arguments: list[str]) -> str:
    """What the installed command line prints."""
    program = Path(sys.executable).with_name("mezzotint")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_tree_exists():
    for path in tree():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), f"README.md lists {path}"


def test_every_module_is_in_the_tree():
    modules = {path for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py"}
    missing = sorted({str(path.relative_to(ROOT)) for path in modules} - tree())
    assert not missing, f"add to the tree of README.md: {missing}"


def test_every_line_of_the_tree_says_what_the_file_is_for():
    block = README.split("```text\n")[1].split("```")[0]
    assert all(len(line.split()) > 1 for line in block.splitlines())


def test_commands_are_those_of_the_program():
    listed = set(re.findall(r"^\| `mezzotint ([a-z-]+)", README, re.MULTILINE))
    shown = commands(["--help"])
    known = set(re.findall(r"^[│ ]+([a-z][a-z-]+)  +\S", shown, re.MULTILINE))
    assert listed == known


@pytest.mark.parametrize("target", re.findall(r"^(?:make |.*`make )([a-z]+)", README, re.MULTILINE))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_pictures_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
