# Two stages: the first compiles, the second holds the program, a configuration and nothing that could start a shell.
#
#   docker build -t ifmatch .
#   docker run --rm -p 8080:8080 ifmatch run --listen 0.0.0.0:8080 --upstream http://backend:3000
#   docker run --rm -p 8080:8080 -v "$PWD/ifmatch.toml:/etc/ifmatch/ifmatch.toml:ro" ifmatch
#
# Both images are of the same Debian release: a program that was linked against a newer libc would not start.
ARG BUILD_IMAGE=docker.io/library/rust:1-slim-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Adds the toolchain's llvm-tools, builds twice, and in between shows the program what is usual (CPU time for some minutes).
RUN CARGO_PROFILE_RELEASE_STRIP=symbols build/optimized
# In a container 127.0.0.1 is reached by nobody outside of it, so the smallest configuration listens on every address
# here. Its backend stays on 127.0.0.1: that is a neighbour in the same pod. All others bring their own file.
RUN sed 's/^address = "127\.0\.0\.1:/address = "0.0.0.0:/' config/minimal.toml > ifmatch.toml \
 && grep -q '^address = "0\.0\.0\.0:8080"$' ifmatch.toml \
 && printf '\n# For `ifmatch health`; only inside of the container.\n[admin]\n' >> ifmatch.toml

FROM ${RUN_IMAGE}
COPY --from=build /src/target/optimized/ifmatch /usr/local/bin/ifmatch
COPY --from=build /src/ifmatch.toml /etc/ifmatch/ifmatch.toml
# As a number, so that an orchestrator can see that it is not root.
USER 65532:65532
EXPOSE 8080
# Asks the admin listener, so a file of one's own needs an [admin] table.
HEALTHCHECK --interval=10s --timeout=3s CMD ["/usr/local/bin/ifmatch", "health"]
# Stops accepting, finishes what is under way, and ends.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ifmatch"]
CMD ["run"]
