# A Hugging Face Space (Docker SDK), or any machine: docker build -t dogerm . && docker run -p 7860:7860 dogerm
# With `--gpus all` it uses the GPU. Without one, an index of PyTorch's CPU builds spares 3.8 of
# 5.6 GB: docker build --build-arg PIP_EXTRA_INDEX_URL=URL -t dogerm .
FROM python:3.12-slim

# Spaces run the image as user 1000, who must own what it writes.
RUN useradd -m -u 1000 user
USER user
ENV HOME=/home/user \
    PATH=/home/user/.local/bin:$PATH \
    HF_HOME=/home/user/.cache/huggingface \
    GRADIO_SERVER_NAME=0.0.0.0 \
    PYTHONUNBUFFERED=1
WORKDIR /home/user/app

ARG PIP_EXTRA_INDEX_URL=
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .

EXPOSE 7860
# What Gradio closes its page on; on TERM a container's first process does nothing.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py"]
