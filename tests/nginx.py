"""A real nginx in front of a server, as people put one there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

# Debian's stands in a directory that is not on everybody's PATH.
PROGRAM = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
MISSING = "nginx is not installed (Debian: apt-get install nginx)"

# Started by root it would serve as nobody, who may not enter the directories of a test.
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
    """One nginx on a free port; every error of its upstream is a 502, for it may not try again."""

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
        # NGINX names descriptors to listen on that exist already: how it replaces its own binary
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [PROGRAM, "-p", str(directory), "-e", str(self._errors), "-c", str(configuration)],
            env={**os.environ, "NGINX": f"{descriptor};"},
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
        )

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def complaints(self) -> list[str]:
        """Return what it logged that is no mere notice."""
        severe = ("[warn]", "[error]", "[crit]", "[alert]", "[emerg]")
        lines = self._errors.read_text().splitlines()
        return [line for line in lines if any(word in line for word in severe)]

    def close(self) -> None:
        """End it, and show its log to the test that failed."""
        self._process.terminate()
        self._process.wait(30)
        self._listener.close()
        print(f"--- nginx\n{self._errors.read_text()}")
