"""What the processor at hand computes; results of tests must not depend on it."""

from __future__ import annotations

from lampq_onnx.runtime.environment import target_here

EXACT_INT8 = target_here("auto").signed_8bit_exact
"""Whether kernels here multiply int8 weights of 8 bits exactly.

Without VNNI they add two products of uint8 and int8 in 16 bits, which saturates beyond levels of +-64. Weights of 7
bits are exact everywhere, and so is a session without optimizations, which multiplies in float.
"""
