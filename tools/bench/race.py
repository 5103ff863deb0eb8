"""Time files in turns, each in its runtime, as ratios to one of them with quartiles.

    python -m tools.bench.race float.onnx --file NNCF=nncf.onnx@openvino --file ours=W8A8.onnx@openvino --against NNCF

A file runs in onnxruntime unless @openvino follows its name; @openvino-f32 is OpenVINO in float32. `tools.bench.peers`
makes files of other quantizers.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

import numpy as np

from lampq_onnx.runtime import describe_environment, open_runner
from lampq_onnx.runtime.engine import Engine
from lampq_onnx.runtime.runtimes import described

WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_file", type=Path)
    parser.add_argument("--file", action="append", default=[], help="LABEL=FILE or LABEL=FILE@openvino")
    parser.add_argument("--against", default="float", help="label of the file of the second ratio")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--seconds", type=float, default=50, help="for each batch")
    options = parser.parse_args()
    words = [f"float={options.float_file}", *options.file]
    parts = [(label, *place.partition("@")[::2]) for label, _, place in (word.partition("=") for word in words)]
    engines = {label: _engine(name) for label, _, name in parts}
    runners = {label: open_runner(Path(path), threads=1, engine=engines[label]) for label, path, _ in parts}
    print(f"{describe_environment('').cpu}, one thread, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}; ", end="")
    print(", ".join(sorted({described(engine) for engine in engines.values()})) + "\n")
    shape = runners["float"].session.get_inputs()[0].shape[1:]
    print(
        f"| batch | file | ms | as fast as float | as fast as {options.against} | rounds |\n|---|---|---|---|---|---|"
    )
    for batch in map(int, options.batches.split(",")):
        x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
        times: dict[str, list[float]] = {label: [] for label in runners}
        end, turn = time.monotonic() + options.seconds, -WARM_UP
        while turn < 5 or time.monotonic() < end:
            for label, run in runners.items():
                start = time.perf_counter()
                run(x)
                if turn >= 0:
                    times[label].append(1e3 * (time.perf_counter() - start))
            turn += 1
        for label, own in times.items():
            ratios = [np.percentile(np.array(times[other]) / own, (50, 25, 75)) for other in ("float", options.against)]
            cells = [f"{middle:.2f} [{low:.2f}, {high:.2f}]" for middle, low, high in ratios]
            print(f"| {batch} | {label} | {np.median(own):.2f} | {' | '.join(cells)} | {turn} |", flush=True)


def _engine(words: str) -> Engine:
    """The engine of the words behind a file's name."""
    name, _, precision = words.partition("-")
    if precision not in ("", "f32"):
        raise SystemExit(f"unknown engine {words}: openvino and openvino-f32 are known")
    return Engine(name or "onnxruntime", "f32" if precision else "auto")


if __name__ == "__main__":
    main()
