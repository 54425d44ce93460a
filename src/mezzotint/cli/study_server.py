"""The page and the server of ``mezzotint study``: Python's own, for a room of people, not for the open internet."""

from __future__ import annotations

import html
import io
import json
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mezzotint.cli.before_after import shown
from mezzotint.cli.fidelity import open_images, pair_images
from mezzotint.data.images import decode
from mezzotint.data.store import Store
from mezzotint.errors import DataError, MezzotintError
from mezzotint.tasks.study import Answers, Trial, trials

MAX_BODY = 4096
MAX_OPEN = 10_000
"""Questions that are open at once; older ones are forgotten."""
_SUBJECT = re.compile(r"[\w.@+-]{1,64}")


@dataclass
class Study:
    """What is asked, and what was answered.

    Attributes:
        stores: Where the images lie: made, real and, for task 1, small.
        pairs: Name of a pair -> name of each of its images in the stores.
        answers: Where answers go.
        system: What made the images.
        num: Questions to each person.
        seconds: How long a pair is shown.
        seed: Of pairs, orders and sides.
    """

    stores: tuple[Store, ...]
    pairs: dict[str, tuple[str, ...]]
    answers: Answers
    system: str
    num: int
    seconds: float
    seed: int
    _open: OrderedDict[str, tuple[str, Trial]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(
        cls, outputs: Path, reference: Path, low_res: Path | None, answers: Answers, *, system: str, num: int, seconds: float, seed: int
    ) -> Study:
        """A study of the images of two or three folders.

        Raises:
            DataError: No pairs, or an image that cannot be read.
        """
        stores = [open_images(path) for path in (outputs, reference, low_res) if path is not None]
        found = pair_images(stores[0], stores[1], stores[2] if low_res is not None else None)
        pairs = {names[0]: tuple(name for name in names if name is not None) for names in found}
        study = cls(tuple(stores), pairs, answers, system, num, seconds, seed)
        for names in pairs.values():
            made, real = (decode(store.read(name), store.place(name)).shape[:2] for store, name in zip(stores[:2], names[:2], strict=True))
            if made != real:
                places = f"{stores[0].place(names[0])} is {made[0]}x{made[1]}, {stores[1].place(names[1])} {real[0]}x{real[1]}"
                raise DataError(f"{places}; a difference of size would give the made one away")
        return study

    @property
    def task(self) -> int:
        """1 with the low-resolution image, 2 without."""
        return 1 if len(self.stores) == 3 else 2

    def next(self, subject: str) -> dict[str, Any]:
        """The next question to a person. Its key tells nothing of which image is the made one."""
        asked = trials(list(self.pairs), subject, num=self.num, seed=self.seed)
        done = self.answers.answered(self.system, self.task, subject)
        left = [trial for trial in asked if trial.pair not in done]
        where = {"done": len(asked) - len(left), "total": len(asked)}
        if not left:
            return {**where, "key": None}
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._open[key] = (subject, left[0])
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return {**where, "key": key, "seconds": self.seconds, "task": self.task}

    def answer(self, key: str, chosen: str, milliseconds: int) -> bool:
        """Stores an answer; False for a question that was never asked, or is answered already."""
        with self._lock:
            held = self._open.pop(key, None)
        if held is None or chosen not in ("left", "right"):
            return False
        subject, trial = held
        side = "left" if chosen == "left" else "right"
        return self.answers.add(self.system, self.task, subject, trial, chosen=side, milliseconds=milliseconds)

    def picture(self, key: str, place: str) -> bytes | None:
        """A PNG of the left, right or small image of an open question."""
        with self._lock:
            held = self._open.get(key)
        if held is None or place not in ("left", "right", "small") or (place == "small" and self.task == 2):
            return None
        trial = held[1]
        which = 2 if place == "small" else 0 if place == trial.made_side else 1
        store, name = self.stores[which], self.pairs[trial.pair][which]
        out = io.BytesIO()
        # Encoded anew, all in one way: neither metadata nor the kind of file tells the images apart.
        shown(decode(store.read(name), store.place(name))).save(out, "PNG", compress_level=1)
        return out.getvalue()


def server(study: Study, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the page; ``serve_forever`` runs it.

    Args:
        study: What is asked.
        host: Address to listen at.
        port: Port, or 0 for a free one.

    Raises:
        OSError: The address cannot be had.
    """

    class Handler(_Handler):
        held = study

    return ThreadingHTTPServer((host, port), Handler)


class _Handler(BaseHTTPRequestHandler):
    held: Study
    timeout = 60

    def do_GET(self) -> None:
        """Page, question or picture."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/":
            page = _PAGE.replace("{{question}}", html.escape(_QUESTIONS[self.held.task]))
            self._send(page.encode(), "text/html; charset=utf-8")
        elif parts.path == "/next" and _SUBJECT.fullmatch(query.get("subject", "")):
            self._json(self.held.next(query["subject"]))
        elif parts.path == "/picture":
            self._picture(query.get("key", ""), query.get("place", ""))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """An answer."""
        size = self.headers.get("Content-Length", "")
        if urlsplit(self.path).path != "/answer" or not size.isdecimal():
            return self._refuse(HTTPStatus.NOT_FOUND)
        if int(size) > MAX_BODY:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            given = json.loads(self.rfile.read(int(size)))
            key, chosen, milliseconds = str(given["key"]), str(given["chosen"]), int(given["milliseconds"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return self._refuse(HTTPStatus.BAD_REQUEST)
        if not 0 <= milliseconds < 2**31 or not self.held.answer(key, chosen, milliseconds):
            return self._refuse(HTTPStatus.BAD_REQUEST)
        return self._json({"stored": True})

    def _picture(self, key: str, place: str) -> None:
        try:
            data = self.held.picture(key, place)
        except MezzotintError:  # the file changed or went away while the study ran
            return self._refuse(HTTPStatus.GONE)
        return self._refuse(HTTPStatus.NOT_FOUND) if data is None else self._send(data, "image/png")

    def _json(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_error(status)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the terminal belongs to the study."""


_QUESTIONS = {
    1: "Which of the two large images is the better high-quality version of the small image in the middle?",
    2: "Which image would you guess is from a camera?",
}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Which is real?</title>
<style>
body { font: 18px/1.5 sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; text-align: center; color: #222; background: #eee }
#pair { display: flex; gap: 1rem; justify-content: center; align-items: center; min-height: 20rem }
#pair img { max-width: 40%; width: 24rem; image-rendering: auto }
#pair img.small { width: 24rem; max-width: 20% }
button, input { font: inherit; padding: .4rem 1.5rem; margin: .5rem }
[hidden] { display: none !important }
</style>
<h1>Which is real?</h1>
<form id="start">
  <p>Two images are shown for a few seconds; then say: {{question}}</p>
  <label>Your name or a number of your choice: <input id="subject" required pattern="[A-Za-z0-9_.@+\\-]{1,64}" autofocus></label>
  <button>Begin</button>
</form>
<div id="question" hidden>
  <p id="count"></p>
  <div id="pair"></div>
  <p>{{question}}</p>
  <p id="choice" hidden>
    <button type="button" data-side="left">left (press 1)</button>
    <button type="button" data-side="right">right (press 2)</button>
  </p>
</div>
<p id="end" hidden>That was the last one. Thank you.</p>
<script>
const find = id => document.getElementById(id);
let key = null, since = 0;
async function ask() {
  const reply = await fetch("/next?subject=" + encodeURIComponent(find("subject").value));
  const given = await reply.json();
  if (given.key === null) { find("question").hidden = true; find("end").hidden = false; return; }
  find("count").textContent = `${given.done + 1} of ${given.total}`;
  const places = given.task === 1 ? ["left", "small", "right"] : ["left", "right"];
  const images = await Promise.all(places.map(place => new Promise((done, failed) => {
    const image = new Image();
    image.className = place;
    image.alt = place;
    image.onload = () => done(image);
    image.onerror = failed;
    image.src = `/picture?key=${given.key}&place=${place}`;
  })));
  find("pair").replaceChildren(...images);
  setTimeout(() => {
    find("pair").replaceChildren();
    find("choice").hidden = false;
    key = given.key;
    since = performance.now();
  }, 1000 * given.seconds);
}
async function answer(chosen) {
  if (key === null) return;
  const body = JSON.stringify({ key, chosen, milliseconds: Math.round(performance.now() - since) });
  key = null;
  find("choice").hidden = true;
  await fetch("/answer", { method: "POST", body });
  await ask();
}
find("start").addEventListener("submit", event => {
  event.preventDefault();
  find("start").hidden = true;
  find("question").hidden = false;
  ask();
});
for (const button of document.querySelectorAll("#choice button"))
  button.addEventListener("click", () => answer(button.dataset.side));
document.addEventListener("keydown", event => {
  if (event.key === "1") answer("left");
  if (event.key === "2") answer("right");
});
</script>
</html>
"""
