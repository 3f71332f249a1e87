"""A long run of broken requests over real connections to a real server."""
