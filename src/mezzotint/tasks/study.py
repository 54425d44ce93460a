"""Two-alternative forced choice: people see a real and a made image side by side and say which is real. The answers lie in SQLite.

What is counted is how often the made image was chosen. One half means that people cannot tell the two apart.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.proportion import wilson

Side = Literal["left", "right"]
WITH_LOW_RES, ALONE = 1, 2
"""The two tasks: which is the better high-resolution version of the small image in the middle; which is a photograph."""
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    system TEXT NOT NULL,
    task INTEGER NOT NULL,
    subject TEXT NOT NULL,
    pair TEXT NOT NULL,
    made_side TEXT NOT NULL CHECK (made_side IN ('left', 'right')),
    chosen TEXT NOT NULL CHECK (chosen IN ('left', 'right')),
    milliseconds INTEGER NOT NULL,
    time TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (system, task, subject, pair)
)
"""


@dataclass(frozen=True)
class Trial:
    """One question to one person.

    Attributes:
        pair: Name of the pair of images.
        made_side: Where the made image stands.
    """

    pair: str
    made_side: Side


def trials(pairs: Sequence[str], subject: str, *, num: int, seed: int = 0) -> list[Trial]:
    """The questions to a person: which pairs, in which order, on which sides; the same whenever that person is asked again.

    Args:
        pairs: Names of all pairs.
        subject: The person.
        num: Questions; all pairs where there are fewer.
        seed: Another seed gives other questions.

    Example:
        >>> trials(["a", "b"], "ann", num=1) == trials(["b", "a"], "ann", num=2)[:1]
        True
    """
    ordered = sorted(pairs, key=lambda pair: _digest(seed, subject, pair, "order"))
    return [Trial(pair, "left" if _digest(seed, subject, pair, "side")[0] % 2 else "right") for pair in ordered[:num]]


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


class Answers:
    """The answers of all studies that share a file.

    Args:
        path: The SQLite file; made where there is none.

    Raises:
        DataError: It is no SQLite file, or cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with self._connection() as connection:
                connection.execute(_TABLE)
        except sqlite3.Error as error:
            raise DataError(f"{path} cannot be used as a file of answers ({error}); give another one") from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        # One each time: a connection belongs to the thread that made it, and answers are few.
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def add(self, system: str, task: int, subject: str, trial: Trial, *, chosen: Side, milliseconds: int) -> bool:
        """Stores an answer; the first one of a person to a question holds.

        Args:
            system: What made the images.
            task: 1 or 2.
            subject: The person.
            trial: The question.
            chosen: The side that was taken for real.
            milliseconds: From the end of the view to the answer.

        Returns:
            Whether it was the first.
        """
        values = (system, task, subject, trial.pair, trial.made_side, chosen, milliseconds)
        words = "INSERT OR IGNORE INTO answers (system, task, subject, pair, made_side, chosen, milliseconds) VALUES (?, ?, ?, ?, ?, ?, ?)"
        with self._connection() as connection:
            return connection.execute(words, values).rowcount == 1

    def answered(self, system: str, task: int, subject: str) -> set[str]:
        """The pairs that a person was asked about already."""
        words = "SELECT pair FROM answers WHERE system = ? AND task = ? AND subject = ?"
        with self._connection() as connection:
            return {pair for (pair,) in connection.execute(words, (system, task, subject))}

    def report(self) -> list[Confusion]:
        """What was found, system by system and task by task."""
        words = "SELECT system, task, subject, made_side = chosen FROM answers ORDER BY system, task, subject"
        found: dict[tuple[str, int], dict[str, list[int]]] = {}
        with self._connection() as connection:
            for system, task, subject, fooled in connection.execute(words):
                found.setdefault((system, task), {}).setdefault(subject, []).append(fooled)
        return [Confusion(*key, {who: (sum(each), len(each)) for who, each in people.items()}) for key, people in found.items()]


@dataclass(frozen=True)
class Confusion:
    """How often people took the made image for the real one.

    Attributes:
        system: What made the images.
        task: 1 or 2.
        subjects: Of each person, how often, and in how many answers.
    """

    system: str
    task: int
    subjects: dict[str, tuple[int, int]]

    @property
    def fooled(self) -> int:
        """Answers in which the made image was chosen."""
        return sum(count for count, _ in self.subjects.values())

    @property
    def total(self) -> int:
        """All answers."""
        return sum(total for _, total in self.subjects.values())

    @property
    def rate(self) -> float:
        """The confusion (or fool) rate; 0.5: nobody can tell the images apart.

        Source: Saharia et al. 2021 (SR3), section 4 (human evaluation).
        """
        return self.fooled / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval by Wilson, which takes answers for independent of each other; those of one person are less so."""
        return wilson(self.fooled, self.total)


def check(*, task: int, num: int, seconds: float) -> None:
    """Checks the settings of a study.

    Raises:
        ConfigError: A setting that cannot be.
    """
    if task not in (WITH_LOW_RES, ALONE):
        raise ConfigError(f"task {task}; give 1 (with the low-resolution image) or 2 (without)")
    if num < 1 or not 0 < seconds <= 3600:
        raise ConfigError(f"{num} questions of {seconds:g} s each; give at least 1, and a time above 0")
