"""Opens connections, sends the same bytes on each, reads what is asked for, and holds them open.

hold.py PORT COUNT ANSWER_LEN fin|reset REQUEST

Says so by a line when all are open and, with ANSWER_LEN > 0, each has received that many bytes.
They end, by FIN or by a reset, when its standard input ends or it is killed. They come from several
source addresses, so that ports do not run out.
"""

import resource
import socket
import struct
import sys

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the module names it from Python 3.12 on
PER_SOURCE = 5000

port, count, answer_len = (int(argument) for argument in sys.argv[1:4])
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
    answer = b""
    while len(answer) < answer_len:
        received = connection.recv(answer_len - len(answer))
        if not received:
            sys.exit(f"connection {number} was closed after {answer!r}")
        answer += received
    connections.append(connection)

print("ready", flush=True)
sys.stdin.read()
