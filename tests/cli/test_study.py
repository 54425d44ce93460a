"""mezzotint study: the server, answered by a program, and the report."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.makers import encoded, folder, pixels, wide_png

from mezzotint.cli.study_server import MAX_BODY, Study, server
from mezzotint.tasks.study import Answers

WHITE, BLACK = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Made images are white, real ones black, small ones of many colours."""
    names = [f"{k}" for k in range(6)]
    folder(tmp_path / "made", {f"{n}.png": encoded(WHITE) for n in names})
    folder(tmp_path / "real", {f"{n}.jpg": encoded(BLACK, "JPEG") for n in names})
    folder(tmp_path / "small", {f"{n}.png": encoded(pixels(2, 2, 3)) for n in names})
    return tmp_path


class Browser:
    """What the page does, as a program."""

    def __init__(self, address: str):
        self.address = address

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=10) as reply:
            return reply.read()

    def question(self, subject: str) -> dict:
        return json.loads(self.get(f"/next?subject={subject}"))

    def white(self, key: str) -> str:
        """The side of the white image."""
        sides = {place: Image.open(io.BytesIO(self.get(f"/picture?key={key}&place={place}"))) for place in ("left", "right")}
        bright = {place: np.asarray(image).mean() > 127 for place, image in sides.items()}
        assert sorted(bright.values()) == [False, True]
        return "left" if bright["left"] else "right"

    def answer(self, **body) -> int:
        return self.post(json.dumps(body).encode())

    def post(self, body: bytes, path: str = "/answer") -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data=body, method="POST"), timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    def status(self, path: str) -> int:
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200


@contextmanager
def running(world: Path, *, small: bool = False, **settings):
    held = {"system": "sr3", "num": 4, "seconds": 3.0, "seed": 0, **settings}
    study = Study.of(world / "made", world / "real", world / "small" if small else None, Answers(world / "a.db"), **held)
    web = server(study, "127.0.0.1", 0)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Browser(f"http://127.0.0.1:{web.server_address[1]}")
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_a_person_answers_all_questions(world):
    with running(world) as browser:
        page = browser.get("/").decode()
        assert "from a camera" in page and "{{" not in page and "http" not in page
        for k in range(4):
            given = browser.question("ann")
            assert (given["done"], given["total"], given["seconds"], given["task"]) == (k, 4, 3.0, 2)
            white = browser.white(given["key"])
            wanted = white if k < 3 else {"left": "right", "right": "left"}[white]
            assert browser.answer(key=given["key"], chosen=wanted, milliseconds=600) == 200
            assert browser.answer(key=given["key"], chosen=wanted, milliseconds=600) == 400  # once only
        assert browser.question("ann")["key"] is None and browser.question("bob")["done"] == 0
    found = Answers(world / "a.db").report()
    assert [(c.system, c.task, c.fooled, c.total) for c in found] == [("sr3", 2, 3, 4)]


def test_a_study_goes_on_where_it_stopped(world):
    for done in (0, 1):
        with running(world) as browser:
            given = browser.question("ann")
            assert given["done"] == done
            browser.answer(key=given["key"], chosen="left", milliseconds=1)


def test_task_one_shows_the_small_image(world):
    with running(world, small=True) as browser:
        assert "small image in the middle" in browser.get("/").decode()
        given = browser.question("ann")
        small = np.asarray(Image.open(io.BytesIO(browser.get(f"/picture?key={given['key']}&place=small"))))
        assert given["task"] == 1 and np.array_equal(small, pixels(2, 2, 3))
        assert browser.answer(key=given["key"], chosen="left", milliseconds=1) == 200
    assert Answers(world / "a.db").report()[0].task == 1


def test_nothing_gives_the_made_image_away(world):
    with running(world) as browser:  # one kind is PNG, the other JPEG
        given = browser.question("ann")
        assert set(given) == {"done", "total", "key", "seconds", "task"} and "png" not in json.dumps(given)
        images = [Image.open(io.BytesIO(browser.get(f"/picture?key={given['key']}&place={side}"))) for side in ("left", "right")]
        assert [(image.format, image.mode, image.size, image.info) for image in images] == 2 * [("PNG", "RGB", (8, 8), {})]


def test_what_is_no_answer_is_refused(world):
    with running(world) as browser:
        key = browser.question("ann")["key"]
        for body in (b"", b"[]", b"{", b"\xff", b'{"key": 1}', b'{"key": "x", "chosen": "left", "milliseconds": 1}'):
            assert browser.post(body) in (400, 404)
        for wrong in ({"chosen": "both"}, {"milliseconds": -1}, {"milliseconds": 1e99}, {"milliseconds": "soon"}, {"key": key + "x"}):
            given = browser.question("ann")
            assert browser.answer(**{"key": given["key"], "chosen": "left", "milliseconds": 1, **wrong}) == 400
        assert browser.post(b"x" * (MAX_BODY + 1)) == 413 and browser.post(b"{}", "/other") == 404
        for path in (
            "/x",
            "/next",
            "/next?subject=",
            "/next?subject=%3Cb%3E",
            f"/picture?key={key}&place=small",
            "/picture?key=x&place=left",
        ):
            assert browser.status(path) == 404
        assert browser.status("/../a.db") == 404
    assert Answers(world / "a.db").report() == []


def test_the_command(mezzotint, world, monkeypatch):
    monkeypatch.chdir(world)

    def answered(self):
        browser = Browser(f"http://127.0.0.1:{self.server_address[1]}")
        thread = threading.Thread(target=lambda: [self.handle_request() for _ in range(2)])
        thread.start()
        browser.answer(key=browser.question("ann")["key"], chosen="left", milliseconds=5)
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", answered)
    said = mezzotint("study", "run", world / "made", "--reference", world / "real", "--db", world / "a.db", "--port", "0", "--num", "3")
    assert said.code == 0 and "3 questions to each person" in said.out[0] and "1 answers of 1 people" in "\n".join(said.out)
    said = mezzotint("study", "report", world / "a.db", "--json", world / "r.json")
    held = json.loads((world / "r.json").read_text())
    assert said.code == 0 and held[0]["system"] == "made" and held[0]["answers"] == 1 and held[0]["rate"] in (0, 1)
    assert f"fool rate {held[0]['rate']:.1%}" in said.out[1]


def test_help(mezzotint):
    assert mezzotint("study").code == 2 and "run|report" in mezzotint("study", "--help").out[0]


def test_mistakes(refused, world):
    folder(world / "large", {f"{k}.png": wide_png(pixels(16, 16, 3, dtype=np.uint16)) for k in range(6)})
    made, real, db = world / "made", world / "real", world / "a.db"
    for words, line in (
        (["paint"], "knows run and report"),
        (["report", world / "none.db"], "does not exist"),
        (["run", made, "--reference", world / "none", "--db", db], "neither a folder nor a ZIP"),
        (["run", made, "--reference", real, "--db", db, "--task", "1"], "needs --low-res"),
        (["run", made, "--reference", real, "--db", db, "--low-res", world / "small"], "needs --low-res"),
        (["run", made, "--reference", real, "--db", db, "--num", "0"], "give at least 1"),
        (["run", world / "large", "--reference", real, "--db", db], "would give the made one away"),
        (["run", made, "--reference", real, "--db", db, "--host", "256.1.1.1"], "cannot listen"),
        (["run", made, "--reference", real, "--db", db, "--port", "99999"], "ports are 0 to 65535"),
    ):
        assert line in refused("study", *words), words
