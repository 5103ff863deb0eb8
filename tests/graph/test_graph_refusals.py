"""What a pass leaves as it is says why, and a converted file still tells it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.converter import Conversion, convert_model
from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.converter.order import conversion_steps, graph_steps
from lampq_onnx.converter.passes import FoldShapes, RemoveMoves, SelectEarly, SplitUnbind
from lampq_onnx.converter.unapplied import unapplied
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.refusals import Refusal, Refused, grouped
from lampq_onnx.graph.steps import Step, run_steps
from lampq_onnx.targets import TARGETS
from tests.converter.graphs import Builder, as_ir, as_proto, one_matmul, plan_for, vit

VNNI = TARGETS["onnxruntime-x86-vnni"]


def converted(model: onnx.ModelProto, plan: BitPlan | None = None, target: str = VNNI.name) -> Conversion:
    return convert_model(as_ir(model), plan or plan_for(["fc"], weight_bits=4), target=TARGETS[target])


def reasons(refusals: tuple[Refusal, ...], step: str) -> dict[str, str]:
    """Place -> reason."""
    return {refusal.where: refusal.reason for refusal in refusals if refusal.step == step}


def layer(
    behind: str = "", rows: int | str = 3, bias: tuple[int, ...] | None = (8,), size: float = 1.0
) -> onnx.ModelProto:
    b = Builder(0)
    y = b.op("MatMul", "x", b.random("fc.weight", 16, 8))
    if bias is not None:
        y = b.op("Add", y, b.constant("fc.bias", size * b.rng.normal(size=bias)))
    b.rename(b.op(behind, y) if behind else y, "y")
    return b.model({"x": ["n", rows, 16]}, {"y": None})


BIAS_CASES = {
    "float input": (layer(), BitPlan(layers={"fc": LayerPlan(weight_bits=4, activation_bits=32)}), "has no 8 bits"),
    "16-bit input": (layer(), plan_for(["fc"], weight_bits=4, activation_bits=16), "has no 8 bits"),
    "narrow input": (layer(), plan_for(["fc"], weight_bits=4, activation_bits=7), "fewer than 8 bits"),
    "no bias": (layer(bias=None), None, "has no bias"),
    "rows": (layer(bias=(3, 1)), None, "has no bias"),
    "one row": (layer(rows=1), None, "one row per image"),
    "open sizes": (layer(rows="tokens"), None, "sizes of its result"),
    "large": (layer(size=1e9), plan_for(["fc"], weight_bits=8), "int32"),
}


@pytest.mark.parametrize("case", BIAS_CASES)
def test_biases_that_stay_in_their_add(case: str) -> None:
    model, plan, words = BIAS_CASES[case]
    conversion = converted(model, plan)
    assert conversion.passes["BiasInGemm"] == 0
    found = reasons(conversion.refusals, "BiasInGemm")
    assert list(found) == ["fc"]
    assert words in found["fc"]
    assert reasons(conversion.refusals, "ProductPerPart") == {}  # its result is not taken apart
    # A file tells the same, after it was written and read.
    assert unapplied(ir.from_proto(as_proto(conversion.model))) == conversion.not_done


def test_a_bias_that_is_moved_is_no_refusal() -> None:
    conversion = converted(layer())
    assert conversion.passes["BiasInGemm"] == 1
    assert conversion.refusals == conversion.not_done == unapplied(conversion.model) == ()


def split(sizes: tuple[int, ...], axis: int = -1, *, shared: bool = False) -> onnx.ModelProto:
    b = Builder(0)
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 16, 48)), b.random("fc.bias", 48))
    names = [f"part{part}" for part in range(len(sizes))]
    b.nodes.append(onnx.helper.make_node("Split", [y, b.ints(*sizes)], names, axis=axis))
    if shared:
        names.append(b.rename(b.op("Relu", y), "whole"))
    return b.model({"x": ["n", 6, 16]}, dict.fromkeys(names))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (split((6,) * 8), "8 parts of at least 6 channels do not pay"),
        (split((2, 4), axis=1), "not consecutive output channels"),
        (split((16, 32), shared=True), "something else reads its whole result"),
    ],
    ids=["narrow", "tokens", "shared"],
)
def test_products_that_are_not_cut(model: onnx.ModelProto, words: str) -> None:
    conversion = converted(model, target="onnxruntime-x86-avx2")
    assert conversion.passes["ProductPerPart"] == 0
    assert words in reasons(conversion.refusals, "ProductPerPart")["fc"]
    assert unapplied(conversion.model) == conversion.not_done


def test_a_target_without_the_kernels_is_one_reason_for_the_whole_graph() -> None:
    conversion = converted(layer(), target="openvino-x86-vnni")
    assert reasons(conversion.refusals, "BiasInGemm").keys() == {""}
    (entry,) = (entry for entry in conversion.not_done if entry.step == "BiasInGemm")
    assert entry.where == ()
    assert entry.sentence().endswith("not done here, because openvino-x86-vnni has no kernel that is faster with it")
    assert unapplied(conversion.model) == conversion.not_done


def test_a_patch_embedding_with_float_input_stays_a_conv() -> None:
    model = vit(blocks=1)
    plan = BitPlan(layers={"patch_embed.proj": LayerPlan(weight_bits=4, activation_bits=32)})
    conversion = converted(model, plan)
    assert conversion.passes["PatchEmbedToMatMul"] == 0
    assert "stays in float" in reasons(conversion.refusals, "PatchEmbedToMatMul")["patch_embed.proj"]
    assert "only a MatMul" not in reasons(conversion.refusals, "BiasInGemm")["patch_embed.proj"]
    assert unapplied(conversion.model) == conversion.not_done


def graph_refusals(model: onnx.ModelProto, step: CountingPass) -> list[str]:
    step(as_ir(onnx.shape_inference.infer_shapes(model)))
    assert step.count == 0
    return [refusal.reason for refusal in step.refusals]


def two_gathers(last: int = 1, *, second_axis: int = 1, whole: bool = False, size: int | str = 2) -> onnx.ModelProto:
    b = Builder(0)
    x = b.op("Relu", "x")
    first = b.op("Gather", x, b.constant("first", 0, np.int64), axis=1)
    second = b.op("Gather", x, b.constant("last", last, np.int64), axis=second_axis)
    b.rename(first, "y")
    b.rename(second, "z")
    outputs: dict[str, list[int | str] | None] = {"y": None, "z": None}
    if whole:
        outputs["w"] = None
        b.rename(b.op("Neg", x), "w")
    return b.model({"x": ["n", size, 4, 4]}, outputs)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (two_gathers(size=3), "not every part is read exactly once"),
        (two_gathers(0), "not every part is read exactly once"),
        (two_gathers(second_axis=2), "several axes"),
        (two_gathers(whole=True), "something else reads the whole tensor"),
        (two_gathers(size="parts"), "known only at run time"),
    ],
)
def test_tensors_that_are_not_split(model: onnx.ModelProto, words: str) -> None:
    (found,) = graph_refusals(model, SplitUnbind())
    assert words in found


def reshaped(*target: str | int, shape: tuple[str | int, ...]) -> onnx.ModelProto:
    """A Reshape whose target takes dimensions of x by their positions ("0", "1") and numbers."""
    b = Builder(0)
    sizes = b.op("Shape", "x")
    parts = [
        b.op("Slice", sizes, b.ints(int(d)), b.ints(int(d) + 1)) if isinstance(d, str) else b.ints(d) for d in target
    ]
    b.rename(b.op("Reshape", "x", b.op("Concat", *parts, axis=0)), "y")
    return b.model({"x": list(shape)}, {"y": None})


def test_target_shapes_that_only_a_run_knows() -> None:
    (several,) = graph_refusals(reshaped("0", "1", 2, 4, shape=("n", "tokens", 8)), FoldShapes())
    assert "several dimensions" in several
    b = Builder(0)
    b.rename(b.op("Reshape", "x", b.op("Cast", "sizes", to=onnx.TensorProto.INT64)), "y")
    (computed,) = graph_refusals(b.model({"x": ["n", 8], "sizes": [2]}, {"y": None}), FoldShapes())
    assert "only at run time" in computed


def test_moves_that_stay() -> None:
    b = Builder(0)
    b.rename(b.op("Reshape", b.op("Relu", "x"), b.ints(-1, 5, 8)), "y")
    (found,) = graph_refusals(b.model({"x": ["n", 5, 8]}, {"y": ["n", 5, 8]}), RemoveMoves())
    assert "output of the graph" in found
    b = Builder(0)
    turned = b.op("Transpose", b.op("Reshape", "x", b.ints(-1, 5, 8)), perm=[0, 2, 1])
    b.rename(b.op("Neg", turned), "z")
    b.rename(b.op("Reshape", turned, b.ints(-1, 2, 8, 5)), "y")
    (found,) = graph_refusals(b.model({"x": ["n", 2, 5, 8]}, {"y": ["n", 2, 8, 5], "z": None}), RemoveMoves())
    assert "other nodes read" in found


@pytest.mark.parametrize(("second", "words"), [(True, "all tokens are read"), (False, "come from a Concat")])
def test_tokens_that_are_not_chosen_early(second: bool, words: str) -> None:
    b = Builder(0)
    x = b.op("Concat", "x", b.random("token", 1, 1, 4), axis=1)
    b.rename(b.op("Gather", x, b.constant("index", 0, np.int64), axis=1), "y")
    outputs: dict[str, list[int | str] | None] = {"y": None}
    if second:
        b.rename(b.op("Neg", x), "z")
        outputs["z"] = None
    (found,) = graph_refusals(b.model({"x": [1, 5, 4]}, outputs), SelectEarly())
    assert words in found


@pytest.mark.parametrize("step", [SplitUnbind(), SelectEarly()])
def test_an_old_opset_is_a_reason(step: CountingPass) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 7, opset_import: ["" : 12]> g (float[n,4] x) => (float[n,4] y) {y=Relu(x)}'
    )
    (found,) = graph_refusals(model, step)
    assert "opset 13" in found


def test_a_pass_starts_anew_at_every_call() -> None:
    step = SplitUnbind()
    for _ in range(2):
        graph_refusals(two_gathers(size=3), step)


def test_refusals_are_grouped_by_pass_and_reason() -> None:
    refusals = [
        Refusal("A", "does a", "one", "of this"),
        Refusal("B", "does b", "", "of that"),
        Refusal("A", "does a", "two", "of this"),
        Refusal("A", "does a", "one", "of this"),
        Refusal("A", "does a", "one", "of more"),
    ]
    assert grouped(refusals) == (
        NotDone(step="A", purpose="does a", reason="of this", where=("one", "two")),
        NotDone(step="B", purpose="does b", reason="of that", where=()),
        NotDone(step="A", purpose="does a", reason="of more", where=("one",)),
    )
    many = NotDone(step="A", purpose="does a", reason="of this", where=tuple("abcdefgh"))
    assert many.sentence() == "does a (A): not done here, because of this (8: a, b, c, d, e, f and 2 more)"


def test_a_vision_transformer_tells_of_every_layer_that_was_changed_or_not() -> None:
    model = vit()
    names = plan_names(model)
    conversion = converted(model, plan_for(names, weight_bits=4))
    refused = reasons(conversion.refusals, "BiasInGemm")
    # The parts of qkv are three products of one layer.
    assert conversion.passes["BiasInGemm"] + len(refused) == len(names) + 2 * conversion.passes["ProductPerPart"]
    assert refused == {"head": "the sizes of its result, apart from the batch, are not known"}
    assert unapplied(conversion.model) == conversion.not_done


def plan_names(model: onnx.ModelProto) -> list[str]:
    return [layer.name for layer in find_layers(as_ir(model).graph)]


def test_other_tools_files_say_nothing() -> None:
    assert unapplied(as_ir(vit())) == ()
    conversion = converted(layer(rows=1))
    conversion.model.metadata_props["lampq_onnx.target"] = "a target of another version"
    assert unapplied(conversion.model) == ()


def test_looking_changes_nothing() -> None:
    conversion = converted(layer(rows=1))
    before = as_proto(conversion.model).SerializeToString()
    assert unapplied(conversion.model)
    assert as_proto(conversion.model).SerializeToString() == before
    assert len(inspect_model(conversion.model)) == 1


def test_every_place_in_the_order_has_a_reason() -> None:
    steps, packer = conversion_steps({}, VNNI, "exact", {})
    names = [type(step.action).__name__ for step in steps]
    assert names == [
        "RaiseOpset", "FoldShapes", "RemoveMoves", "SplitUnbind", "SelectEarly", "ReplaceBias", "PatchEmbedToMatMul",
        "GemmToMatMul", "QuantizeActivations", "QuantizeWeights", "ProductPerPart", "BiasInGemm", "OneAttention",
        "StayInRows", "TokensFirst",
    ]  # fmt: skip
    assert any(step.action is packer for step in steps)
    assert all(len(step.because.split()) > 3 for step in (*steps, *graph_steps()))
    assert all(isinstance(step.action, ir.passes.PassBase) for step in steps)


class Complains(CountingPass):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def apply(self, model: ir.Model) -> int:
        raise self._error


def test_a_message_of_a_pass_arrives_as_it_is() -> None:
    model = as_ir(one_matmul(np.eye(4, dtype=np.float32)))
    with pytest.raises(LampqError, match="layer x is odd") as raised:
        run_steps(model, [Step(Complains(LampqError("layer x is odd", hint="mend it")), "only one")])
    assert raised.value.hint == "mend it"
    with pytest.raises(ir.passes.PassError, match="Complains") as other:
        run_steps(model, [Step(Complains(KeyError("bug")), "only one")])
    assert isinstance(other.value.__cause__, KeyError)


def test_a_pass_counts_changes_and_keeps_refusals() -> None:
    class Mixed(CountingPass):
        purpose = "does something"

        def apply(self, model: ir.Model) -> int:
            outcomes = {"a": True, "b": False, "c": Refused("it is c")}
            return sum(self.settle(where, outcome) for where, outcome in outcomes.items())

    step = Mixed()
    result = step(as_ir(one_matmul(np.eye(4, dtype=np.float32))))
    assert (step.count, result.modified) == (1, True)
    assert step.refusals == (Refusal("Mixed", "does something", "c", "it is c"),)
    assert dataclasses.asdict(step.refusals[0])["where"] == "c"
