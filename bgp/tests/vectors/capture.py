#!/usr/bin/env python3
"""Records the UPDATEs a BGP speaker sends: capture.py LOCAL REMOTE PORT AS SECONDS > file.hex (one message a line)."""
import socket, struct, sys, time

local, remote, port, asn, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
capabilities = bytes.fromhex("010400190046" "0200" "4600" "0600" "4104") + struct.pack("!I", asn)
body = struct.pack("!BHH", 4, asn, 90) + socket.inet_aton(local) + bytes([len(capabilities) + 2, 2, len(capabilities)]) + capabilities


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def read(peer, length):
    data = b""
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            sys.exit("the peer has closed the connection")
        data += part
    return data


peer = socket.socket()
peer.bind((local, 0))
peer.connect((remote, port))
peer.sendall(message(1, body))
end = time.time() + seconds
while time.time() < end:
    peer.settimeout(max(0.01, end - time.time()))
    try:
        header = read(peer, 19)
        rest = read(peer, struct.unpack("!H", header[16:18])[0] - 19)
    except TimeoutError:
        break
    if header[18] == 1:
        peer.sendall(message(4))
    elif header[18] == 2:
        print((header + rest).hex(), flush=True)
    elif header[18] == 3:
        sys.exit(f"NOTIFICATION {rest.hex()}")
