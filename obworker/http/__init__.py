"""Bytes to WSGI and back; knows no predictors and no processes."""
