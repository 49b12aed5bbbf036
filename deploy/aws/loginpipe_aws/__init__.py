"""loginpipe on AWS, as constructs and stacks of the CDK. Each file has one purpose; `stacks` combines them."""
