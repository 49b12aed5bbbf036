#!/usr/bin/env bash
# Copies the images of a release, that of AWS Lambda among them, into this environment's repository, byte for byte:
# copy-image.sh 1.2.3
#
# RELEASES is the repository that the release workflow pushes to, GITHUB_REPOSITORY the one whose workflow that is; AWS'
# credentials are those of the environment, and INSTALLATION is its value `installation`, loginpipe unless set. What that
# workflow has not signed is not copied, nor the other image with it. SIGNING_KEY, an awskms:///ARN, is what releases are signed with where GitHub keeps no
# attestations; then cosign verifies.
set -euo pipefail

version=${1:?which version, as in 1.2.3}

installation=${INSTALLATION:-loginpipe}
stack=$(tr '[:lower:]' '[:upper:]' <<< "${installation:0:1}")${installation:1}Data
images=$(aws cloudformation describe-stacks --stack-name "$stack" --output text \
  --query "Stacks[0].Outputs[?OutputKey=='Images'].OutputValue")
for registry in "${RELEASES%%/*}" "${images%%/*}"; do
  # 111122223333.dkr.ecr.eu-central-1.amazonaws.com
  region=$(cut -d. -f4 <<< "$registry")
  aws ecr get-login-password --region "$region" | docker login --username AWS --password-stdin "$registry"
done

# By their digests from here on: what is verified is what is copied.
declare -A digests
for tag in "$version" "$version-lambda"; do
  digest=$(skopeo inspect --no-tags --format '{{.Digest}}' "docker://$RELEASES:$tag")
  if [ -n "${SIGNING_KEY:-}" ]; then
    # Private: the signature is in no public log.
    cosign verify --key "$SIGNING_KEY" --insecure-ignore-tlog=true "$RELEASES@$digest"
  else
    gh attestation verify "oci://$RELEASES@$digest" --repo "$GITHUB_REPOSITORY" \
      --signer-workflow "$GITHUB_REPOSITORY/.github/workflows/release.yml"
  fi
  digests[$tag]=$digest
done

for tag in "$version" "$version-lambda"; do
  digest=${digests[$tag]}
  known=$(aws ecr batch-get-image --repository-name "${images#*/}" --image-ids "imageTag=$tag" \
    --query 'images[0].imageId.imageDigest' --output text)
  if [ "$known" = None ]; then
    skopeo copy --all --preserve-digests "docker://$RELEASES@$digest" "docker://$images:$tag"
  elif [ "$known" != "$digest" ]; then
    echo "$images has another image as $tag ($known, the release is $digest): delete it there, or give the release another version" >&2
    exit 1
  fi
done
