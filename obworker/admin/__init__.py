"""The admin process: answers probes and /metrics, and ends what a killed master leaves behind."""
