"""What is known about a target: which widths have kernels there, and which storages are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from lampq_onnx.errors import UsageError

Packing = Literal["exact", "native", "container"]

PACKINGS: Mapping[Packing, str] = {
    "exact": "1 to 8 bits take exactly that many bits; operators unpack them when the file is loaded",
    "native": "the ONNX types INT2, INT4 and INT8, with no operators to unpack; other widths take the next larger type",
    "container": "one byte for each weight, whatever its width: the largest file, which every runtime reads",
}
"""Storage of the weights -> what it is."""

GridName = Literal["mid-tread", "mid-rise", "e4m3"]
"""Names of the grids of weights, see `lampq_onnx.quantization.Grid`."""

FLOAT = 32

Kind = Literal["integer", "float8", "float"]


@dataclass(frozen=True)
class Kernel:
    """Widths that one kernel of a target takes.

    Attributes:
        weights: weight widths in bits; every pair with ``activations`` runs on this kernel. 32 is float.
        activations: input widths in bits.
        kind: what the kernel multiplies; float8 is E4M3. A float kernel reads weights that are unpacked when the file
            is loaded.
    """

    weights: tuple[int, ...]
    activations: tuple[int, ...]
    kind: Kind

    def takes(self, weight_bits: int, activation_bits: int) -> bool:
        """Whether this pair of widths runs on the kernel."""
        return weight_bits in self.weights and activation_bits in self.activations


_FLOAT_LAYER = Kernel((FLOAT,), (FLOAT,), "float")

Device = Literal["CPU", "GPU", "NPU"]


@dataclass(frozen=True)
class Verified:
    """What showed that files for a target are right there.

    Attributes:
        check: command or test that shows it.
        version: runtime and version that it ran with.
        date: day of the last run, e.g. 2026-11-30.
    """

    check: str
    version: str
    date: str


@dataclass(frozen=True)
class Target:
    """Everything about a target that decides the form of a file.

    Attributes:
        name: name on the command line.
        runtime: what runs the file, in words.
        device: on what it runs there. Times of this CPU say nothing about other devices.
        signed_8bit_exact: whether int8 weights of 8 bits run without saturation. The AVX2 kernels without VNNI add two
            products of uint8 and int8 in 16 bits, so only levels within +-64 are safe there (onnxruntime issue 14642);
            uint8 weights with zero_point 128 take an exact, slower path.
        kernels: kernels of the target; layers in float always run. Narrow inputs are a Clip before 8 bits, and narrow
            weights are levels within int8, so a kernel for 8 bits takes them too.
        packings: storages that are read there with the same result, the default first.
        symmetric: inputs have zero_point 0, in a signed type.
        folds: constants are folded before kernels are chosen, so weights may be unpacked by operators. Otherwise
            DequantizeLinear must read an initializer.
        shared_bytes: weights of 5 to 7 bits may lie in bytes that share their spare bits. Weights of 5 and 6 bits have
            a zero_point then.
        gemm_bias: files are faster if the integer kernel adds the bias (docs/runtime/passes.md). Without VNNI the
            products take so much longer that nothing is gained; on arm64 it was not measured.
        rows: values stay in rows between one Gemm and the next (docs/runtime/passes.md); of use where `gemm_bias` makes
            Gemms.
        tokens_first: queries, keys and values are in rows of (tokens, batch), see `passes.TokensFirst`; of use where
            `gemm_bias` makes Gemms.
        part_products: files are faster with one product per part of a result (queries, keys and values) than with one
            product that is split (docs/runtime/passes.md). Not measured on arm64. OpenVINO moves the parts inside its
            attention kernel. TensorRT would multiply the whole in float; it joins the parts to one product of integers.
        grids: grids that the weights may have; with e4m3 alone, weights and inputs are in float8. The levels of
            mid-rise are odd integers, which need a type that is wider than the weights are.
        block: inputs of a layer that share a scale of the weights, a number of float16; None: all of an output channel
            share one.
        half: numbers that are not quantized are in float16, where that does not overflow, see `passes.ToFloat16`.
        wide_sums: normalizations of float16 add up their squares in float32.
        output_ranges: the result of each product is quantized too, with the width of the input, because only then does
            the product run on integers.
        zero_points: the zero points of the weights are written although they are zero.
        batch: batch that files must have; None: any, which stays open in the file.
        runner: the runtime that runs, checks and times its files here, by its name in `lampq_onnx.runtime`; None: none
            does, and they are checked in onnxruntime on this CPU.
        verified: what showed that its files are right; None: they follow the runtime's documentation alone.
        opset: newest opset that is read.
    """

    name: str
    runtime: str
    signed_8bit_exact: bool
    kernels: tuple[Kernel, ...]
    packings: tuple[Packing, ...] = tuple(PACKINGS)
    symmetric: bool = False
    folds: bool = True
    shared_bytes: bool = True
    gemm_bias: bool = False
    rows: bool = False
    tokens_first: bool = False
    part_products: bool = False
    grids: tuple[GridName, ...] = ("mid-tread", "mid-rise")
    block: int | None = None
    half: bool = False
    device: Device = "CPU"
    wide_sums: bool = False
    output_ranges: bool = False
    zero_points: bool = False
    batch: int | None = None
    runner: str | None = None
    verified: Verified | None = None
    opset: int = 25

    @property
    def timed(self) -> bool:
        """Whether `probe` can time its files here."""
        return self.runner is not None

    @property
    def plain(self) -> bool:
        """Whether onnxruntime itself runs its files, on a CPU or an NVIDIA GPU, and other runtimes that read ONNX."""
        return self.device == "CPU" or self.block is not None

    @property
    def weights_only(self) -> bool:
        """Whether no input is quantized."""
        return all(set(kernel.activations) == {FLOAT} for kernel in self.kernels)

    @property
    def float8(self) -> bool:
        """Whether weights and inputs are numbers of float8 E4M3."""
        return self.grids == ("e4m3",)

    @property
    def packing(self) -> Packing:
        """The storage that `auto` stands for."""
        return self.packings[0]

    def kernel(self, weight_bits: int, activation_bits: int) -> Kernel | None:
        """Return the kernel of a pair of widths; None: there is none. Layers in float (32, 32) run everywhere."""
        return next((k for k in (*self.kernels, _FLOAT_LAYER) if k.takes(weight_bits, activation_bits)), None)

    def nearest(self, weight_bits: int, activation_bits: int) -> tuple[int, int]:
        """Return the pair with a kernel that loses the least: wider if possible, and then by as little as possible."""
        pairs = [pair for kernel in self.kernels for pair in product(kernel.weights, kernel.activations)]

        def distance(pair: tuple[int, int]) -> tuple[int, int]:
            lost = sum(max(0, want - have) for want, have in zip((weight_bits, activation_bits), pair, strict=True))
            added = sum(max(0, have - want) for want, have in zip((weight_bits, activation_bits), pair, strict=True))
            return lost, added

        return min(pairs, key=distance)

    def require_pair(self, weight_bits: int, activation_bits: int, where: str = "") -> None:
        """Refuse widths that the target cannot run.

        Args:
            weight_bits: width of the weights.
            activation_bits: width of the input.
            where: what has these widths, for the message, e.g. "layer blocks.0.attn.qkv".

        Raises:
            UsageError: names the nearest widths that the target can run.
        """
        if self.kernel(weight_bits, activation_bits) is not None:
            return
        w, a = self.nearest(weight_bits, activation_bits)
        raise UsageError(
            f"{where + ': ' if where else ''}{self.name} has no kernel for {_words(weight_bits)} weights with "
            f"{_words(activation_bits)} inputs",
            hint=f"the nearest available are {_words(w)} weights with {_words(a)} inputs (W{w}/A{a})",
        )

    def require_widths(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Refuse a choice of (weight, input) widths that contains a pair that the target cannot run.

        Raises:
            UsageError: names the nearest pair that the target can run, and the options.
        """
        for weight_bits, activation_bits in pairs:
            inputs = FLOAT if self.weights_only else activation_bits
            self.require_pair(weight_bits, inputs, "the requested widths (--candidates, --activation-bits)")

    def require_packing(self, packing: Packing) -> None:
        """Refuse a storage that the target does not read.

        Raises:
            UsageError: names the storages that it reads.
        """
        if packing not in self.packings:
            raise UsageError(
                f"{self.name} does not read {packing} storage",
                hint=f"use --packing {' or '.join(self.packings)}",
            )

    def require_channel_widths(self, packing: Packing, where: str = "") -> None:
        """Refuse output channels of different widths where a layer can have only one width.

        Args:
            packing: storage of the weights.
            where: what has these widths, for the message, e.g. "layer blocks.0.attn.qkv".

        Raises:
            UsageError: the target reads weights directly from the file, or the storage has one type for a whole layer.
        """
        start = f"{where}: " if where else ""
        if not self.folds or self.block is not None:
            why = "whose weights are in blocks" if self.folds else "which does not unpack weights when it loads a file"
            raise UsageError(
                f"{start}all output channels of a layer have one width in files for {self.name}, {why}",
                hint="use --granularity layer, or remove channel_widths from the plan",
            )
        if packing == "native":
            raise UsageError(
                f"{start}native storage has one integer type for a layer, so narrow output channels would save nothing",
                hint="use --packing exact or --packing container, or remove channel_widths from the plan",
            )


def _words(bits: int) -> str:
    return "float" if bits == FLOAT else f"{bits}-bit"
