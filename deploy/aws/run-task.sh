#!/usr/bin/env bash
# Runs a one-off task, waits until it ends, and fails unless it succeeded: run-task.sh loginpipe-migrate
#
# Words after the task's name replace its own command: run-task.sh loginpipe-redrive loginpipe dlq status
# INSTALLATION is the environment's value `installation`; the default is loginpipe.
set -euo pipefail

family=${1:?which task: loginpipe-prepare, loginpipe-migrate, loginpipe-check, loginpipe-redrive or loginpipe-run}
shift
installation=${INSTALLATION:-loginpipe}
stack=$(tr '[:lower:]' '[:upper:]' <<< "${installation:0:1}")${installation:1}Data

output() {
  aws cloudformation describe-stacks --stack-name "$stack" --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

overrides='{}'
if [ $# -gt 0 ]; then
  overrides=$(jq --null-input --compact-output --arg name "${family#"$installation"-}" \
    '{containerOverrides: [{name: $name, command: $ARGS.positional}]}' --args -- "$@")
fi
subnets=$(output TaskSubnets)
group=$(output TaskGroup)
task=$(aws ecs run-task --cluster "$installation" --launch-type FARGATE --task-definition "$family" \
  --network-configuration "awsvpcConfiguration={subnets=[$subnets],securityGroups=[$group],assignPublicIp=DISABLED}" \
  --overrides "$overrides" --query 'tasks[0].taskArn' --output text)
echo "$family runs as ${task##*/}"
# This fails after ten minutes.
aws ecs wait tasks-stopped --cluster "$installation" --tasks "$task"
read -r code reason <<< "$(aws ecs describe-tasks --cluster "$installation" --tasks "$task" --output text \
  --query 'tasks[0].[containers[0].exitCode, stoppedReason]')"
if [ "$code" != 0 ]; then
  echo "$family ended with $code ($reason): see the log group /$installation/setup, of $installation-run /$installation/run" >&2
  exit 1
fi
