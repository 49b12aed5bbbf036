"""loginpipe on AWS, as constructs and stacks of the CDK. One file, one purpose; `stacks` puts them together."""
