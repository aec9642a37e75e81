# The two commands of the README on a CPU, in a container:
#
#     docker build -t yxanul .
#     docker run -it --rm -v yxanul-demo:/home/yxanul/yxanul/yxanul-demo yxanul      # make demo; interrupted, it goes on
#     docker run --rm yxanul make test
#
# The network is needed to build. Not here: GPUs, which want another torch (leave the line with /cpu out).
FROM python:3.11-slim

# g++ is torch.compile's, which some tests run
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home yxanul && install --directory --owner yxanul /home/yxanul/yxanul
USER yxanul
WORKDIR /home/yxanul/yxanul

# first what changes rarely; the default Linux wheel of torch brings several GB of CUDA
COPY --chown=yxanul constraints.txt ./
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir -c constraints.txt torch \
        --extra-index-url https://download.pytorch.org/whl/cpu

COPY --chown=yxanul . .
RUN PIP_NO_CACHE_DIR=1 make .venv/.ready && mkdir yxanul-demo

CMD ["make", "demo"]
