#!/bin/bash
# exec: the server takes the shell's place, so that the signal to stop reaches it.
exec python3 server.py
