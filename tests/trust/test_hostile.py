"""Files that want to run code, reach the network or speak HTML."""

from __future__ import annotations

import json
import pickle
import socket
import time
from pathlib import Path

import pytest

from tests.trust import bad_checkpoints
from tests.trust.case import OUT, Good, make_good
from tests.trust.test_bad_input import invoke

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return make_good(tmp_path_factory.mktemp("good"))


def run(words: tuple[str | Path, ...], output: Path) -> tuple[int, str, str]:
    return invoke([str(output) if word == OUT else str(word) for word in words])


def test_the_payload_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(bad_checkpoints.Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_names_are_escaped_in_the_html_report(good: Good, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    code, _, err = run(good.validate(), path)
    assert code == 0, err
    data = json.loads(path.read_text())
    data["model"] = data["preprocessing"] = SCRIPT
    data["notes"] = [SCRIPT, f'" onload="{SCRIPT}']
    for layer in data["layers"]:
        layer["name"] = layer["type"] = layer["storage"] = f"{SCRIPT}{layer['name']}"
    path.write_text(json.dumps(data))
    code, _, err = invoke(["report", str(path), "-o", str(tmp_path / "report.html"), "--overwrite"])
    assert code == 0, err
    page = (tmp_path / "report.html").read_text()
    assert "alert(1)" in page
    assert SCRIPT not in page
    assert '" onload="' not in page


def test_nothing_reaches_the_network(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def refuse(*arguments: object, **_: object) -> None:
        reached.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checkpoint = tmp_path / "model.pth"
    __import__("torch").save(bad_checkpoints.state(), checkpoint)
    code, _, err = run(bad_checkpoints.words(checkpoint), tmp_path / "a")
    assert (code, "no calibration images" in err) == (2, True)
    for i, words in enumerate((good.convert(), good.validate(), ("inspect", good.model), ("schema", "plan"))):
        code, _, err = run(words, tmp_path / f"out{i}")
        assert code == 0, err
    assert not reached
    # And the one option that may: the failure is one message. The hub's client waits between its trials.
    images = ("--calibration", "synthetic", "--validation", str(good.images))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    code, _, err = invoke(
        ["quantize", "vit_tiny_patch16_224", "--pretrained", "--output", str(tmp_path / "b"), *images]
    )
    assert code == 1
    assert "Traceback" not in err
    assert reached or "download" in err
