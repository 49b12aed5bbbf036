#!/usr/bin/env bash
# Runs one of the one-off tasks, waits for its end, and fails unless it ended well: run-task.sh loginpipe-migrate
set -euo pipefail

family=${1:?which task: loginpipe-prepare, loginpipe-migrate, loginpipe-check or loginpipe-run}

output() {
  aws cloudformation describe-stacks --stack-name LoginpipeData --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

subnets=$(output TaskSubnets)
group=$(output TaskGroup)
task=$(aws ecs run-task --cluster loginpipe --launch-type FARGATE --task-definition "$family" \
  --network-configuration "awsvpcConfiguration={subnets=[$subnets],securityGroups=[$group],assignPublicIp=DISABLED}" \
  --query 'tasks[0].taskArn' --output text)
echo "$family runs as ${task##*/}"
# Ten minutes, then it fails.
aws ecs wait tasks-stopped --cluster loginpipe --tasks "$task"
read -r code reason <<< "$(aws ecs describe-tasks --cluster loginpipe --tasks "$task" --output text \
  --query 'tasks[0].[containers[0].exitCode, stoppedReason]')"
if [ "$code" != 0 ]; then
  echo "$family ended with $code ($reason): see the log group /loginpipe/setup, of loginpipe-run /loginpipe/run" >&2
  exit 1
fi
