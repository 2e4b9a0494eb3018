"""Opens connections to 127.0.0.1, sends the same request on each, and holds them open.

hold.py PORT COUNT RESPONSE_LEN fin|reset REQUEST

Reads RESPONSE_LEN bytes from each connection. Prints "ready" when all COUNT connections are open
and have received these bytes. Closes them, with a FIN or a reset, when standard input is closed or
the process is killed. The connections use several source addresses, so that ports do not run out.
"""

import resource
import socket
import struct
import sys

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has it since Python 3.12
PER_SOURCE = 5000

port, count, response_len = (int(argument) for argument in sys.argv[1:4])
end, request = sys.argv[4], sys.argv[5].encode()
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

connections = []
for number in range(count):
    connection = socket.socket()
    connection.settimeout(60)
    if end == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((f"127.0.0.{2 + number // PER_SOURCE}", 0))
    connection.connect(("127.0.0.1", port))
    connection.sendall(request)
    response = b""
    while len(response) < response_len:
        received = connection.recv(response_len - len(response))
        if not received:
            sys.exit(f"connection {number} was closed after {response!r}")
        response += received
    connections.append(connection)

print("ready", flush=True)
sys.stdin.read()
