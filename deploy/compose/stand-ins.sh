#!/usr/bin/env bash
# Stand-ins for the public images that docker-compose.yml and the Dockerfile name, under their public names, for a machine
# that reaches Debian's and Python's packages but no image registry. They are there to try the compose file with, and
# nothing for production: they are not the images that their names promise, and they are not updated.
#
#   sudo deploy/compose/stand-ins.sh          (Debian, with docker.io and debootstrap; about two minutes, 1.6 GB)
#
# Afterwards remove them, so that they are not taken for the real ones:
#
#   docker image rm python:3.11-slim postgres:17.11 localstack/localstack:4.14.0 prom/prometheus:v3.5.0 loginpipe-stand-in:trixie
#
# There is none for Grafana: Debian has no package of it.
#
# Mirror, certificates and pip's configuration are this machine's own, and go into the images: push them nowhere.
set -euo pipefail
cd "$(dirname "$0")/stand-ins"

fail() {
  echo "stand-ins.sh: $*" >&2
  exit 1
}
[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run it with sudo"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
docker info >/dev/null 2>&1 || fail "the Docker daemon does not answer: start it"

work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

# Where this machine's apt gets Debian from; elsewhere debootstrap knows a place of its own.
# shellcheck source=/dev/null
. /etc/os-release
mirror=
if [ "$ID" = debian ]; then
  mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
    sed -n "s/^$VERSION_CODENAME //p" | head -n 1)
fi

# base IMAGE SUITE PACKAGES: an image of nothing but Debian and these packages.
base() {
  local image=$1 suite=$2 packages=$3 root=$work/$2
  if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image is here already, and stays as it is"
    return
  fi
  echo "$image: Debian $suite"
  debootstrap --variant=minbase --include="ca-certificates,$packages" "$suite" "$root" ${mirror:+"$mirror"} \
    >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; fail "no Debian $suite: see above"; }
  # What a proxy or a mirror of this machine asks of whoever goes through it.
  cp --no-clobber /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  apt-config dump | grep -E '^Acquire::(http|https|Check-)' >"$root/etc/apt/apt.conf.d/99machine" || true
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar --directory "$root" --create . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
  rm -rf "$root"
}

# image NAME FOLDER: what the Dockerfile in the folder says.
image() {
  if docker image inspect "$1" >/dev/null 2>&1; then
    echo "$1 is here already, and stays as it is"
    return
  fi
  echo "$1: $2/Dockerfile"
  docker build --quiet --tag "$1" --label org.opencontainers.image.description="a stand-in to try the compose file with" \
    "$2" >/dev/null
}

base python:3.11-slim bookworm python3,python3-venv
base loginpipe-stand-in:trixie trixie curl
image postgres:17.11 postgres
image localstack/localstack:4.14.0 localstack
image prom/prometheus:v3.5.0 prometheus
docker image ls --format 'table {{.Repository}}:{{.Tag}}\t{{.Size}}'
