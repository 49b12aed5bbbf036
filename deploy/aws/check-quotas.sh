#!/usr/bin/env bash
# Compares the account's quotas with the needs of an environment before its first deployment: check-quotas.sh production
#
# Run it in the CDK's virtual environment (. .venv-aws/bin/activate). It does not count other Fargate tasks of the account.
set -euo pipefail

environment=${1:?which environment, as in production}
cd "$(dirname "${BASH_SOURCE[0]}")"

short=0
# check SERVICE QUOTA NEEDED WHAT
check() {
  granted=$(aws service-quotas get-service-quota --service-code "$1" --quota-code "$2" --query Quota.Value --output text)
  if awk -v granted="$granted" -v needed="$3" 'BEGIN { exit !(granted >= needed) }'; then
    echo "$4: $3 of $granted"
  else
    echo "$4: $3 are needed, and quota $2 of $1 is $granted: ask for more (aws service-quotas request-service-quota-increase)" >&2
    short=1
  fi
}

vcpus=$(python -m loginpipe_aws.quotas "$environment")
networks=$(aws ec2 describe-vpcs --query 'length(Vpcs)' --output text)
addresses=$(aws ec2 describe-addresses --query 'length(Addresses)' --output text)
check fargate L-3032A538 "$vcpus" "vCPU on Fargate, while services are replaced and each run has its successor"
check vpc L-F678F1CE "$((networks + 1))" "VPCs in the region"
check ec2 L-0263D0A3 "$((addresses + 1))" "elastic addresses in the region, one of them for NAT"
exit "$short"
