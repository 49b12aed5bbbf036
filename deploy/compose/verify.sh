#!/usr/bin/env bash
# Starts all of docker-compose.yml beside other running stacks, and verifies that it works: builds the image, sends login events to
# its queue and finds them in its table, queries the UI and Prometheus, stops the stack and starts it again.
#
#   deploy/compose/verify.sh                         about four minutes
#   deploy/compose/verify.sh --runs-in-containers    then 30,000 messages through three run containers at a time, one of
#                                                    them stopped midway: about four minutes more
#
# Needs Docker with Compose (v2, or docker-compose from 1.29.2 on) and curl. Each step prints its result. The first failure ends the
# script with exit code 1. At the end, everything except the image is removed. If Grafana's image is not available, Grafana is left
# out, with a message. On a machine where no image is available, use stand-ins.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

RUN_CONTAINERS=no
case "${*:-}" in
  "") ;;
  --runs-in-containers) RUN_CONTAINERS=yes ;;
  *) echo "usage: deploy/compose/verify.sh [--runs-in-containers]" >&2; exit 2 ;;
esac

EVENTS=1000        # sent to the stack without run containers
MANY_EVENTS=30000  # sent to the run containers
BAD_IN=50          # one event in this many is bad: loginpipe send makes them so
MOST_CONTAINERS=3

COMPOSE_PROJECT_NAME=loginpipe-verify-$$
POSTGRES_PASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
LOGINPIPE_MAX_RUNS=$MOST_CONTAINERS
LOGINPIPE_BATCH_MESSAGES=3000
export COMPOSE_PROJECT_NAME POSTGRES_PASSWORD LOGINPIPE_MAX_RUNS LOGINPIPE_BATCH_MESSAGES

work=$(mktemp --directory)
# The compose file itself, but Docker chooses the ports on this machine, because the ones in the file may be in use.
sed -E 's/"127\.0\.0\.1:[0-9]+:([0-9]+)"/"127.0.0.1::\1"/' docker-compose.yml >"$work/docker-compose.yml"
FILES=(--file "$work/docker-compose.yml")

if docker compose version >/dev/null 2>&1; then COMPOSE=(docker compose); else COMPOSE=(docker-compose); fi
compose() { "${COMPOSE[@]}" --project-directory "$PWD" "${FILES[@]}" "$@"; }

step() { printf '\n%4ds  %s\n' "$SECONDS" "$*"; }
saw() { printf '       %s\n' "$*"; }
fail() {
  printf '\n       FAILED: %s\n' "$*" >&2
  exit 1
}
# is WHAT WANTED GOT
is() {
  [ "$2" = "$3" ] || fail "$1: wanted $2, saw $3"
  saw "$1: $3"
}
# eventually SECONDS WHAT COMMAND…: wait until the command succeeds
eventually() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not in time: $what"
    sleep 1
  done
  saw "$what"
}
quietly() { "$@" >"$work/output" 2>&1 || { tail -n 40 "$work/output" >&2; fail "$*"; }; }

# Uses docker directly, because each docker-compose command takes a second.
containers() { docker ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" "$@"; }
inside() {
  local service=$1
  shift
  docker exec "$(containers --quiet --filter "label=com.docker.compose.service=$service")" "$@"
}
published() {
  docker port "$(containers --quiet --filter "label=com.docker.compose.service=$1")" "$2" | head -n 1
}
query() { inside postgres psql --username=postgres --dbname=loginpipe --no-align --tuples-only --command "$1"; }
stored() { query "SELECT (SELECT count(*) FROM user_logins) || ' rows, ' || (SELECT count(*) FROM loginpipe.rejected_messages)
  || ' rejects, ' || (SELECT count(*) FROM loginpipe.ingested_messages) || ' in the ledger'"; }
stored_are() { [ "$(stored)" = "$1" ]; }
# stored_when SENT: what `stored` prints after that many messages are processed
stored_when() { echo "$(($1 - $1 / BAD_IN)) rows, $(($1 / BAD_IN)) rejects, $1 in the ledger"; }
send() { inside metrics loginpipe send --count "$1" --seed "$2"; }
graphql() { curl -fsS -H 'Content-Type: application/json' --data "{\"query\": \"$1\"}" "http://$(published webserver 3000)/graphql"; }
# runs STATUS: the number of ingest_logins runs in Dagster with this status
runs() { graphql "{ runsOrError(filter: {pipelineName: \\\"ingest_logins\\\", statuses: [$1]}) { ... on Runs { count } } }" | sed -nE 's/.*"count": ?([0-9]+).*/\1/p'; }
keys_in() { inside code-server sha256sum /keys/pipeline/token_keys.json /keys/pipeline/seal_public.pem; }
metric() { curl -fsS "http://$(published metrics 9464)/metrics" | awk -v name="$1" '$1 == name { print $2 }'; }
queue_is_empty() {
  [ "$(metric 'loginpipe_queue_messages{queue="login-queue",state="visible"}')" = 0.0 ] &&
    [ "$(metric 'loginpipe_queue_messages{queue="login-queue",state="in_flight"}')" = 0.0 ]
}
prometheus() { curl -fsS "http://$(published prometheus 9090)/api/v1/$1"; }
run_containers() { docker ps --quiet --filter label=dagster/run_id --filter "network=${COMPOSE_PROJECT_NAME}_default" "$@"; }

all_healthy() {
  containers --format '{{.Label "com.docker.compose.service"}} {{.Status}}' >"$work/services"
  local service
  for service in "${SERVICES[@]}"; do
    case $service in
      keys | migrate) grep -q "^$service Exited (0)" "$work/services" ;;
      prometheus | grafana) grep -q "^$service Up" "$work/services" ;;
      *) grep -q "^$service Up .*(healthy)" "$work/services" ;;
    esac || return 1
  done
}

clean_up() {
  local code=$?
  trap - EXIT
  # The output may be redirected at this point.
  exec >&3 2>&4
  if [ "$code" != 0 ]; then
    compose logs --no-color --tail=40 >&2 || true
  fi
  step "removing what was made: containers, network, volumes"
  # The daemon first, because it would start more runs, which Compose does not know.
  compose stop daemon >/dev/null 2>&1 || true
  run_containers | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1 || true
  compose --profile monitoring down --volumes --remove-orphans >"$work/output" 2>&1 || tail -n 20 "$work/output" >&2
  rm -rf "$work"
  if [ "$code" = 0 ]; then step "all of it works"; else step "NOT verified"; fi
  exit "$code"
}
exec 3>&1 4>&2
trap clean_up EXIT
trap 'exit 130' INT TERM


step "the image"
quietly compose build
IMAGE=loginpipe:local
saw "$(docker image inspect --format '{{.Size}}' "$IMAGE" | awk '{ printf "%.0f MB", $1 / 1e6 }'), of which the base \
$(docker image inspect --format '{{.Size}}' python:3.11-slim | awk '{ printf "%.0f MB", $1 / 1e6 }')"
is "user" 10001:10001 "$(docker image inspect --format '{{.Config.User}}' "$IMAGE")"
# Not read-only, so that the check shows what the user could change.
in_image() { docker run --rm --network none --cap-drop ALL --entrypoint sh "$IMAGE" -c "$1"; }
is "programs that build or install" "none" "$(in_image 'for name in pip pip3 gcc cc make uv git; do command -v $name; done || echo none')"
is "pip as a module" "none" "$(in_image 'python -c "import pip" 2>/dev/null && echo there || echo none')"
is "programs that make their caller root" "none" "$(in_image 'find / -xdev -type f -perm /6000 2>/dev/null | grep . || echo none')"
is "what its user could change" "/keys/custody /keys/pipeline /opt/dagster/home/storage" \
  "$(in_image 'find / -xdev -writable \( -type f -o -type d \) -not -path "/tmp*" -not -path "/var/tmp*" -not -path "/proc/*" \
    -not -path "/run/lock*" 2>/dev/null' | sort | paste -sd " " -)"

step "the stack"
SERVICES=(postgres localstack keys migrate code-server webserver daemon metrics prometheus)
GRAFANA=$(sed -nE 's/^ +image: (grafana\/.*)/\1/p' docker-compose.yml)
if docker image inspect "$GRAFANA" >/dev/null 2>&1 || docker pull --quiet "$GRAFANA" >/dev/null 2>&1; then
  SERVICES+=(grafana)
else
  saw "left out: grafana, since its image cannot be had here"
fi
started=$SECONDS
quietly compose --profile monitoring up --detach "${SERVICES[@]}"
eventually 180 "every service answers: ${SERVICES[*]}" all_healthy
saw "$((SECONDS - started)) s from nothing to there"

step "$EVENTS login events, one in $BAD_IN of them bad"
saw "$(send "$EVENTS" 1)"
eventually 120 "$(stored_when "$EVENTS")" stored_are "$(stored_when "$EVENTS")"
is "cells that are not tokens" 0 "$(query "SELECT count(*) FROM user_logins
  WHERE masked_ip !~ '^ip\.v1\.[A-Za-z0-9_-]{43}$' OR masked_device_id !~ '^dev\.v1\.[A-Za-z0-9_-]{43}$'")"
eventually 60 "the queue is empty, and nothing is in flight" queue_is_empty

step "the UI"
curl -fsS "http://$(published webserver 3000)/" | grep -q '<title[^>]*>Dagster</title>' || fail "the page is not Dagster's"
saw "its page is Dagster's"
succeeded() { [ "$(runs SUCCESS)" -ge 1 ]; }
# A run of the sensor waits a minute for more messages.
eventually 120 "GraphQL: the run that the sensor started succeeded" succeeded
is "GraphQL: failed runs" 0 "$(runs FAILURE)"
SENSOR='repositoryLocationName: \"loginpipe\", repositoryName: \"__repository__\", sensorName: \"queue_depth_sensor\"'
is "GraphQL: queue_depth_sensor" RUNNING \
  "$(graphql "{ sensorOrError(sensorSelector: {$SENSOR}) { ... on Sensor { sensorState { status } } } }" | grep -o RUNNING)"

step "monitoring"
is "metrics: batches" "$(query "SELECT count(*) FROM loginpipe.batches").0" \
  "$(metric 'loginpipe_batches_total{queue="login-queue"}')"
scraped() { prometheus 'query?query=up%7Bjob=%22loginpipe%22%7D==1' | grep -q '"value"'; }
eventually 60 "Prometheus scrapes loginpipe" scraped
is "Prometheus: alert rules loaded" "$(grep -c -- '- alert:' deploy/prometheus/rules.yml)" \
  "$(prometheus rules | grep -o '"type":"alerting"' | wc -l)"
firing() { prometheus alerts | grep -o '"state":"firing"' | wc -l; }
is "Prometheus: alerts that fire" 0 "$(firing)"
if [[ " ${SERVICES[*]} " = *" grafana "* ]]; then
  found() { curl -fsS "http://$(published grafana 3000)/api/search?type=dash-db" | grep -q '"uid"'; }
  eventually 60 "Grafana has the dashboard" found
fi

step "down, and up again"
stored_before=$(stored) keys_before=$(keys_in) runs_before=$(runs SUCCESS)
quietly compose --profile monitoring down
quietly compose --profile monitoring up --detach "${SERVICES[@]}"
eventually 180 "every service answers" all_healthy
is "tables, as before" "$stored_before" "$(stored)"
is "runs that Dagster knows, as before" "$runs_before" "$(runs SUCCESS)"
[ "$keys_before" = "$(keys_in)" ] || fail "the keys are others than before"
saw "keys, as before"
saw "not kept: messages that waited on the queue. LocalStack has its queues in memory; SQS does not lose them"
devices=$(query "SELECT count(DISTINCT masked_device_id) FROM user_logins")
saw "the same $EVENTS events once more: $(send "$EVENTS" 1)"
sent=$((EVENTS * 2))
eventually 120 "$(stored_when "$sent")" stored_are "$(stored_when "$sent")"
is "devices, as before, since equal values have equal tokens" "$devices" \
  "$(query "SELECT count(DISTINCT masked_device_id) FROM user_logins")"
# The rows are there before the run ends. The run would be lost with its code server.
no_run_is_active() { [ "$(runs STARTED)$(runs STARTING)$(runs QUEUED)" = 000 ]; }
eventually 120 "no run is active" no_run_is_active
is "GraphQL: failed runs" 0 "$(runs FAILURE)"

[ "$RUN_CONTAINERS" = yes ] || exit 0


step "runs in containers: $MANY_EVENTS events, $LOGINPIPE_BATCH_MESSAGES a batch, $MOST_CONTAINERS runs at once"
DOCKER_SOCKET_GROUP=$(stat --format=%g /var/run/docker.sock)
export DOCKER_SOCKET_GROUP
FILES+=(--file deploy/compose/runs-in-containers.yml)
quietly compose --profile monitoring up --detach "${SERVICES[@]}"
eventually 180 "every service answers" all_healthy
# All messages are sent before the first run, so that there is work for three runs.
quietly compose stop daemon
saw "$(send "$MANY_EVENTS" 2)"
sent=$((sent + MANY_EVENTS))
started=$SECONDS
quietly compose start daemon

most=0 stopped=
touch "$work/seen"
until stored_are "$(stored_when "$sent")"; do
  [ "$((SECONDS - started))" -lt 420 ] || fail "not in time: $(stored), wanted $(stored_when "$sent")"
  # Only the runs of this job.
  run_containers --filter label=dagster/job_name=ingest_logins >"$work/now"
  cat "$work/now" >>"$work/seen"
  now=$(wc -l <"$work/now")
  if [ "$now" -gt "$most" ]; then
    most=$now
    saw "$(printf '%3d s: %d run containers at once' "$((SECONDS - started))" "$most")"
  fi
  # When all containers are running, stop the one that recorded the latest batch.
  if [ -z "$stopped" ] && [ "$now" = "$MOST_CONTAINERS" ]; then
    run=$(query "SELECT run_id FROM loginpipe.batches ORDER BY recorded_at DESC LIMIT 1")
    stopped=${run:+$(docker ps --quiet --filter "label=dagster/run_id=$run")}
    if [ -n "$stopped" ]; then
      is "a run container's user, root file system, memory" "10001:10001 read-only 1073741824" \
        "$(docker inspect --format '{{.Config.User}} {{if .HostConfig.ReadonlyRootfs}}read-only{{end}} {{.HostConfig.Memory}}' "$stopped")"
      docker stop -t 60 "$stopped" >/dev/null 2>&1
      saw "$((SECONDS - started)) s: stopped the container of run $run, which had stored $(query \
        "SELECT sum(inserted) FROM loginpipe.batches WHERE run_id = '$run'")"
    fi
  fi
  sleep 1
done
saw "$((SECONDS - started)) s for $MANY_EVENTS messages, $(sort -u "$work/seen" | wc -l) run containers in all"
is "run containers at once, at most" "$MOST_CONTAINERS" "$most"
is "each message once" "$(stored_when "$sent")" "$(stored)"
[ -n "$stopped" ] || fail "no container was caught: nothing was stopped"
is "failed runs, the stopped one" 1 "$(runs FAILURE)"
eventually 180 "the queue is empty, and nothing is in flight" queue_is_empty
none_left() { [ -z "$(run_containers)" ]; }
eventually 120 "no run container is left" none_left
is "each message once, still" "$(stored_when "$sent")" "$(stored)"
