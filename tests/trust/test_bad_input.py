"""Every bad file is refused by one message, at once, and leaves everything as it was."""

from __future__ import annotations

import contextlib
import io
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lampq_onnx.cli.main import run
from tests.trust import bad_checkpoints, bad_images, bad_onnx, bad_texts
from tests.trust.case import OUT, Case, Good, make_good

KINDS = {"onnx": bad_onnx, "texts": bad_texts, "images": bad_images, "checkpoints": bad_checkpoints}
LEAST = {"onnx": 150, "texts": 130, "images": 90, "checkpoints": 50}
SECONDS, KILOBYTES = 10.0, 800_000
"""Of one case; what it may import (PyTorch) included."""

KEPT = b"an earlier result"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    return make_good(tmp_path_factory.mktemp("good"))


def invoke(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        run(words)
    return int(caught.value.code or 0), out.getvalue(), err.getvalue()


def problems(case: Case, room: Path) -> Iterator[str]:
    """What is wrong with how a case ends."""
    output = room / "out"
    kept = output / "model.onnx" if case.words[0] == "quantize" else output
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(KEPT)
    start, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What exists may be replaced: the refusal has to come from the bad file.
    allowed: tuple[str, ...] = ("--overwrite",) if OUT in case.words else ()
    if case.words[0] == "quantize" and "digits" not in case.words:
        for option, value in (("--calibration", "noise"), ("--validation", "unread")):
            allowed += () if option in case.words else (option, value)  # without images nothing is loaded
    code, out, err = invoke([str(output) if word == OUT else str(word) for word in (*case.words, *allowed)])
    if time.perf_counter() - start > SECONDS:
        yield "it takes too long"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak > KILOBYTES:
        yield "it takes too much memory"
    if code != case.code:
        yield f"the exit code is {code}, not {case.code}"
    text = " ".join(err.split())
    if not text or "Traceback" in out + err or "internal error" in err:
        yield "no clear message"
    if case.code == 1 and err.count("error:") != 1 and not text.startswith("Usage"):
        yield "not one message"
    yield from (f"the message does not say {word!r}" for word in case.says if word not in text)
    if len(text) > 1500:
        yield f"the message has {len(text)} characters"
    present = sorted(path.relative_to(room).as_posix() for path in room.rglob("*") if path.is_file())
    if present != [kept.relative_to(room).as_posix()] or kept.read_bytes() != KEPT:
        yield f"files changed: {present}"


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused(kind: str, good: Good, tmp_path: Path) -> None:
    wrong, names = [], []
    for i, case in enumerate(KINDS[kind].cases(good)):
        names.append(case.name)
        room = tmp_path / str(i)
        room.mkdir()
        wrong += [f"{case.name}: {problem}" for problem in problems(case, room)]
    assert not wrong, f"{len(wrong)} problems\n" + "\n".join(wrong)
    assert len(names) == len(set(names))
    assert len(names) >= LEAST[kind]
    assert not (good.folder / "executed").exists(), "code in a file was run"


def test_the_good_files_are_taken(good: Good, tmp_path: Path) -> None:
    for i, words in enumerate(
        (good.convert(), good.convert(None, None, "--weights", good.weights), good.validate(), ("inspect", good.model))
    ):
        code, _, err = invoke([str(tmp_path / f"out{i}") if word == OUT else str(word) for word in words])
        assert code == 0, err
