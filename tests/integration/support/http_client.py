"""Sends requests to `coring echo` with Python's http.client, all on one connection.

http_client.py URL|PATH-OF-A-UNIX-SOCKET
"""

import http.client
import socket
import sys
import urllib.parse


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def connect(where):
    if where.startswith("/"):
        return UnixConnection(where)
    url = urllib.parse.urlsplit(where)
    return http.client.HTTPConnection(url.hostname, url.port, timeout=20)


def exchange(connection, method, body=None, chunked=False, **headers):
    connection.request(method, "/any", body, headers, encode_chunked=chunked)
    response = connection.getresponse()
    return response, response.read()


connection = connect(sys.argv[1])
connection.connect()
sock = connection.sock

response, body = exchange(connection, "GET")
assert (response.status, body) == (200, b""), (response.status, body)

body_sent = bytes(range(256)) * 1024
response, body = exchange(connection, "POST", body_sent, **{"Content-Type": "x/y"})
assert (response.status, body) == (200, body_sent), response.status
assert response.getheader("Content-Type") == "x/y", response.headers

chunks = [bytes([number]) * number for number in range(1, 200)]
response, body = exchange(
    connection, "PUT", iter(chunks), chunked=True, **{"Transfer-Encoding": "chunked"}
)
assert (response.status, body) == (200, b"".join(chunks)), response.status

response, body = exchange(connection, "HEAD")
assert (response.status, body) == (200, b""), (response.status, body)

assert connection.sock is sock, "the connection did not persist"
connection.close()
