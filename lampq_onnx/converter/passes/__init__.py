"""The converter's passes, one per file; a pass is called with a model and counts what it changed."""

from lampq_onnx.converter.passes.bias_in_gemm import BiasInGemm
from lampq_onnx.converter.passes.fix_batch import FixBatch
from lampq_onnx.converter.passes.fold_shapes import FoldShapes
from lampq_onnx.converter.passes.gemm_to_matmul import GemmToMatMul
from lampq_onnx.converter.passes.one_attention import OneAttention
from lampq_onnx.converter.passes.patch_embed import PatchEmbedToMatMul
from lampq_onnx.converter.passes.product_per_part import ProductPerPart
from lampq_onnx.converter.passes.quantize_activations import QuantizeActivations
from lampq_onnx.converter.passes.quantize_products import QuantizeProducts
from lampq_onnx.converter.passes.quantize_weights import QuantizeWeights
from lampq_onnx.converter.passes.remove_moves import RemoveMoves
from lampq_onnx.converter.passes.replace_bias import ReplaceBias
from lampq_onnx.converter.passes.rows import StayInRows
from lampq_onnx.converter.passes.select_early import SelectEarly
from lampq_onnx.converter.passes.split_unbind import SplitUnbind
from lampq_onnx.converter.passes.to_float16 import ToFloat16
from lampq_onnx.converter.passes.tokens_first import TokensFirst

__all__ = [
    "BiasInGemm",
    "FixBatch",
    "FoldShapes",
    "GemmToMatMul",
    "OneAttention",
    "PatchEmbedToMatMul",
    "ProductPerPart",
    "QuantizeActivations",
    "QuantizeProducts",
    "QuantizeWeights",
    "RemoveMoves",
    "ReplaceBias",
    "SelectEarly",
    "SplitUnbind",
    "StayInRows",
    "ToFloat16",
    "TokensFirst",
]
