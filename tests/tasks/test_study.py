"""Forced choice between two images: questions, answers, and the rate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.proportion import wilson
from mezzotint.tasks.study import Answers, Trial, check, trials

PAIRS = [f"{k}.png" for k in range(100)]


def test_questions_are_fair_and_repeat_themselves():
    every = [trials(PAIRS, f"person {k}", num=50) for k in range(200)]
    assert all(len({trial.pair for trial in asked}) == 50 for asked in every)
    left = sum(trial.made_side == "left" for asked in every for trial in asked)
    assert abs(left / 10_000 - 0.5) < 0.02
    first = [asked[0].pair for asked in every]
    assert len(set(first)) > 60  # not everybody begins with the same
    assert trials(PAIRS[::-1], "person 3", num=50) == every[3] != trials(PAIRS, "person 3", num=50, seed=1)
    assert len(trials(PAIRS[:7], "ann", num=50)) == 7


def test_rates(tmp_path):
    answers = Answers(tmp_path / "a.db")
    for k in range(30):
        answers.add("sr3", 2, "ann", Trial(f"{k}", "left"), chosen="left" if k < 12 else "right", milliseconds=700)
    for k in range(10):
        answers.add("sr3", 2, "bob", Trial(f"{k}", "right"), chosen="right" if k < 6 else "left", milliseconds=700)
    answers.add("sr3", 1, "ann", Trial("0", "left"), chosen="right", milliseconds=700)
    answers.add("regression", 2, "ann", Trial("0", "left"), chosen="right", milliseconds=700)
    found = {(c.system, c.task): c for c in Answers(tmp_path / "a.db").report()}
    assert set(found) == {("sr3", 1), ("sr3", 2), ("regression", 2)}
    both = found["sr3", 2]
    assert (both.fooled, both.total, both.rate) == (18, 40, 0.45) and both.interval == wilson(18, 40)
    assert both.subjects == {"ann": (12, 30), "bob": (6, 10)} and found["sr3", 1].rate == 0


def test_the_first_answer_holds(tmp_path):
    answers, trial = Answers(tmp_path / "a.db"), Trial("x", "left")
    assert answers.add("sr3", 2, "ann", trial, chosen="left", milliseconds=5)
    assert not answers.add("sr3", 2, "ann", trial, chosen="right", milliseconds=5)
    assert answers.report()[0].rate == 1 and answers.answered("sr3", 2, "ann") == {"x"} and not answers.answered("sr3", 1, "ann")


def test_many_at_once(tmp_path):
    answers = Answers(tmp_path / "a.db")
    with ThreadPoolExecutor(8) as pool:
        stored = list(
            pool.map(lambda k: answers.add("s", 2, f"p{k % 8}", Trial(f"{k // 8}", "left"), chosen="left", milliseconds=k), range(160))
        )
    assert all(stored) and answers.report()[0].total == 160


def test_mistakes(tmp_path):
    (tmp_path / "notes.txt").write_text("these are no answers at all, " * 100)
    with pytest.raises(DataError, match="cannot be used as a file of answers"):
        Answers(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="cannot be used"):
        Answers(tmp_path / "nowhere" / "a.db")
    for wrong in ({"task": 3}, {"num": 0}, {"seconds": 0.0}):
        with pytest.raises(ConfigError, match="give"):
            check(**{"task": 2, "num": 5, "seconds": 3.0, **wrong})
