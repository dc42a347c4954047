"""Queue a workflow on a running ComfyUI with files of your own, watch it, save its pictures. Needs Python alone.

    python docs/examples/api_client.py workflow_api.json --image 4.image=letter.png --set 7.seed=42 --output pictures

The workflow is an API workflow: one of workflows/api/, or from ComfyUI, Workflow > Export (API). A node is named by
its number or its title.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

LACKING = ". Put that file into ComfyUI's models folder; workflows named demo_ need none."
GONE = "The server closed the connection before it was done; its own log says why."
Workflow = dict[str, dict[str, Any]]
Outputs = dict[str, dict[str, Any]]


class ApiError(Exception):
    """What went wrong, in one sentence: the node, the input, what is the matter."""


class WebSocket:
    """The client's end of one connection (RFC 6455), as much of it as ComfyUI uses."""

    CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA

    def __init__(self, host: str, port: int, path: str, timeout: float):
        """Connect; `timeout` is for how many seconds the server may stay silent. Raises: ApiError, OSError."""
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.buffer = bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.socket.sendall(head.encode())
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        answer = self._take(self.buffer.index(b"\r\n\r\n") + 4)
        if b" 101 " not in answer.split(b"\r\n")[0]:
            raise ApiError(f"{host}:{port} is no ComfyUI: --server host:port names yours.")

    def messages(self) -> Iterator[str | bytes]:
        """Whole messages as they come, str for text, bytes for binary. Raises: ApiError when the server closes."""
        kind, message = self.TEXT, b""
        while True:
            final, opcode, payload = self._frame()
            if opcode == self.CLOSE:
                raise ApiError(GONE)
            if opcode == self.PING:
                self._send(self.PONG, payload)
            elif opcode != self.PONG:
                kind = kind if opcode == self.CONTINUATION else opcode
                message += payload
                if final:
                    yield message.decode("utf-8") if kind == self.TEXT else message
                    message = b""

    def _frame(self) -> tuple[bool, int, bytes]:
        first, size = self._take(2)  # a server's frames are not masked: the second byte's high bit is 0
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return bool(first & 0x80), first & 0x0F, self._take(size)

    def _send(self, opcode: int, payload: bytes) -> None:
        """A frame of at most 125 bytes; a client's frames are masked."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    def _take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self._receive()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ApiError(GONE)
        self.buffer += data


@dataclass(frozen=True)
class Event:
    """One message of the server. kind is ComfyUI's word ("progress", "executing", "execution_error" and others), or
    "preview" for a picture on its way, then `image` is a JPEG or PNG file."""

    kind: str
    data: dict[str, Any]
    image: bytes = b""


def parse_message(message: str | bytes) -> Event:
    """One message of the server.

    A binary message is its type, 1 for a preview, and its picture's format, 4 bytes each, and the picture.
    """
    if isinstance(message, str):
        content = json.loads(message)
        return Event(content["type"], content.get("data") or {})
    return Event("preview" if message[:4] == b"\0\0\0\1" else "unknown", {}, message[8:])


class Client:
    """One ComfyUI server. Every method raises ApiError with the server's reason, or that it cannot be reached."""

    def __init__(self, server: str = "127.0.0.1:8188", timeout: float = 600.0):
        server = f"127.0.0.1:{server}" if server.isdecimal() else server
        self.host, _, port = server.removeprefix("http://").rstrip("/").partition(":")
        if not self.host or not (port or "8188").isdecimal():
            raise ApiError(f"The server {server!r} must be host:port, such as 127.0.0.1:8188.")
        self.port, self.timeout = int(port or 8188), timeout
        self.id, self.prompt = uuid.uuid4().hex, ""

    def lost(self, error: Exception) -> ApiError:
        where = f"{self.host}:{self.port} ({error})"
        return ApiError(f"No ComfyUI answers at {where}: start it, or say where it is by --server host:port.")

    def request(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of the answer to one HTTP request: a POST if it has a body of its own, else a GET."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request("POST" if body else "GET", path, body, {"Content-Type": kind} if body else {})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ApiError(content.decode("utf-8", "replace") or f"{path}: {answer.status} {answer.reason}.")
        return content

    def upload(self, path: Path) -> str:
        """Copy a picture into the server's input folder, overwriting nothing; its name for a Load Image node."""
        edge, name = uuid.uuid4().hex, path.name.replace('"', "_")
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        body = head.encode() + contents(path) + f"\r\n--{edge}--\r\n".encode()
        answer = self.request("/upload/image", body, f"multipart/form-data; boundary={edge}")
        return json.loads(answer)["name"]

    def run(self, workflow: Workflow, show: Callable[[Event], object] = lambda event: None) -> Outputs:
        """Queue an API workflow and wait for its end; `show` gets every event on the way. The outputs by node."""
        try:
            stream = WebSocket(self.host, self.port, f"/ws?clientId={self.id}", self.timeout)
            with stream.socket:
                prompt = self.queue(workflow)
                for event in self.follow(stream, prompt, workflow):
                    show(event)
        except OSError as error:
            raise self.lost(error) from error
        for _ in range(50):  # the history is written a moment after the last message
            if entry := json.loads(self.request(f"/history/{prompt}")).get(prompt):
                return entry["outputs"]
            time.sleep(0.1)
        raise ApiError("The server has no record of the run, as if its history was cleared: run it again.")

    def queue(self, workflow: Workflow) -> str:
        """Queue an API workflow; its id. Raises: ApiError, also if only some of its nodes can run."""
        try:
            body = json.dumps({"prompt": workflow, "client_id": self.id}).encode()
            answer = json.loads(self.request("/prompt", body))
            self.prompt = answer["prompt_id"]
            if answer.get("node_errors"):  # the server would leave out these nodes and run the rest
                self.stop()
                raise ApiError(json.dumps(answer))
        except ApiError as error:
            raise ApiError(refusal(str(error), workflow)) from None
        return self.prompt

    def stop(self) -> None:
        """Take the workflow queued last out of the queue, or interrupt it."""
        if self.prompt:
            self.request("/queue", json.dumps({"delete": [self.prompt]}).encode())
            self.request("/interrupt", json.dumps({"prompt_id": self.prompt}).encode())

    def follow(self, stream: WebSocket, prompt: str, workflow: Workflow) -> Iterator[Event]:
        """The events of one queued workflow up to its end."""
        for event in map(parse_message, stream.messages()):
            if event.data.get("prompt_id", prompt) != prompt:
                continue
            yield event
            if event.kind == "execution_success":
                return
            if event.kind in ("execution_error", "execution_interrupted"):
                reason = " ".join(event.data.get("exception_message", "stopped by a user").split())
                raise ApiError(f"{titled(event.data.get('node_id', '?'), workflow)}: {reason[:500]}")

    def download(self, image: dict[str, str]) -> bytes:
        """The file of a picture in the outputs, as the server names it: filename, subfolder, type."""
        return self.request("/view?" + urlencode(image))


def titled(node: str, workflow: Workflow) -> str:
    """A node for people: its number and its title."""
    about = workflow.get(str(node), {})
    return f'Node {node} "{about.get("_meta", {}).get("title") or about.get("class_type", "?")}"'


def refusal(answer: str, workflow: Workflow) -> str:
    """Why the server did not take a workflow: the first wrong input, or what else it says."""
    try:
        content = json.loads(answer)
        for node, about in (content.get("node_errors") or {}).items():
            for error in about["errors"]:
                name = error.get("extra_info", {}).get("input_name")
                where = titled(node, workflow) + (f", input {name}" if name else "")
                lacks = error.get("type") == "value_not_in_list" and ".safetensors'" in error["details"]
                return f"{where}: {error['message']}: {error['details'][:300]}{LACKING if lacks else ''}"
        return f"{content['error']['message']} {content['error'].get('details', '')[:300]}".strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer[:300]


def set_input(workflow: Workflow, target: str, text: str) -> None:
    """Put a value where "NODE.input" says: as text where text is, else as JSON. Raises: ApiError."""
    node, _, name = target.rpartition(".")
    found = [n for n, about in workflow.items() if node in (n, about.get("_meta", {}).get("title"))]
    if len(found) != 1:
        what = f'{len(found)} nodes are titled "{node}"' if found else f'There is no node "{node}"'
        there = "; ".join(titled(number, workflow) for number in found or workflow)
        raise ApiError(f"{what}: write the number of {there}.")
    inputs = workflow[found[0]]["inputs"]
    if name not in inputs:
        raise ApiError(f'{titled(found[0], workflow)} has no "{name}", only {", ".join(inputs) or "none"}.')
    try:
        inputs[name] = text if isinstance(inputs[name], str) else json.loads(text)
    except ValueError as error:
        raise ApiError(f"{target}={text}: a number, true or false is wanted.") from error


def read_workflow(path: Path) -> Workflow:
    """An API workflow's file. Raises: ApiError."""
    try:
        workflow = json.loads(contents(path).decode("utf-8"))
    except ValueError as error:
        raise ApiError(
            f"{path} is not a workflow: a .json file is wanted, such as one of workflows/api/."
        ) from error
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        twin = path.parent / "api" / path.name
        one = twin if twin.is_file() else "one of workflows/api/, or what Workflow > Export (API) saves"
        raise ApiError(f"{path} is not an API workflow: give {one}.")
    return workflow


def contents(path: Path) -> bytes:
    """A file's bytes. Raises: ApiError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ApiError(f"{path} cannot be read ({error.strerror}): check its name and folder.") from error


def pairs(option: str, arguments: list[str]) -> Iterator[tuple[str, str]]:
    """NODE.input and value of each argument. Raises: ApiError."""
    for argument in arguments:
        target, sign, value = argument.partition("=")
        if not sign or "." not in target:
            raise ApiError(f"{option} {argument}: NODE.input=VALUE is wanted, such as 7.seed=42.")
        yield target, value


def show(workflow: Workflow, event: Event) -> None:
    """Print each node's title as it starts, then its steps beside it."""
    if event.kind == "executing" and event.data.get("node"):
        print(f"\n{titled(event.data['node'], workflow)}", end="", flush=True)
    elif event.kind == "progress":
        if not sys.stdout.isatty() and event.data["value"] < event.data["max"]:
            return  # in a file each would be a line
        start = "\r" if sys.stdout.isatty() else "\n"
        steps = f"{event.data['value']}/{event.data['max']}"
        print(f"{start}{titled(event.data['node'], workflow)}  {steps}", end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if the pictures are saved, 1 with the reason on the error stream, 130 if stopped."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("workflow", type=Path, help="API workflow (.json)")
    parser.add_argument("--server", default="127.0.0.1:8188", help="host:port of ComfyUI (%(default)s)")
    parser.add_argument(
        "--image", action="append", default=[], metavar="NODE.input=FILE", help="your picture"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NODE.input=VALUE", help="your value")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="folder for the results")
    options = parser.parse_args(arguments)
    client = None
    try:
        client = Client(options.server)
        workflow = read_workflow(options.workflow)
        if options.output.is_file():
            raise ApiError(f"{options.output} is a file: --output is the folder for the results.")
        for target, text in pairs("--set", options.set):
            set_input(workflow, target, text)
        for target, file in pairs("--image", options.image):
            set_input(workflow, target, client.upload(Path(file)))
        save(client, client.run(workflow, partial(show, workflow)), options.output)
    except (ApiError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(ApiError):
            if client:
                client.stop()
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def save(client: Client, outputs: Outputs, folder: Path) -> None:
    """Write the pictures of a run into `folder` under their names there; mere previews if there is nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [image for output in outputs.values() for image in output.get("images", [])]
    for image in [image for image in made if image["type"] == "output"] or made:
        path = folder / Path(image["filename"]).name
        path.write_bytes(client.download(image))
        print(f"\n{path}", end="")
    print()


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(errors="replace")  # a title need not suit the console
    sys.exit(main())
