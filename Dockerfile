# The project with all that it needs, for a CPU or for an NVIDIA GPU:
#
#   docker build -t idkl_nb .                                      # for the CPU
#   docker build -t idkl_nb:cuda --build-arg TORCH= .              # for a GPU: PyTorch with CUDA
#   docker run --rm idkl_nb                                        # make run
#   docker run --rm idkl_nb make test
#   docker run --rm --gpus all -v /data:/data:ro -v "$PWD/runs:/home/reader/idkl_nb/runs" \
#       idkl_nb:cuda make run IDKL_RUN=/data/SYSU-MM01
#
# PyTorch brings CUDA itself; the host needs the driver and the NVIDIA Container Toolkit. A folder
# for runs that is mounted must be writable by user 1000.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# make drives everything; git, for versions in results
RUN apt-get update && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 reader && install -d -o reader /home/reader/idkl_nb
USER reader
WORKDIR /home/reader/idkl_nb

# cpu: PyTorch without CUDA, a tenth of the size; empty: as PyPI has it, with CUDA
ARG TORCH=cpu
ENV TORCH=${TORCH} PYTHONUNBUFFERED=1
COPY --chown=reader . .
RUN make setup

CMD ["make", "run"]
