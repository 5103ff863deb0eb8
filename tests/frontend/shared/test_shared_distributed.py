"""Two gloo processes find the same statistics and accuracy as one."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lampq_onnx.errors import UsageError
from lampq_onnx.frontend.shared.distributed import own_device, process_group
from lampq_onnx.running.processes import ALONE
from tests.frontend.shared.distributed_worker import statistics
from tests.prepared import PreparedPython, environment

WORKER = Path(__file__).with_name("distributed_worker.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def figures(folder: Path, prepared: PreparedPython) -> list[dict]:
    """What each of two processes found."""
    words = [
        *prepared.command, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
        f"--master-port={free_port()}", "--no-python", prepared.program, str(WORKER), str(folder),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_find_what_one_finds(tmp_path: Path, prepared: PreparedPython) -> None:
    alone = statistics(ALONE)
    first, second = figures(tmp_path, prepared)
    assert first["own_images"] < alone["own_images"]
    assert first["own_images"] + second["own_images"] == alone["own_images"]
    costs = [f"{few}{what} costs" for few in ("", "one ") for what in ("weight", "input", "estimated")]
    for name in ("traces", "few", "histograms", "ranges", "norms", "moments", "accuracy", *costs):
        assert alone[name]
        for shared in (first, second):
            assert shared[name].keys() == alone[name].keys()
            for key, value in alone[name].items():
                np.testing.assert_allclose(shared[name][key], value, rtol=1e-5, atol=1e-7, err_msg=f"{name} {key}")


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as group:
        assert group is ALONE
    assert own_device("cuda") == "cuda"
    assert group.sum(np.ones(2)).tolist() == [1, 1]


def test_a_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK is not set"), process_group("cpu"):
        pass
