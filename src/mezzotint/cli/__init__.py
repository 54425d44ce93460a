"""The command line. One module a command; torch, numpy and Pillow are imported when a command runs, not for ``--help``."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mezzotint.cli.once import first_to_fail, is_first
from mezzotint.errors import MezzotintError, unknown

COMMANDS = {
    "train": ("train", "train a model on images"),
    "train-classifier": ("train", "train a classifier of noisy images, to guide with"),
    "runs": ("runs", "list training runs: what they are doing, images, loss, last checkpoint"),
    "plot": ("plot", "draw loss and distance of training runs"),
    "ema": ("ema", "make a moving average of another length after a run"),
    "plan": ("plan", "say what training will need: parameters, FLOPs, memory, time"),
    "doctor": ("doctor", "check Python, torch, device, disk and data, and say what to mend"),
    "covariance": ("covariance", "measure or train what the optimal reverse variance needs"),
    "sample": ("sample", "make images: PNGs, a grid and a manifest"),
    "evaluate": ("evaluate", "measure images against others: FID, precision, recall, ..."),
    "reference": ("reference", "make reference statistics of real images"),
    "compare": ("compare", "put results of evaluate into one table"),
    "cascade": ("cascade", "join models of growing images into one"),
    "invert": ("invert", "find the noise that becomes a given image, by DDIM backwards"),
    "upscale": ("upscale", "enlarge pictures with a super-resolution model"),
    "study": ("study", "show people real and made images, and count which they take for real"),
    "fidelity": ("fidelity", "compare enlarged images with originals: PSNR, SSIM, consistency"),
    "likelihood": ("likelihood", "measure bits/dim of images under a model"),
    "tune": ("tune", "find the best sampler for each number of network calls"),
    "redo": ("redo", "make an image again from the recipe that its PNG carries"),
    "models": ("models", "list published models that load by name"),
    "fetch": ("fetch", "fetch a published model into the cache"),
    "convert": ("convert", "official weights to a model, or a model to official weights"),
    "info": ("info", "say what a model, run, data set, sample folder or PNG is"),
    "data": ("data", "look into a data set, pack it into shards or a ZIP, or draw it"),
    "list": ("listing", "list samplers, guidances, recipes and other names"),
    "demo": ("demonstrate", "the whole way on handwritten digits: train, guide, sample, measure"),
}
"""Command -> its module and a line of help. The module has ``run(command, arguments) -> exit code``."""

USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The words after the program's name; None: those of this process.

    Returns:
        The exit code: 0, 2 for a user's error (one line on stderr), 130 after Ctrl-C, or what the command gave.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("MEZZOTINT_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        with _short_warnings():
            code = _dispatch(words)
            sys.stdout.flush()  # here, where a closed pipe is understood
            return code
    except KeyboardInterrupt:
        if debug:
            raise
        if is_first():
            print("mezzotint: interrupted", file=sys.stderr)
        return 130
    except MezzotintError as error:
        if debug:
            raise
        return _complain(str(error))
    except BrokenPipeError:  # such as `mezzotint info PATH | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}; check the path, its permissions and the free space")


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else USER_ERROR
    if words[0] == "--version":
        import mezzotint

        print(f"mezzotint {mezzotint.__version__}")
        return 0
    if words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    module, _ = COMMANDS[words[0]]
    return importlib.import_module(f"mezzotint.cli.{module}").run(words[0], words[1:])


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Shows warnings as one line each, without the place in the code; of several processes, those of the first."""
    before = warnings.formatwarning

    def brief(message: Warning | str, *_: Any, **__: Any) -> str:
        return f"mezzotint: warning: {message}\n"

    warnings.formatwarning = brief
    try:
        if is_first():
            yield
        else:
            with warnings.catch_warnings(action="ignore"):
                yield
    finally:
        warnings.formatwarning = before


def _complain(text: str) -> int:
    with first_to_fail() as speaks:
        if speaks:
            print(f"mezzotint: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return USER_ERROR


def _help() -> str:
    lines = [f"  {name:<18}{words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mezzotint COMMAND ...",
            "",
            "Trains, guides, samples, upscales and evaluates image diffusion models.",
            "",
            *lines,
            "",
            "`mezzotint COMMAND --help` lists its settings; --debug shows where an error comes from; --version says which this is.",
        ]
    )
