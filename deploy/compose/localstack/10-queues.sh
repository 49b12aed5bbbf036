#!/usr/bin/env bash
# Run by LocalStack whenever it has started: its queues live in memory and go with it.
set -euo pipefail

# 14 days is the most that SQS keeps a message, and a dead letter should outlive the holiday of whoever looks after it.
awslocal sqs create-queue --queue-name login-queue-dlq --attributes '{"MessageRetentionPeriod": "1209600"}'

# The visibility timeout is for whoever asks for none; the pipeline asks for its own. Five deliveries leave room for
# runs that crash, and still reject a message that kills every run it comes to.
awslocal sqs create-queue --queue-name login-queue --attributes '{
  "VisibilityTimeout": "30",
  "RedrivePolicy": "{\"deadLetterTargetArn\": \"arn:aws:sqs:us-east-1:000000000000:login-queue-dlq\", \"maxReceiveCount\": \"5\"}"
}'
