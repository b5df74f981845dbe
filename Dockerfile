# The image of the nodes on Kubernetes (jobs/rayjob.yaml): one for the head and for workers that decode, one with CUDA.
#
#     docker build --build-arg DEVICE=cpu -t registry.example.com/icce-ray:2.60.0-cpu .
#     docker build --build-arg DEVICE=gpu -t registry.example.com/icce-ray:2.60.0-gpu .
#
# Both hold the same versions of everything, torch as its build for CPUs or for CUDA. What goes in: .dockerignore.
ARG DEVICE=gpu
FROM rayproject/ray:2.60.0-py311-${DEVICE}
ARG DEVICE

# torch.compile needs a C++ compiler where heads train.
RUN if [ "$DEVICE" = gpu ]; then \
        sudo apt-get update && sudo apt-get install -y --no-install-recommends g++ && sudo rm -rf /var/lib/apt/lists/*; \
    fi

# torch first: a layer that changes with its version only.
COPY --chown=ray constraints.txt /home/ray/icce-ray/constraints.txt
RUN if [ "$DEVICE" = cpu ]; then set -- --index-url https://download.pytorch.org/whl/cpu; fi; \
    pip install --no-cache-dir "$@" "torch==$(sed -n 's/^torch==//p' /home/ray/icce-ray/constraints.txt)"

COPY --chown=ray . /home/ray/icce-ray
RUN pip install --no-cache-dir -c /home/ray/icce-ray/constraints.txt "/home/ray/icce-ray[cluster]"
WORKDIR /home/ray/icce-ray
