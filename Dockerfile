# syntax=docker/dockerfile:1
# Two targets: `cpu` (the default) and `cuda`, which adds NVIDIA's libraries from their Python wheels.
# The host gives the GPU: docker run --gpus all, or deploy/compose.cuda.yml.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/penstock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY feature_cache feature_cache
COPY worker worker
COPY loadgen loadgen
COPY pipelines pipelines
COPY models models
RUN --mount=type=cache,target=/root/.cache/pip /opt/penstock/bin/pip install --retries 10 --timeout 180 '.[http,tracing]'

FROM build AS build-cuda
RUN --mount=type=cache,target=/root/.cache/pip /opt/penstock/bin/pip install --retries 10 --timeout 180 '.[cuda,http]'

FROM python:${PYTHON}-slim-bookworm AS runtime
# A home of its own: numba keeps its compiled functions there, since it cannot write beside the code.
RUN useradd --create-home --uid 10001 penstock
WORKDIR /app
COPY pipelines pipelines
COPY models models
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PENSTOCK_ADMIN_HOST=0.0.0.0 \
    PENSTOCK_ADMIN_PORT=8080
EXPOSE 8080
USER penstock
# Exec form, so that SIGTERM reaches the worker: it drains, commits and leaves its group within 10 s.
CMD ["penstock", "--help"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/penstock /opt/penstock
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=build /opt/penstock /opt/penstock
