# One image for every role: a node (engine and sidecar, the default), the shard router and the `raftkv` command.
#
#   docker run IMAGE                              a node
#   docker run IMAGE raftkv-router                a router
#   docker run IMAGE raftkv put a b               the command line
#
#   docker compose up --build --wait              builds everything in containers
#   make up                                       the same, and works where no registry can be reached
#
# Needs BuildKit, as `docker compose build` and every Docker since 23 use it; Docker 20.10's own is new enough.
#
# BINARIES says where the programs come from: `build` compiles them in a container, `prebuilt` takes them from
# .cache/bin, where scripts/build-image.sh puts what was built on the machine itself. PROFILE is cargo's: `dist` is what is shipped,
# `release` builds faster.
ARG BINARIES=build
ARG PROFILE=dist
ARG RUST_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
ARG PROFILE
WORKDIR /src
COPY . .
RUN --mount=type=cache,id=raftkv-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=raftkv-target,target=/src/target,sharing=locked \
    cargo build --profile "$PROFILE" --locked -p raftkv-engine -p raftkv-sidecar -p raftkv-router -p raftkv-cli --bins && \
    mkdir -p /out && \
    for name in raftkv raftkv-engine raftkv-sidecar raftkv-router; do \
        strip --strip-debug -o "/out/$name" "target/$PROFILE/$name" || exit 1; \
    done

# For .devcontainer: everything that `make verify`, `make check` and `make test` use, without a Docker engine. No other stage
# depends on this stage, so building the image skips the stage.
FROM ${RUST_IMAGE} AS toolchain
RUN rustup component add clippy rustfmt && \
    apt-get update && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        e2fsprogs faketime g++ python3 python3-venv shellcheck valgrind && \
    rm -rf /var/lib/apt/lists/*
# The Rust of the base image, in place of the channel in rust-toolchain.toml: nothing more is downloaded.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION}

FROM scratch AS prebuilt
COPY .cache/bin/ /out/

FROM ${BINARIES} AS binaries

FROM ${RUNTIME_IMAGE} AS runtime
# A fixed number, so that a volume keeps its owner from one image to the next.
RUN groupadd --gid 10001 raftkv && \
    useradd --uid 10001 --gid raftkv --home-dir /var/lib/raftkv --no-create-home --shell /usr/sbin/nologin raftkv && \
    install -d -o raftkv -g raftkv -m 700 /var/lib/raftkv
COPY --from=binaries /out/ /usr/local/bin/
COPY --chmod=755 entrypoint.sh /usr/local/bin/entrypoint.sh
# Where `raftkv` finds what runs in its container, whichever that is: the first of each that listens, a node's or a
# router's. A node's RAFTKV_ROUTER tells it of the routers.
ENV RAFTKV_ENDPOINT=http://127.0.0.1:8080,http://127.0.0.1:8000 \
    RAFTKV_MANAGEMENT=http://127.0.0.1:6000,http://127.0.0.1:8000
# How long the allocator keeps memory that is not in use, in milliseconds: docs/reference/configuration.md.
ENV MIMALLOC_PURGE_DELAY=10000
USER raftkv
VOLUME /var/lib/raftkv
# A node: HTTP API, Raft between nodes, management, routers. A router: HTTP API.
EXPOSE 8080 8088 6000 50053 8000
# Whichever of the two answers: a node's sidecar on 6000, a router on 8000.
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=10 \
    CMD ["raftkv", "health", "--endpoint", "http://127.0.0.1:6000,http://127.0.0.1:8000"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]
