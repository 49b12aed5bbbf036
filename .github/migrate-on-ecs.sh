#!/usr/bin/env bash
# Runs the task of LoginpipeSetup that migrates the databases, waits for its end, and fails unless it ended well.
set -euo pipefail

output() {
  aws cloudformation describe-stacks --stack-name LoginpipeData --output text \
    --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue"
}

network="awsvpcConfiguration={subnets=[$(output TaskSubnets)],securityGroups=[$(output TaskGroup)],assignPublicIp=DISABLED}"
task=$(aws ecs run-task --cluster loginpipe --launch-type FARGATE --task-definition loginpipe-migrate \
  --network-configuration "$network" --query 'tasks[0].taskArn' --output text)
echo "migrating in ${task##*/}"
# Ten minutes, then it fails.
aws ecs wait tasks-stopped --cluster loginpipe --tasks "$task"
code=$(aws ecs describe-tasks --cluster loginpipe --tasks "$task" --query 'tasks[0].containers[0].exitCode' --output text)
if [ "$code" != 0 ]; then
  echo "the migration ended with $code; the log group /loginpipe/setup says why. The services were not touched." >&2
  exit 1
fi
