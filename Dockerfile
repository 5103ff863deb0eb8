# lampq-onnx for CPUs: installed from the checkout, proved by the quickstart.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 LAMPQ_ONNX_CACHE=/tmp/lampq-onnx

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lampq_onnx ./lampq_onnx
COPY models ./models

# Set this to an index of CPU-only PyTorch wheels to save gigabytes.
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && SETUPTOOLS_SCM_PRETEND_VERSION=0.1.0 pip install ".[triton]"

WORKDIR /work
RUN lampq-onnx quantize digits --bits 3 --effort fast --baseline uniform --output /tmp/quickstart \
    && lampq-onnx package /tmp/quickstart --format triton \
    && rm -rf /tmp/quickstart /tmp/lampq-onnx

ENTRYPOINT ["lampq-onnx"]
CMD ["--help"]
