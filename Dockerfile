# docker build -t portcullis .     (BuildKit: Docker 23 or later, or Podman)
#
# The process runs as uid 10001. Mount the configuration at /etc/portcullis, with key files
# that uid 10001 owns and nobody else may read, and a volume at /var/lib/portcullis for the
# registry (registry.url: "sqlite:/var/lib/portcullis/portcullis.db"). The admin listener
# answers outside the container only where the configuration binds it to 0.0.0.0:9090. Give it
# time to drain: `docker stop --time 30`.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
    cmake g++ git libclang-dev make perl pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# .cargo gives BoringSSL's symbols their prefix: the build needs it as much as the sources.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY conf conf
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked --bin portcullis \
 && strip --strip-debug -o /usr/local/bin/portcullis target/release/portcullis

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 portcullis \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/portcullis \
    --shell /usr/sbin/nologin portcullis \
 && install -d -m 0755 /etc/portcullis \
 && install -d -m 0700 -o 10001 -g 10001 /var/lib/portcullis
COPY LICENSE NOTICE /usr/share/doc/portcullis/
COPY --from=build /usr/local/bin/portcullis /usr/local/bin/portcullis
USER 10001:10001
WORKDIR /var/lib/portcullis
VOLUME /var/lib/portcullis
EXPOSE 8443 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["portcullis", "health"]
ENTRYPOINT ["portcullis"]
CMD ["run", "-c", "/etc/portcullis/portcullis.yaml"]
