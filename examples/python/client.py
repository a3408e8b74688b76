#!/usr/bin/env python3
"""A client in Python, with what it shows:

    python3 examples/python/client.py supervisor status
    python3 examples/python/client.py supervisor subscribe 'events=["register","remove"]'
    python3 examples/python/client.py python greet name=you

The first argument is the supervisor, or the name of a worker. Each response is a line of JSON. It needs the package
msgpack; the socket is supervisor.ipc, or what ACS_SOCKET says. What is said, and why, is in docs/protocol.md.
"""

import json
import os
import socket
import struct
import sys

try:
    import msgpack
except ModuleNotFoundError:
    sys.exit("the package msgpack is missing: python3 -m pip install msgpack (Debian: apt install python3-msgpack)")


class Failed(Exception):
    """The other side said no: `class: message`."""

    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['message']}")


class Client:
    """Makes one call after another. A program that makes several at once tells the responses apart by their id."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb")
        self.id = 0

    def send(self, message):
        payload = msgpack.packb(message)
        self.socket.sendall(struct.pack(">I", len(payload)) + payload)

    def receive(self):
        (length,) = struct.unpack(">I", self.read(4))
        return msgpack.unpackb(self.read(length), strict_map_key=False)

    def read(self, length):
        data = self.stream.read(length)
        if len(data) < length:
            raise EOFError("the supervisor closed the connection")
        return data

    def call(self, do, /, **parameters):
        """Yields all responses, the final one last. Whoever stops before that gives the call up."""
        self.id += 2
        key, finished = self.id, False
        self.send({**parameters, "id": key, "do": do})
        try:
            while not finished:
                response = self.receive()
                # Others are what was still on its way for a call that was given up.
                if response["id"] == key and "do" not in response:
                    finished = bool(response.get("finished") or response.get("failed"))
                    if response.get("failed"):
                        raise Failed(response["error"])
                    yield {name: value for name, value in response.items() if name not in ("id", "finished")}
        finally:
            if not finished:
                self.send({"id": key, "cancel": True})


def value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(target, operation, *parameters):
    client = Client(os.environ.get("ACS_SOCKET", "supervisor.ipc"))
    parameters = {name: value(text) for name, text in (parameter.partition("=")[::2] for parameter in parameters)}
    if target != "supervisor":
        *_, status = client.call("status")
        ids = [one["connection_id"] for one in status["connections"] if one["state"].get("name") == target]
        if not ids:
            raise Failed({"class": "ConnectionNotFound", "message": f"no worker '{target}'"})
        parameters = {"connection_id": ids[0], "operation": {**parameters, "do": operation}}
        operation = "forward"
    for response in client.call(operation, **parameters):
        print(json.dumps(response, default=bytes.hex), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:]) if sys.argv[2:] else sys.exit(__doc__)
    except (Failed, EOFError, OSError) as error:
        sys.exit(str(error))
