"""The Python API: the command line's commands as functions.

A module, a DataLoader and arrays go in where the command line takes names and folders; artifacts come out as values.
Functions that take a file alone (`inspect`, `explain`, `probe`, `package`, `report`) stand where their work is done.

>>> import lampq_onnx
>>> plan = lampq_onnx.BitPlan.model_validate_json('{"layers": {"head": {"weight_bits": 8, "activation_bits": 8}}}')
>>> plan.with_weight_bits({"head": 4}).layers["head"].weight_bits
4
>>> lampq_onnx.quantize("digits", "out", bitz=3)
Traceback (most recent call last):
lampq_onnx.errors.UsageError: unknown option 'bitz'
did you mean bits?
"""

from lampq_onnx.api.files import allocate, convert, doctor, reproduce, validate
from lampq_onnx.api.models import analyze, quantize, recognize, sweep

__all__ = ["allocate", "analyze", "convert", "doctor", "quantize", "recognize", "reproduce", "sweep", "validate"]
