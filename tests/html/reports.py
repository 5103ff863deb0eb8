"""Reports made by hand, with names that an HTML page must not take for markup."""

from __future__ import annotations

from lampq_onnx import Report, Sensitivities
from lampq_onnx.artifacts import ActivationRange, LayerSensitivity, ModelIdentity
from lampq_onnx.artifacts.details import (
    AnswerChanges,
    ChangedImage,
    ClassChange,
    Details,
    OperatorTime,
    OperatorTimes,
    OutputError,
    OutputErrors,
)
from lampq_onnx.artifacts.report import (
    Accuracy,
    Baseline,
    Bits,
    Environment,
    Fidelity,
    Latency,
    LayerReport,
    Size,
    TopK,
)

HOSTILE = "<img src=x onerror=\"document.title='taken'\">&amp;'</script><script>document.title='taken'</script>"


def accuracy(top1: float = 0.8, drop: float = 1.0, spread: float = 0.2, kl: float = 0.02) -> Accuracy:
    return Accuracy(
        samples=500,
        **{"float": TopK(top1=top1 + drop / 100, top5=0.95)},
        quantized=TopK(top1=top1, top5=0.94),
        drop_points=drop,
        standard_error_points=spread,
        agreement=0.97,
        logit_sqnr_db=14.0,
        kl=kl,
    )


def latency(speedup: float = 2.0) -> Latency:
    return Latency(
        float_ms=10.0, quantized_ms=10.0 / speedup, speedup=speedup, speedup_quartiles=(speedup - 0.1, speedup + 0.1),
        threads=1, batch=1, runs=2, float_samples_ms=(10.0, 10.0), quantized_samples_ms=(5.0, 5.0),
    )  # fmt: skip


def layer(name: str, bits: int, activation_bits: int = 8, trace: float | None = 1.0) -> LayerReport:
    return LayerReport(
        name=name, type="fc1", weight_bits=bits, activation_bits=activation_bits, storage="exact", scheme="per-channel",
        parameters=8000, bytes=1000 * bits, trace=trace, alpha=None if trace is None else 2.0,
        omega=None if trace is None else 2 * trace, reconstruction_error=0.1,
    )  # fmt: skip


NAMES = [f"blocks.{block}.{kind}" for block in range(3) for kind in ("attn.qkv", f"mlp.{HOSTILE}")]


def details() -> Details:
    outputs = [OutputError(name=name, kind="layer", sqnr_db=20.0 - 3 * i) for i, name in enumerate(NAMES)]
    outputs += [OutputError(name=f"blocks.{i}", kind="block", sqnr_db=value) for i, value in enumerate((18, 11, 10))]
    times = [
        OperatorTime(operator=f"Op{i}", float_ms=20.0 - i, quantized_ms=0.5 * i, float_nodes=2, quantized_nodes=1)
        for i in range(15)
    ]
    return Details(
        errors=OutputErrors(samples=32, outputs=tuple(outputs)),
        operators=OperatorTimes(threads=1, batch=1, runs=10, operators=tuple(times)),
        changes=AnswerChanges(
            lost=5, won=1, other=2,
            classes=tuple(ClassChange(label=i, samples=50, float_right=48, quantized_right=48 - i) for i in range(4)),
            images=(
                ChangedImage(
                    image=HOSTILE, label=3, float_answer=3, quantized_answer=4, float_probability=0.9,
                    quantized_probability=0.6,
                ),
            ),
        ),
    )  # fmt: skip


def report(**changes: object) -> Report:
    known = Report(
        model=HOSTILE,
        preprocessing="16x16",
        accuracy=accuracy(),
        size=Size(float_bytes=4_000_000, quantized_bytes=1_000_000),
        bits=Bits(
            weight_average=3.0, weight_average_unweighted=3.0, weight_average_all=3.0, budget=3.0, covers=("fc1",)
        ),
        latency=latency(),
        fidelity=Fidelity(layer_max=1e-7, layer_worst=None, excess_error=0.0, simulation_excess=None, samples=256),
        baselines={"uniform": Baseline(weight_average=3.0, accuracy=accuracy(0.7, 11.0), quantized_bytes=990_000)},
        seconds={"load": 1.0},
        environment=Environment(
            lampq_onnx="1", python="3", versions={"onnx": "1"}, cpu="a CPU", cpu_flags=(), cores=2, target="x"
        ),
        layers=tuple(layer(name, 2 + i) for i, name in enumerate(NAMES)),
        details=details(),
        notes=(HOSTILE,),
    )  # fmt: skip
    return known.model_copy(update=changes)


def sensitivities() -> Sensitivities:
    """Each bit lowers the cost of a layer by its position plus one, from 2 bits on."""
    layers = [
        LayerSensitivity(
            name=name, type="fc1", parameters=8000, shape=(80, 100), trace=1.0, nuclear_norm=1.0,
            weight_error={2: 1.0}, weight_cost={b: 0.01 * (i + 1) * (9 - b) for b in range(2, 9)},
            activation_range=ActivationRange(low=-1, high=1),
        )
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    return Sensitivities(
        model=ModelIdentity(name="m", weights_sha256="0", num_classes=10),
        layers=tuple(layers), alpha={"fc1": 2.0}, alpha_bits=2, alpha_measure="kl", activation_bits=8, labels="sampled",
        calibration_images=8, seed=0, cost_estimator="measured",
    )  # fmt: skip
