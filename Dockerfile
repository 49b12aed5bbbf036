# One image for every role: the code server, which also runs the jobs, the web server, the daemon, single runs, the
# metrics, and one-off commands. The role is set by the command, and its health check is set in the file that starts it.
# The image contains no secret. Its root file system can be mounted read-only: processes write only to /tmp (a tmpfs) and
# /opt/dagster/home/storage (a volume).
#
# The target `lambda` is the image of AWS Lambda: the same code, without Dagster.
#
# The tag sets the version of Python. A release pins the image by digest, because a tag can be moved:
#   make image BASE="$(make --silent base)"
ARG PYTHON_IMAGE=python:3.11-slim


FROM ${PYTHON_IMAGE} AS tools

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/loginpipe
WORKDIR /src

# Dependencies are installed for an empty package, so a change of loginpipe's code does not install them again.
COPY pyproject.toml constraints.txt ./
RUN mkdir loginpipe \
    && touch loginpipe/__init__.py README.md LICENSE


FROM tools AS dependencies

# Extras in addition to what every role needs, separated by commas: archive (Parquet), docker (runs as containers), k8s
# (runs as pods).
ARG EXTRAS=docker
RUN /opt/loginpipe/bin/pip install --constraint constraints.txt ".[dagster${EXTRAS:+,${EXTRAS}}]" \
    && /opt/loginpipe/bin/pip uninstall --yes loginpipe


FROM tools AS package

# A separate folder gives a separate layer, so that a new release pushes and pulls only a few megabytes.
COPY README.md LICENSE ./
COPY loginpipe loginpipe
RUN /opt/loginpipe/bin/pip install --no-deps --root /package .


FROM dependencies AS trimmed

# Remove what no role loads: the tests of pandas and pyarrow, headers, source maps of the UI, and the package installers.
RUN packages=$(echo /opt/loginpipe/lib/python3.*/site-packages) \
    && rm -rf "$packages/pandas/tests" "$packages/pyarrow/tests" "$packages/pyarrow/include" \
    && find "$packages/dagster_webserver/webapp" -name '*.map' -delete \
    && /opt/loginpipe/bin/pip uninstall --yes setuptools pip


FROM tools AS trimmed-lambda

# Lambda loads the image for each new environment, so a smaller image starts faster. No code here imports the tests of
# numpy.
RUN /opt/loginpipe/bin/pip install --constraint constraints.txt ".[lambda]" \
    && packages=$(echo /opt/loginpipe/lib/python3.*/site-packages) \
    && find "$packages/numpy" "$packages/pandas" -type d -name tests -prune -exec rm -rf {} + \
    && /opt/loginpipe/bin/pip uninstall --yes loginpipe setuptools pip


FROM ${PYTHON_IMAGE} AS base

LABEL org.opencontainers.image.title="loginpipe" \
      org.opencontainers.image.description="Login events from AWS SQS into Postgres, with the personal data masked" \
      org.opencontainers.image.licenses="MIT"

# Bytecode was compiled during installation and could not be written later. Output is unbuffered, so that the last lines
# of a killed process reach the log. Libraries write files of their own to HOME, so it is /tmp.
ENV PATH=/opt/loginpipe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp

# Remove pip, whose location depends on the version of Python, and the setuid and setgid bits of programs.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip /usr/local/bin/pip* \
        /usr/lib/python3.*/ensurepip /usr/share/python-wheels \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && groupadd --gid 10001 loginpipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin loginpipe


FROM base AS lambda

COPY --from=trimmed-lambda /opt/loginpipe /opt/loginpipe
COPY --from=package /package/opt/loginpipe /opt/loginpipe

# AWS Lambda uses a user of its own instead.
USER 10001:10001
WORKDIR /opt/loginpipe
ENTRYPOINT ["/opt/loginpipe/bin/python3", "-m", "awslambdaric"]
CMD ["loginpipe.ingest.aws_lambda.handler"]


FROM base

ENV DAGSTER_HOME=/opt/dagster/home

# Docker gives a new volume the owner and mode of the folder that it is mounted over, so the folders are created here.
# Only their owner can read the key folders and the key files in them.
RUN install --directory --owner=10001 --group=10001 --mode=0750 /opt/dagster/home/storage \
    && install --directory --owner=10001 --group=10001 --mode=0700 /keys/pipeline /keys/custody

COPY --from=trimmed /opt/loginpipe /opt/loginpipe
COPY --from=package /package/opt/loginpipe /opt/loginpipe
COPY dagster.yaml /opt/dagster/home/dagster.yaml
COPY workspace.yaml /opt/dagster/workspace.yaml

# A number, not a name, because Kubernetes' runAsNonRoot cannot resolve names.
USER 10001:10001
WORKDIR /opt/dagster
CMD ["loginpipe", "--help"]
