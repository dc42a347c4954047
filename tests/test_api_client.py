"""The API client without a server: its WebSocket against hand-made frames, its reading of the command line."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from server import ROOT, api_client

client = api_client()
HELLO = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(payload: bytes, opcode: int = 0x1, final: bool = True) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([size])
    else:
        length = struct.pack(">BH", 126, size) if size < 1 << 16 else struct.pack(">BQ", 127, size)
    return bytes([0x80 * final | opcode]) + length + payload


class Peer:
    """A server for one connection: says HELLO and then `talk`, keeps what it is told."""

    def __init__(self, talk: bytes, hello: bytes = HELLO):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.heard = self.listener.getsockname()[1], b""
        self.thread = threading.Thread(target=self.serve, args=(hello + talk,))
        self.thread.start()

    def serve(self, talk: bytes) -> None:
        connection, _ = self.listener.accept()
        with connection, self.listener:
            self.heard = connection.recv(4096)
            for start in range(0, len(talk), 1000):  # not in the frames' own pieces
                connection.sendall(talk[start : start + 1000])
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(4096):
                self.heard += data


def received(talk: bytes, hello: bytes = HELLO) -> tuple[list[str | bytes], str, bytes]:
    """The messages, why they ended, and what the client sent."""
    peer, messages, reason = Peer(talk, hello), [], ""
    try:
        stream = client.WebSocket("127.0.0.1", peer.port, "/ws", 10)
        with stream.socket:
            messages.extend(iter_until_error(stream))
    except client.ApiError as error:
        reason = str(error)
    peer.thread.join()
    return messages, reason, peer.heard


def iter_until_error(stream: Any) -> list[str | bytes]:
    found: list[str | bytes] = []
    try:
        for message in stream.messages():
            found.append(message)
    except client.ApiError:
        pass
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_messages_of_every_length_arrive_whole(size: int):
    payload = bytes(i % 251 for i in range(size))
    messages, _, _ = received(frame(payload, 0x2) + frame(b"end"))
    assert messages == [payload, "end"]


def test_a_message_in_pieces_is_joined_across_a_ping():
    whole = "ä glyph: 永"
    data = whole.encode()
    talk = frame(data[:1], 0x1, final=False) + frame(b"?", 0x9) + frame(data[1:9], 0x0, final=False)
    messages, _, heard = received(talk + frame(data[9:], 0x0))
    assert messages == [whole]
    pong = heard.split(b"\r\n\r\n", 1)[1]
    assert pong[:2] == bytes([0x8A, 0x81])  # final pong, masked, one byte
    assert pong[6] ^ pong[2] == ord("?")


def test_a_close_and_a_lost_connection_are_errors():
    peer = Peer(frame(b"one") + frame(b"", 0x8) + frame(b"after"))
    stream = client.WebSocket("127.0.0.1", peer.port, "/ws", 10)
    with stream.socket:
        messages = stream.messages()
        assert next(messages) == "one"
        with pytest.raises(client.ApiError, match="closed the connection"):
            next(messages)
    peer.thread.join()


def test_another_kind_of_server_is_named():
    _, reason, _ = received(b"", b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert "is no ComfyUI: --server host:port names yours" in reason


def test_no_server_is_an_error_in_one_sentence(capsys: Any, tmp_path: Any):
    file = tmp_path / "workflow.json"
    file.write_text("{}", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert client.main([str(file), "--server", f"127.0.0.1:{port}"]) == 1
    said = capsys.readouterr().err
    assert f"No ComfyUI answers at 127.0.0.1:{port}" in said and "--server host:port" in said


def test_previews_are_told_from_other_binary_messages():
    picture = b"\xff\xd8jpeg"
    assert client.parse_message(struct.pack(">II", 1, 1) + picture).image == picture
    assert client.parse_message(struct.pack(">II", 3, 1) + b"text").kind == "unknown"
    assert client.parse_message('{"type": "status"}') == client.Event("status", {})


def workflow() -> dict[str, Any]:
    return {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0]}, "_meta": {"title": "Draw"}},
        "4": {"class_type": "Load", "inputs": {"text": "7"}},
    }


def test_values_keep_the_kind_that_the_workflow_has():
    made = workflow()
    client.set_input(made, "Draw.seed", "42")
    client.set_input(made, "4.text", "42")
    assert (made["3"]["inputs"]["seed"], made["4"]["inputs"]["text"]) == (42, "42")


@pytest.mark.parametrize(
    ("target", "text", "words"),
    [
        ("9.seed", "1", 'There is no node "9": write the number of Node 3 "Draw"; Node 4 "Load".'),
        ("Twin.seed", "1", '2 nodes are titled "Twin": write the number of Node 5 "Twin"; Node 6 "Twin".'),
        ("3.sede", "1", 'Node 3 "Draw" has no "sede", only seed, model'),
        ("3.seed", "many", "3.seed=many: a number"),
    ],
)
def test_a_wrong_target_is_explained(target: str, text: str, words: str):
    made = workflow()
    if target.startswith("Twin"):
        made |= {n: {**made["3"], "_meta": {"title": "Twin"}} for n in "56"}
    with pytest.raises(client.ApiError) as caught:
        client.set_input(made, target, text)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", ['{"nodes": [], "links": [], "version": 0.4}', "[]", "{"])
def test_only_an_api_workflow_is_read(tmp_path: Any, content: str):
    file = tmp_path / "workflow.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(client.ApiError, match=r"is not (an API|a) workflow"):
        client.read_workflow(file)


@pytest.mark.parametrize(
    "answer", ["", "<html>", "[]", '{"error": {}}', '{"node_errors": {"1": {}}}', "null"]
)
def test_an_answer_that_is_no_reason_is_passed_on(answer: str):
    assert client.refusal(answer, {}) == answer


def test_a_missing_file_is_named(capsys: Any, tmp_path: Any):
    assert client.main([str(tmp_path / "none.json")]) == 1
    said = capsys.readouterr().err
    assert "none.json cannot be read (No such file" in said and "Errno" not in said
    made = tmp_path / "w.json"
    made.write_text(json.dumps(workflow()), encoding="utf-8")
    assert client.main([str(made), "--image", f"4.text={tmp_path / 'none.png'}"]) == 1
    assert "none.png cannot be read" in capsys.readouterr().err


def test_the_apps_workflow_points_to_its_twin(capsys: Any, tmp_path: Any):
    """A failure means that who takes a file of workflows/ does not learn that workflows/api/ holds what is wanted."""
    shipped = ROOT / "workflows" / "demo_elements.json"
    assert client.main([str(shipped)]) == 1
    assert f"give {ROOT / 'workflows' / 'api' / 'demo_elements.json'}." in capsys.readouterr().err
    own = tmp_path / "own.json"
    own.write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert client.main([str(own)]) == 1
    assert "give one of workflows/api/, or what Workflow > Export (API) saves" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--server", "localhost:port"], "The server 'localhost:port' must be host:port"),
        (["--server", ":8188"], "The server ':8188' must be host:port"),
        (["--set", "3.seed"], "--set 3.seed: NODE.input=VALUE is wanted"),
        (["--set", "seed=1"], "--set seed=1: NODE.input=VALUE is wanted"),
        (["--image", "4.text"], "--image 4.text: NODE.input=VALUE is wanted"),
        (["--output", __file__], "is a file: --output is the folder"),
    ],
)
def test_a_wrong_option_is_one_sentence(capsys: Any, tmp_path: Any, options: list[str], words: str):
    made = tmp_path / "w.json"
    made.write_text(json.dumps(workflow()), encoding="utf-8")
    assert client.main([str(made), *options]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and words in line


def test_help_shows_where_it_looks(capsys: Any):
    with pytest.raises(SystemExit):
        client.main(["--help"])
    assert "host:port of ComfyUI (127.0.0.1:8188)" in capsys.readouterr().out


def test_stopping_before_anything_is_queued_asks_for_nothing(monkeypatch: pytest.MonkeyPatch):
    asked: list[Callable] = []
    one = client.Client()
    monkeypatch.setattr(one, "request", lambda *about: asked.append(about) or b"")
    one.stop()
    assert asked == []
    one.prompt = "p"
    one.stop()
    assert [json.loads(body) for _, body in asked] == [{"delete": ["p"]}, {"prompt_id": "p"}]
