"""The process that tells operators and orchestrators how things stand, from shared memory only."""
