"""Checks on real GPUs: each worker uses the right GPU, and a failed kernel does no lasting harm."""
