# syntax=docker/dockerfile:1
# Two static programs in an otherwise empty image, for every architecture that buildx builds. `make image` builds the same layout
# without a container engine; a test compares the two.
FROM --platform=$TARGETPLATFORM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
# Alpine's Rust links statically against musl.
RUN cargo build --locked --release --package linkerd-gate --bin linkerd-gate --bin gate-wait \
 && mkdir /image && cp target/release/linkerd-gate target/release/gate-wait /image/

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="linkerd-gate" \
      org.opencontainers.image.description="Keeps Kubernetes workloads from starting outside the Linkerd mesh" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/linkerd-gate /linkerd-gate
COPY --from=build /image/gate-wait /gate-wait
# Linkerd's own uid: Linkerd does not redirect traffic of this user into a proxy that does not run yet.
USER 2102:2102
# The program that waits in users' pods. It hands everything but `wait` over to /linkerd-gate.
ENTRYPOINT ["/gate-wait"]
