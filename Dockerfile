# The runtime for a line: models in, HTTP out. No PyTorch, no compiler, no root.
#   docker build -t destseg .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/runs:/models:ro" destseg /models/bottle
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
# openvino, onnx or both (openvino,onnx): the runtimes of exported models.
ARG RUNTIME=openvino
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The wheel is the one built above, so there is no version to pin.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    wheel=$(ls /wheels/*.whl) && pip install "${wheel}[serve,${RUNTIME}]"
RUN useradd --system --uid 10001 --user-group --no-create-home destseg
USER 10001:10001
EXPOSE 8080
# Also with --certificate and --key.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "destseg.cli.ready", "8080"]
# Inside a container the loopback reaches nobody; publish the port on the host's address you want.
ENTRYPOINT ["destseg", "serve", "--host", "0.0.0.0", "--port", "8080"]
CMD ["/models"]
