# One image for every role: the code server that also runs the jobs, the web server, the daemon, single runs, the metrics,
# the one-off commands. The command says which; so does each role's health check, which stands where the role is started.
# It holds no secret, and its root file system may be mounted read-only: what has to be written goes to /tmp (a tmpfs) and
# /opt/dagster/home/storage (a volume).
#
# The target `lambda` is the image of AWS Lambda: the same code, without Dagster.
#
# The tag says which Python. A release says which bytes, since a tag can be moved:
#   make image BASE="$(make --silent base)"
ARG PYTHON_IMAGE=python:3.11-slim


FROM ${PYTHON_IMAGE} AS tools

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/loginpipe
WORKDIR /src

# For an empty package: a change of our own code installs none of its dependencies again.
COPY pyproject.toml constraints.txt ./
RUN mkdir loginpipe \
    && touch loginpipe/__init__.py README.md LICENSE


FROM tools AS dependencies

# Beyond what every role needs, with commas: archive (Parquet), docker (runs as containers), k8s (runs as pods).
ARG EXTRAS=docker
RUN /opt/loginpipe/bin/pip install --constraint constraints.txt ".[dagster${EXTRAS:+,${EXTRAS}}]" \
    && /opt/loginpipe/bin/pip uninstall --yes loginpipe


FROM tools AS package

# Into a folder of its own, and so a layer of its own: a new release of ours is a few megabytes to push and to pull.
COPY README.md LICENSE ./
COPY loginpipe loginpipe
RUN /opt/loginpipe/bin/pip install --no-deps --root /package .


FROM dependencies AS trimmed

# What no role loads: the tests of pandas and pyarrow, headers, source maps of the UI, and the means to install more.
RUN packages=$(echo /opt/loginpipe/lib/python3.*/site-packages) \
    && rm -rf "$packages/pandas/tests" "$packages/pyarrow/tests" "$packages/pyarrow/include" \
    && find "$packages/dagster_webserver/webapp" -name '*.map' -delete \
    && /opt/loginpipe/bin/pip uninstall --yes setuptools pip


FROM tools AS trimmed-lambda

# Lambda loads an image anew for each environment: what is not in it costs no time. No code here imports numpy's tests.
RUN /opt/loginpipe/bin/pip install --constraint constraints.txt ".[lambda]" \
    && packages=$(echo /opt/loginpipe/lib/python3.*/site-packages) \
    && find "$packages/numpy" "$packages/pandas" -type d -name tests -prune -exec rm -rf {} + \
    && /opt/loginpipe/bin/pip uninstall --yes loginpipe setuptools pip


FROM ${PYTHON_IMAGE} AS base

LABEL org.opencontainers.image.title="loginpipe" \
      org.opencontainers.image.description="Login events from AWS SQS into Postgres, with the personal data masked" \
      org.opencontainers.image.licenses="MIT"

# Bytecode was compiled on installing, and could not be written anyway. Unbuffered, so that the last lines of a process
# that is killed reach the log. HOME is where libraries put files of their own, and /tmp is where they may.
ENV PATH=/opt/loginpipe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp

# The base brings pip as well, in places that differ from Python to Python, and programs that make their caller root.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* \
        /usr/lib/python3.*/ensurepip /usr/share/python-wheels \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && groupadd --gid 10001 loginpipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin loginpipe


FROM base AS lambda

COPY --from=trimmed-lambda /opt/loginpipe /opt/loginpipe
COPY --from=package /package/opt/loginpipe /opt/loginpipe

# Lambda has a user of its own in its place.
USER 10001:10001
WORKDIR /opt/loginpipe
ENTRYPOINT ["/opt/loginpipe/bin/python3", "-m", "awslambdaric"]
CMD ["loginpipe.ingest.aws_lambda.handler"]


FROM base

ENV DAGSTER_HOME=/opt/dagster/home

# Docker gives a new volume the owner and mode of the folder it is mounted over: so the folders are made here, and the
# key folders are closed to everyone else, as the key files inside them are.
RUN install --directory --owner=10001 --group=10001 --mode=0750 /opt/dagster/home/storage \
    && install --directory --owner=10001 --group=10001 --mode=0700 /keys/pipeline /keys/custody

COPY --from=trimmed /opt/loginpipe /opt/loginpipe
COPY --from=package /package/opt/loginpipe /opt/loginpipe
COPY dagster.yaml /opt/dagster/home/dagster.yaml
COPY workspace.yaml /opt/dagster/workspace.yaml

# The number, not the name: Kubernetes' runAsNonRoot cannot look a name up.
USER 10001:10001
WORKDIR /opt/dagster
CMD ["loginpipe", "--help"]
