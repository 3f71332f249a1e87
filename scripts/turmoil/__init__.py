"""Random operations on a real server under mixed load, and whether any request came to harm."""
