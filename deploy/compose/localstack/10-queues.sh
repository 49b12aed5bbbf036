#!/usr/bin/env bash
# LocalStack runs this script at each start, because its queues exist only in memory.
set -euo pipefail

# 14 days is the maximum in SQS, so that a dead letter outlives the operator's holiday.
awslocal sqs create-queue --queue-name login-queue-dlq --attributes '{"MessageRetentionPeriod": "1209600"}'

# The visibility timeout is the default for clients that set none; the pipeline sets its own. Five deliveries allow for runs that
# crash, and still remove a message that kills every run that receives it.
awslocal sqs create-queue --queue-name login-queue --attributes '{
  "VisibilityTimeout": "30",
  "RedrivePolicy": "{\"deadLetterTargetArn\": \"arn:aws:sqs:us-east-1:000000000000:login-queue-dlq\", \"maxReceiveCount\": \"5\"}"
}'
