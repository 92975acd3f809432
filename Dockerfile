# Diffusers Workbench in a container. torch's wheels carry CUDA, so the slim image is enough:
#   docker build -t dw . && docker run --gpus all -p 7860:7860 -v dw-data:/data dw
# The page asks for the password that is printed at the start; set DW_AUTH=user:password to choose it.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 user \
    && install -d -o user -g user /data /home/user/app
WORKDIR /home/user/app

COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

COPY --chown=user app ./app
COPY --chown=user workflows ./workflows
COPY --chown=user models ./models

USER 1000
# Models of the hub and pictures outlive the container on the volume.
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
