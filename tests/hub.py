"""A stand-in of the Hugging Face hub on the loopback, with its storage on another port: regular files, Git LFS (one part and
several), xet, and faults to order. It keeps what it is sent, and commits only what has arrived."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_verysecrettokenthatnobodymaysee"
XET_TOKEN = "xet_tokenforonequarterofanhour"
CUT = 0
"""In place of a status: half of the request is read, then the connection is gone."""

EXPIRED = '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>'
"""What the storage says with a status that is ordered."""

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Hub:
    """What a client sent, and what it shall be answered."""

    endpoint: str = ""
    storage: str = ""
    public: bool = False
    limit: int = 10 * 2**20
    """Bytes above which any file goes to the storage; weights always do."""
    part: int | None = None
    """Bytes of a part, where the hub wants objects in several."""
    xet: bool = True
    fails: dict[str, int] = field(default_factory=dict)
    """Part of a path (with its method and a blank before it) to a status, or CUT, that it is always answered."""
    once: dict[str, int] = field(default_factory=dict)
    """The same for the first such request."""
    held: str = "nothing"
    """Part of the path of requests that wait for their answer until the end."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    authorized: dict[str, set[str]] = field(default_factory=lambda: {"hub": set(), "storage": set()})
    """The header `authorization` of all requests, by server."""
    created: dict[str, Any] = field(default_factory=dict)
    commit: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the last commit."""
    tree: dict[str, str] = field(default_factory=dict)
    """Path to object id, of all commits."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 to content of what came by LFS."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    xorbs: dict[str, bytes] = field(default_factory=dict)
    shards: list[bytes] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body)), {}
        if path.endswith(("/verify", "/complete")):
            return self._arrived(path, json.loads(body))
        if "/preupload/" in path:
            return 200, {"files": [self._mode(file) for file in json.loads(body)["files"]]}, {}
        if "/commit/" in path:
            return self._commit([json.loads(line) for line in body.splitlines()])
        if "/xet-write-token/" in path and self.xet:
            return 200, {"casUrl": self.storage, "exp": int(time.time()) + 900, "accessToken": XET_TOKEN}, {}
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return 200, {"url": f"{self.endpoint}/user/name"}, {}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}, {}
        if re.fullmatch("/api/(models|datasets)/user/name/tree/main", path):
            return 200, [{"type": "file", "path": name, "oid": oid, "size": 1} for name, oid in self.tree.items()], {}
        if re.fullmatch("/api/(models|datasets)/user/name(/revision/main)?", path):
            return 200, {"id": "user/name", "private": not self.public, "siblings": [], "tags": [], "sha": "1" * 40}, {}
        return 404, {"error": "not found"}, {}

    def store(self, method: str, path: str, body: bytes) -> Answer:
        """The storage's answer: signed addresses of LFS objects, and the interface of xet."""
        kind, _, name = path.removeprefix("/").partition("/")
        if method == "PUT" and kind == "lfs":
            self.objects[name] = body
            return 200, "", {}
        if method == "PUT" and kind == "part":
            oid, _, number = name.partition("/")
            self.parts.setdefault(oid, {})[int(number)] = body
            return 200, "", {"etag": f'"{hashlib.md5(body).hexdigest()}"'}
        if path.startswith("/v1/xorbs/"):
            new = path.rpartition("/")[2] not in self.xorbs
            self.xorbs[path.rpartition("/")[2]] = body
            return 200, {"was_inserted": new}, {}
        if path == "/v1/shards":
            self.shards.append(body)
            return 200, {"result": 1}, {}
        return 404, {"error": "not found"}, {}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        path = file["path"]
        large = path.endswith(".safetensors") or file["size"] > self.limit
        known = {"oid": self.tree[path]} if path in self.tree else {}
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        return {"transfer": "basic", "objects": [{**wanted, **self._actions(**wanted)} for wanted in asked["objects"]]}

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.objects:
            return {}
        upload: dict[str, Any] = {"href": f"{self.storage}/lfs/{oid}?signature=s"}
        if self.part and size > self.part:
            numbers = range(1, -(-size // self.part) + 1)
            header = {f"{number:05}": f"{self.storage}/part/{oid}/{number}?signature=s" for number in numbers}
            upload = {"href": f"{self.endpoint}/api/{oid}/complete", "header": {"chunk_size": str(self.part), **header}}
        return {"actions": {"upload": upload, "verify": {"href": f"{self.endpoint}/user/name.git/info/lfs/verify"}}}

    def _arrived(self, path: str, told: dict[str, Any]) -> Answer:
        oid = told["oid"]
        if path.endswith("/complete"):
            parts = self.parts.pop(oid)
            etags = [f'"{hashlib.md5(parts[part["partNumber"]]).hexdigest()}"' for part in told["parts"]]
            if etags != [part["etag"] for part in told["parts"]] or len(etags) != len(parts):
                return 400, {"error": "these are not the parts"}, {}
            self.objects[oid] = b"".join(parts[part["partNumber"]] for part in told["parts"])
        elif len(self.objects.get(oid, b"")) != told["size"]:
            return 404, {"error": "no such object"}, {}
        else:
            self.verified.add(oid)
        return 200, {"success": True}, {}

    def _commit(self, rows: list[dict[str, Any]]) -> Answer:
        for row in rows:
            value = row["value"]
            if row["key"] == "lfsFile" and not self._has(value["oid"], value["size"]):
                return 400, {"error": f"{value['path']} is not in the storage"}, {}
        self.commit = rows
        for row in rows:
            if row["key"] == "file":
                content = base64.b64decode(row["value"]["content"])
                self.tree[row["value"]["path"]] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            elif row["key"] == "lfsFile":
                self.tree[row["value"]["path"]] = row["value"]["oid"]
            elif row["key"] == "deletedFile":
                del self.tree[row["value"]["path"]]
        return 200, {"commitUrl": f"{self.endpoint}/user/name/commit/{'1' * 40}", "commitOid": "1" * 40}, {}

    def _has(self, oid: str, size: int) -> bool:
        # A shard has SHA-256 as four numbers of eight bytes, little end first.
        in_shard = b"".join(bytes.fromhex(oid)[at : at + 8][::-1] for at in range(0, 32, 8))
        return len(self.objects.get(oid, b"")) == size or any(in_shard in shard for shard in self.shards)

    def fault(self, asked: str) -> int | None:
        first = next((part for part in self.once if part in asked), None)
        if first is not None:
            return self.once.pop(first)
        return next((status for part, status in self.fails.items() if part in asked), None)

    def refusal(self) -> dict[str, str]:
        return {"error": f"refused, you said {TOKEN}\nand more", "url": f"{self.endpoint}/user/name"}

    def files(self) -> dict[str, bytes]:
        """The regular files of the last commit."""
        rows = (row["value"] for row in self.commit if row["key"] == "file")
        return {row["path"]: base64.b64decode(row["content"]) for row in rows}

    def large(self) -> dict[str, dict[str, Any]]:
        """Path to {"oid", "size", "algo"} of the last commit's files in the storage."""
        return {row["value"].pop("path"): row["value"] for row in json.loads(json.dumps(self.commit)) if row["key"] == "lfsFile"}

    def sent(self, part: str) -> list[str]:
        """Paths of the requests that have `part` in method and path."""
        return [path for method, path in self.calls if part in f"{method} {path}"]


def unpacked(xorb: bytes) -> bytes:
    """The content of a xorb of chunks that did not compress."""
    content, at = b"", 0
    while at < len(xorb):
        version, kind = xorb[at], xorb[at + 4]
        assert (version, kind) == (0, 0), "a chunk that is compressed, or of another version"
        size = int.from_bytes(xorb[at + 1 : at + 4], "little")
        content, at = content + xorb[at + 8 : at + 8 + size], at + 8 + size
    return content


@contextmanager
def running() -> Iterator[Hub]:
    """Serve until the end of the block."""
    hub, lock, over = Hub(), threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            path, server = self.path.partition("?")[0], "hub" if self.server is servers[0] else "storage"
            with lock:
                hub.calls.append((self.command, path))
                hub.authorized[server].add(self.headers.get("authorization", ""))
                fault = hub.fault(f"{self.command} {path}")
            size = int(self.headers.get("content-length", 0))
            body = self.rfile.read(size // 2 if fault == CUT else size)
            if fault == CUT:
                # Lingering for no time closes with a reset in place of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            if "transfer-encoding" in self.headers:  # the real storage wants to know the size before the content, too
                self.close_connection = True
                fault = 501
            if hub.held in path:
                over.wait(300)
            if fault is not None:
                self.reply(fault, hub.refusal() if server == "hub" else EXPIRED, {})
                return
            with lock:
                answer = (hub.answer if server == "hub" else hub.store)(self.command, path, body)
            self.reply(*answer)

        def reply(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            kind = "application/xml" if isinstance(answer, str) else "application/json"
            try:
                self.send_response(status)
                for key, value in {"content-type": kind, "content-length": str(len(content)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has gone
                self.close_connection = True

        do_GET = do_POST = do_PUT = handle_any

        def log_message(self, format: str, *args: Any) -> None: ...

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        over.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
