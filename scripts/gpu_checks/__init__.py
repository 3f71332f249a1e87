"""Checks on real GPUs: that workers are where they should be, and survive a kernel that fails."""
