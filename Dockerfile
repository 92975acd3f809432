# Diffusers Workbench in a container. torch's wheels carry CUDA, so the slim image is enough:
#   docker build -t workbench . && docker run --gpus all -p 7860:7860 -v workbench:/data workbench
# The page requires the password printed at the start; see docs/operating.md.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 user \
    && install -d -o user -g user /data /home/user/app
# torch and triton compile kernels for `compile` and for some quantised weights.
RUN apt-get update && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /home/user/app

COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

# `--build-arg EXTRAS=1` adds packages that only some workflows need: quantisers, upscalers, detectors.
ARG EXTRAS=
COPY requirements-extras.txt ./
RUN if [ -n "$EXTRAS" ]; then pip install --no-cache-dir -r requirements-extras.txt; fi

COPY --chown=user app ./app
COPY --chown=user workflows ./workflows
COPY --chown=user models ./models

USER 1000
# Downloaded models and results are kept on the volume.
ENV HOME=/home/user \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface \
    DW_OUTPUTS=/data/outputs \
    DW_HOST=0.0.0.0 \
    DW_PORT=7860
VOLUME /data
EXPOSE 7860

HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"DW_PORT\"]}/healthz', timeout=4)"]
CMD ["python", "-m", "app", "serve"]
