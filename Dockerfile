# docker build --tag sieverl .                          PyTorch for a CPU
# docker build --tag sieverl --build-arg TORCH_INDEX= .  PyTorch for NVIDIA GPUs; run it with --gpus all
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" sieverl train gsm8k
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md CITATION.cff LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
# hadolint ignore=DL3013  # the wheel has a version
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} /wheels/*.whl \
  && sieverl --version
# of whoever runs it: caches go to a folder that everybody may write
ENV HOME=/tmp/home
RUN mkdir --mode 1777 /tmp/home /data
USER 1000
WORKDIR /data
ENTRYPOINT ["sieverl"]
CMD ["demo"]
