#!/usr/bin/env bash
# Builds stand-ins for the public images of docker-compose.yml and the Dockerfile, under their public names, for a machine that can
# reach the packages of Debian and Python but no image registry. They are only for trials of the compose file, never for production:
# they are not the real images, and they are not updated.
#
#   sudo deploy/compose/stand-ins.sh          (Debian, with docker.io and debootstrap; about two minutes, 1.6 GB)
#
# Remove them afterwards, so that they are not mistaken for the real ones:
#
#   docker image rm python:3.11-slim postgres:17.11 localstack/localstack:4.14.0 prom/prometheus:v3.5.0 loginpipe-stand-in:trixie
#
# There is none for Grafana, because Debian has no package of it.
#
# The images contain this machine's mirror, certificates and pip configuration: push them nowhere.
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

# The mirror that this machine's apt uses. If there is none, debootstrap uses its default.
# shellcheck source=/dev/null
. /etc/os-release
mirror=
if [ "$ID" = debian ]; then
  mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
    sed -n "s/^$VERSION_CODENAME //p" | head -n 1)
fi

# base IMAGE SUITE PACKAGES: build an image of Debian with these packages only.
base() {
  local image=$1 suite=$2 packages=$3 root=$work/$2
  if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image is here already, and stays as it is"
    return
  fi
  echo "$image: Debian $suite"
  debootstrap --variant=minbase --include="ca-certificates,$packages" "$suite" "$root" ${mirror:+"$mirror"} \
    >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" >&2; fail "no Debian $suite: see above"; }
  # Settings that a proxy or a mirror of this machine requires.
  cp --no-clobber /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  apt-config dump | grep -E '^Acquire::(http|https|Check-)' >"$root/etc/apt/apt.conf.d/99machine" || true
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar --directory "$root" --create . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
  rm -rf "$root"
}

# image NAME FOLDER: build the Dockerfile in the folder.
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
