"""``mezzotint study``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    from mezzotint.tasks.study import Confusion


@dataclass(frozen=True)
class RunArguments:
    """Shows people pairs of a real and a made image in their browsers and stores which they take for the real one; Ctrl-C ends it.

    Task 1 also shows the low-resolution image, and asks for its better version; task 2 asks which image was taken by a camera.
    """

    outputs: tyro.conf.Positional[Path]
    """Folder or ZIP file of made images, such as `mezzotint upscale` writes."""
    reference: Path
    """Folder or ZIP file of the originals; files belong together if their paths agree but for the suffix."""
    db: Path
    """SQLite file of the answers; several studies may share one."""
    low_res: Path | None = None
    """Folder or ZIP file of the low-resolution images, for task 1."""
    task: Literal[1, 2] = 2
    """1 with the low-resolution image, 2 without."""
    system: str | None = None
    """Name of what made the images, for the report; without it the name of the folder."""
    num: int = 50
    """Questions to each person."""
    seconds: float = 3.0
    """How long each pair is shown."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8765
    """Port to listen at; 0 takes a free one."""
    seed: int = 0
    """Another seed gives other pairs, orders and sides."""


@dataclass(frozen=True)
class ReportArguments:
    """Prints how often people took the made image for the real one (the confusion or fool rate), with its 95 % interval."""

    db: tyro.conf.Positional[Path]
    """SQLite file of the answers."""
    json: Path | None = None
    """Also write the figures to this file."""


def run(command: str, words: list[str]) -> int:
    """Runs a study, or reports on what was answered.

    Args:
        command: "study".
        words: "run" or "report", then its arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: mezzotint {command} run|report ...\n\n"
            f"  run     {_first(RunArguments)}\n  report  {_first(ReportArguments)}\n\n"
            f"`mezzotint {command} run --help` lists its settings."
        )
        return 0 if words else 2
    if words[0] not in ("run", "report"):
        raise ConfigError(f"`mezzotint {command}` knows run and report, not '{words[0]}'")
    if words[0] == "report":
        return _report(parse(ReportArguments, words[1:], prog=f"mezzotint {command} report"))
    return _serve(parse(RunArguments, words[1:], prog=f"mezzotint {command} run"))


def _first(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _serve(given: RunArguments) -> int:
    from mezzotint.cli.study_server import Study, server
    from mezzotint.tasks.study import Answers, check

    check(task=given.task, num=given.num, seconds=given.seconds)
    if (given.task == 1) != (given.low_res is not None):
        raise ConfigError("task 1 shows the low-resolution image and needs --low-res; task 2 does not")
    study = Study.of(
        given.outputs,
        given.reference,
        given.low_res,
        Answers(given.db),
        system=given.system or given.outputs.stem,
        num=given.num,
        seconds=given.seconds,
        seed=given.seed,
    )
    try:
        running = server(study, given.host, given.port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
        raise ConfigError(f"cannot listen at {given.host}:{given.port} ({reason}); give another --host or --port") from error
    host, port = running.server_address[:2]
    print(f"{len(study.pairs)} pairs, {min(given.num, len(study.pairs))} questions to each person; answers go to {given.db}")
    print(f"open http://{host}:{port}/ in a browser; Ctrl-C ends the study", flush=True)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        running.server_close()
    for line in report(study.answers.report()):
        print(line)
    return 0


def _report(given: ReportArguments) -> int:
    import json

    from mezzotint.errors import DataError
    from mezzotint.tasks.study import Answers
    from mezzotint.weights.io import write_text

    if not given.db.is_file():
        raise DataError(f"{given.db} does not exist; give the file of `mezzotint study run --db`")
    found = Answers(given.db).report()
    for line in report(found):
        print(line)
    if given.json is not None:
        figures = [
            {"system": c.system, "task": c.task, "rate": c.rate, "interval": c.interval, "answers": c.total, "subjects": c.subjects}
            for c in found
        ]
        write_text(given.json, json.dumps(figures, indent=2) + "\n")
    return 0


def report(found: list[Confusion]) -> list[str]:
    """The figures in lines.

    Args:
        found: What ``Answers.report`` gave.
    """
    if not found:
        return ["no answers yet"]
    lines = []
    for each in found:
        low, high = each.interval
        task = "with" if each.task == 1 else "without"
        lines.append(f"{each.system}, task {each.task} ({task} the low-resolution image):")
        who = f"{each.total} answers of {len(each.subjects)} people"
        lines.append(f"  fool rate {each.rate:.1%} (95 %: {low:.1%} to {high:.1%}), {who}; 50 % is best")
        if len(each.subjects) > 1:
            shares = sorted(count / total for count, total in each.subjects.values())
            lines.append(f"  single people: {shares[0]:.1%} to {shares[-1]:.1%}, median {shares[len(shares) // 2]:.1%}")
    return lines
