# docker build --tag sieverl .                             PyTorch for a CPU
# docker build --tag sieverl --build-arg TORCH_INDEX= .    PyTorch for NVIDIA GPUs; run it with --gpus all
# docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" sieverl train gsm8k
# The first stage has a compiler: pycosat, which reasoning-gym needs, is published as source alone.
FROM python:3.12 AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md CHANGELOG.md CITATION.cff LICENSE ./
COPY src src
RUN python -m venv /opt/sieverl \
  && /opt/sieverl/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .

FROM python:3.12-slim
COPY --from=build /opt/sieverl /opt/sieverl
# whoever runs it: caches go to a folder that everybody may write
ENV PATH="/opt/sieverl/bin:$PATH" HOME=/tmp/home
RUN mkdir --mode 1777 /tmp/home /data && sieverl --version
USER 1000
WORKDIR /data
ENTRYPOINT ["sieverl"]
CMD ["demo"]
