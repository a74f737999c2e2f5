"""Shell. A tiny HTTP server: it answers every request with its own name.

python -m tests.demo.web NAME PORT
"""

from __future__ import annotations

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


class Server(ThreadingHTTPServer):
    """Listens on all addresses of both families. `name` is what it answers."""

    address_family = socket.AF_INET6
    daemon_threads = True
    name = ""

    def server_bind(self) -> None:
        """Bind without asking DNS for our own name, as HTTPServer would: that may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.name, self.server_address[1]


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the server's name and the path that was asked for."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        body = f"{self.server.name} says hello ({self.path})\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(name: str, port: int) -> None:
    """Serve until ended."""
    server = Server(("::", port), Handler)
    server.name = name
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
