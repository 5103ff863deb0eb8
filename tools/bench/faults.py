"""Check what is left after runs that are killed, stopped, short of space or memory, or that write to the same folder.

    python tools/bench/faults.py --kills 20

Every fault happens during `quantize digits` in a folder that holds an earlier result. Afterwards the folder must hold
either that result or the new one, complete. At the end, a run without a fault must write the same files, byte for byte,
as a run that never met a fault.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lampq_onnx.disk.files import TIMELESS_FILES

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, bits: float) -> list[str]:
    words = [sys.executable, "-m", "lampq_onnx", "quantize", "digits", "--bits", str(bits), "--effort", "fast"]
    words += ["--overwrite"]  # each run replaces the result of another one
    return [*words, "--threads", "1", "--latency-runs", "1", "--output", str(folder)]


def start(folder: Path, bits: float, cache: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LAMPQ_ONNX_CACHE": str(cache), "TMPDIR": str(cache.parent)}

    def prepare() -> None:
        # A background job ignores Ctrl-C, and its children would too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    return subprocess.Popen(
        command(folder, bits),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,  # noqa: PLW1509 -- no threads here; limits must hold before Python starts
    )


def result(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TIMELESS_FILES if (folder / name).exists()}


def last_line(process: subprocess.Popen[str]) -> str:
    text = process.communicate()[1]
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if "error:" in line]
    return lines[-1].strip()[:110] if lines else ""


class Bench:
    def __init__(self, room: Path, seed: int) -> None:
        self.cache = room / "cache"
        self.folder = room / "out"
        self.random = random.Random(seed)
        self.failures = 0
        started = time.perf_counter()
        assert start(self.folder, 3, self.cache).wait() == 0
        self.seconds = time.perf_counter() - started
        self.old = result(self.folder)
        clean = room / "clean"
        assert start(clean, 4, room / "clean-cache").wait() == 0
        self.new = result(clean)
        assert self.old.keys() == self.new.keys() == set(TIMELESS_FILES)

    def row(self, fault: str, outcome: str, *, extra: bool = True) -> None:
        found = result(self.folder)
        intact = found == self.old and extra
        self.failures += not intact
        print(f"| {fault} | {outcome} | {'as before' if intact else 'CHANGED'} |", flush=True)

    def forget(self) -> None:
        """Empty the cache, so that a run takes as long as the first one."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def kills(self, count: int) -> None:
        damaged, codes = 0, []
        for _ in range(count):
            process = start(self.folder, 4, self.cache)
            time.sleep(self.random.uniform(0.05, 1.0) * self.seconds)
            process.send_signal(signal.SIGKILL)
            codes.append(process.wait())
            found = result(self.folder)
            if found == self.new:  # it had finished; go back
                for name, data in self.old.items():
                    (self.folder / name).write_bytes(data)
            elif found != self.old:
                damaged += 1
        self.row(f"kill -9 at {count} random moments", f"{codes.count(-9)} died, {damaged} left a damaged result")

    def signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.forget()
            process = start(self.folder, 4, self.cache)
            time.sleep(self.seconds / 2)
            process.send_signal(number)
            said = last_line(process)
            left = [path.name for path in self.folder.iterdir() if path.is_dir()]
            self.row(number.name, f"exit code {process.returncode}; {said}", extra=process.returncode > 0 and not left)

    def two_at_once(self) -> None:
        self.forget()
        first = start(self.folder, 4, self.cache)
        while not list(self.folder.glob(".lampq-run-*")) and first.poll() is None:
            time.sleep(0.01)
        second = start(self.folder, 5, self.cache)
        said = last_line(second)
        first.kill()
        first.wait()
        self.row("two runs into one folder", f"exit code {second.returncode}; {said}", extra=second.returncode == 1)

    def small_disk(self) -> None:
        mount = self.folder.parent / "small"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(mount)], check=False).returncode:
            print("| disk full | not run: a tmpfs needs root | |")
            return
        try:
            (mount / "kept").write_text("kept")
            process = start(mount, 4, self.cache)
            said = last_line(process)
            left = sorted(path.name for path in mount.iterdir())
            self.row(
                "disk full (tmpfs of 300 kB)",
                f"exit code {process.returncode}; {said}",
                extra=process.returncode == 1 and left == ["kept"],
            )
        finally:
            subprocess.run(["umount", str(mount)], check=True)

    def read_only(self) -> None:
        mount = self.folder.parent / "read-only"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(mount)], check=False).returncode:
            print("| read-only folder | not run: a tmpfs needs root | |")
            return
        try:
            process = start(mount, 4, self.cache)
            self.row("read-only folder", f"{last_line(process)}", extra=process.returncode == 1)
        finally:
            subprocess.run(["umount", str(mount)], check=True)

    def removed_folder(self) -> None:
        folder = self.folder.parent / "removed"
        self.forget()
        process = start(folder, 4, self.cache)
        while not list(folder.glob(".lampq-run-*")) and process.poll() is None:
            time.sleep(0.01)
        shutil.rmtree(folder)
        said = last_line(process)
        # It may be made again, if all of the result is in it then.
        whole = folder.is_dir() and result(folder) == self.new
        outcome = "whole result in a new folder" if whole else said
        kept = whole if process.returncode == 0 else not folder.exists()
        self.row("output folder removed", f"exit code {process.returncode}; {outcome}", extra=kept)

    def little_memory(self) -> None:
        for megabytes in (600, 1200, 1800):
            size = megabytes * 2**20
            limit = partial(resource.setrlimit, resource.RLIMIT_AS, (size, size))
            process = start(self.folder, 4, self.cache, before=limit)
            process.communicate()
            code = process.returncode
            self.row(f"{megabytes} MB of address space", f"exit code {code}", extra=code != 0)

    def afterwards(self) -> None:
        process = start(self.folder, 4, self.cache)
        code = process.wait()
        same = result(self.folder) == self.new
        left = [path.name for path in self.folder.iterdir() if path.is_dir()]
        self.failures += not same or bool(left)
        verdict = "byte for byte that of an undisturbed run" if same else "ANOTHER RESULT"
        print(f"| then a run without a fault, same cache | exit code {code} | {verdict} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        bench = Bench(Path(room), options.seed)
        print(f"an undisturbed run takes {bench.seconds:.1f} s\n")
        print("| fault | what the run does | earlier result |\n|---|---|---|")
        bench.kills(options.kills)
        bench.signals()
        bench.two_at_once()
        bench.small_disk()
        bench.read_only()
        bench.removed_folder()
        bench.little_memory()
        bench.afterwards()
    return int(bench.failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
