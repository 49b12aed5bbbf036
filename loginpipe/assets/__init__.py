"""The chain, one file a stage, in the order the data flows. Thin: the work is done in the packages below."""
