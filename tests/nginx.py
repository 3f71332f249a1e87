"""Runs a real nginx in front of a server, configured as people do it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

# Debian installs it in a directory that is not on every user's PATH.
PROGRAM = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
MISSING = "nginx is not installed (Debian: apt-get install nginx)"

# An nginx that root starts would serve as the user nobody, who may not enter a test's directories.
USER = "user root;" if os.geteuid() == 0 else ""
CONFIGURATION = """
{user}
daemon off;
pid {directory}/pid;
error_log {directory}/error.log info;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/client;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 100m;
  upstream obworker {{
    server 127.0.0.1:{upstream};
    keepalive 16;
  }}
  server {{
    listen {address}:{port};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_next_upstream off;
    location / {{ proxy_pass http://obworker; }}
    location /unbuffered/ {{
      proxy_pass http://obworker/;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
  }}
}}
"""


class Nginx:
    """An nginx on a free port; it never retries, so a failure of the server behind it is a 502."""

    def __init__(self, upstream: int, directory: Path) -> None:
        assert PROGRAM is not None, MISSING
        self._errors = directory / "error.log"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        address, self.port = self._listener.getsockname()
        configuration = directory / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                user=USER, directory=directory, upstream=upstream, address=address, port=self.port
            )
        )
        # NGINX names inherited descriptors to listen on; nginx uses it when it replaces its binary
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [PROGRAM, "-p", str(directory), "-e", str(self._errors), "-c", str(configuration)],
            env={**os.environ, "NGINX": f"{descriptor};"},
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )

    @property
    def url(self) -> str:
        """The URL that it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def complaints(self) -> list[str]:
        """Return the lines of its log that are more than a notice."""
        severe = ("[warn]", "[error]", "[crit]", "[alert]", "[emerg]")
        lines = self._errors.read_text().splitlines()
        return [line for line in lines if any(word in line for word in severe)]

    def close(self) -> None:
        """End it, and print its log, which pytest shows if the test has failed."""
        self._process.terminate()
        self._process.wait(30)
        self._listener.close()
        print(f"--- nginx\n{self._errors.read_text()}")
