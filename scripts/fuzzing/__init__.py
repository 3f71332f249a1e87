"""Sends broken requests to a real server for a long time, over real connections."""
