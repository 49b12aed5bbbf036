# One image for every role: the code server that also runs the jobs, the web server, the daemon, the one-off commands.
# The command says which. It holds no secret, and its root file system may be mounted read-only: what has to be written
# goes to /tmp (a tmpfs) and /opt/dagster/home/storage (a volume).

FROM python:3.11-slim AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/loginpipe
WORKDIR /src

# The dependencies first, with an empty package: a change of our own code does not download them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir loginpipe \
    && touch loginpipe/__init__.py \
    && /opt/loginpipe/bin/pip install --constraint constraints.txt .
# Without the extra `local`: no embedded Postgres, no AWS endpoint.
COPY loginpipe loginpipe
RUN /opt/loginpipe/bin/pip install --no-deps --force-reinstall .


FROM python:3.11-slim

LABEL org.opencontainers.image.title="loginpipe" \
      org.opencontainers.image.description="Login events from AWS SQS into Postgres, with the personal data masked" \
      org.opencontainers.image.licenses="MIT"

# Bytecode was compiled on installing, and could not be written anyway. Unbuffered, so that the last lines of a process
# that is killed reach the log. HOME is where libraries put files of their own, and /tmp is where they may.
ENV PATH=/opt/loginpipe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster/home \
    HOME=/tmp

# Docker gives a new volume the owner and mode of the folder it is mounted over: so the folders are made here, and the
# key folders are closed to everyone else, as the key files inside them are.
RUN groupadd --gid 10001 loginpipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin loginpipe \
    && install --directory --owner=10001 --group=10001 --mode=0750 /opt/dagster/home/storage \
    && install --directory --owner=10001 --group=10001 --mode=0700 /keys/pipeline /keys/custody

COPY --from=builder /opt/loginpipe /opt/loginpipe
COPY dagster.yaml /opt/dagster/home/dagster.yaml
COPY workspace.yaml /opt/dagster/workspace.yaml

# The number, not the name: Kubernetes' runAsNonRoot cannot look a name up.
USER 10001:10001
WORKDIR /opt/dagster
CMD ["loginpipe", "--help"]
