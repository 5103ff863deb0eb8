# %% [markdown]
# # lampq-onnx from Python
#
# Each `# %%` starts a cell: editors and Jupytext open this file as a notebook, `python docs/example.py` runs it.
# It uses the embedded model, so that it needs no download.

# %% [markdown]
# ## Everything at once
#
# `quantize` measures, allocates, rounds, converts and checks. Names of options are those of the command line.

# %%
import lampq_onnx

report = lampq_onnx.quantize("digits", "digits-int", bits=3, effort="fast", rounds=2, latency_runs=3)

print(f"top-1 {report.accuracy.float_.top1:.2%} -> {report.accuracy.quantized.top1:.2%}")
print(f"{report.size.float_bytes} -> {report.size.quantized_bytes} bytes")

# %% [markdown]
# ## The width of every layer

# %%
plan = lampq_onnx.BitPlan.load("digits-int/plan.json")
for name, layer in plan.layers.items():
    print(f"{name:24} {layer.weight_bits} bits")

# %% [markdown]
# ## Another budget, without measuring again
#
# The sensitivities are on disk. Allocation takes a second and needs no PyTorch.

# %%
sensitivities = lampq_onnx.Sensitivities.load("digits-int/sensitivity.json")
smaller = lampq_onnx.allocate(sensitivities, bits=2.5, metric="kl")
print(f"{smaller.weight_average():.2f} bits on average")

# %% [markdown]
# ## A plan of your own
#
# A plan is an object: change it, convert it, and look at the file.

# %%
edited = plan.with_weight_bits({"blocks.7.mlp.fc2": 8})
lampq_onnx.convert("digits-int/float.onnx", edited, "digits-int/edited.onnx", weights="digits-int/weights.safetensors")
print(*(f"{layer.name}: {layer.weight_bits}" for layer in lampq_onnx.inspect("digits-int/edited.onnx")[-3:]), sep="\n")

# %% [markdown]
# ## Check a file
#
# Any labelled images that fit the model; here the embedded ones, written as an .npz.

# %%
import numpy as np

from lampq_onnx.frontend.models.digits import split_images

pixels, labels = split_images("test")
np.savez("digits-int/test.npz", images=pixels, labels=labels)
checked = lampq_onnx.validate("digits-int/edited.onnx", "digits-int/float.onnx", "digits-int/test.npz", latency_runs=3)
print(f"drop {checked.accuracy.drop_points:.2f} points, agreement {checked.accuracy.agreement:.2%}")
