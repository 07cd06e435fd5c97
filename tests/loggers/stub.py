"""A stand-in for the W&B server on 127.0.0.1: as much of its API as a run needs, and no more."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STREAM = re.compile(r"/files/[^/]+/[^/]+/([^/]+)/file_stream")
_OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


class Server:
    """What has arrived, and whether the server still answers."""

    def __init__(self) -> None:
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        """Rows by run and line number: a line that is sent twice stands here once."""
        self.summary: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.unknown: list[str] = []
        self.refused: set[str] = set()
        """Names of requests that the server turns down."""
        self.silent = threading.Event()
        """Set when the network is gone: requests are taken, and not answered."""
        self.heard = threading.Event()
        """Set when it is back, or the test is over: what was not answered is hung up."""
        self.url = ""

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the only run, in their order."""
        (lines,) = self.history.values()
        return [lines[n] for n in sorted(lines)]

    def variables(self, operation: str) -> list[dict[str, Any]]:
        """Return what each request of that name brought."""
        return [variables for name, variables in list(self.asked) if name == operation]

    def take_stream(self, run: str, stream: dict[str, Any]) -> None:
        """Enter lines of a run's files."""
        for name, chunk in (stream.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                lines = self.history.setdefault(run, {})
                for i, line in enumerate(chunk["content"]):
                    lines[chunk["offset"] + i] = json.loads(line)
            elif name == "wandb-summary.json":
                self.summary[run] = json.loads(chunk["content"][-1])

    def answer(self, operation: str, v: dict[str, Any]) -> Any:
        """Return the data that a request gets, None if it is not known."""
        entity = v.get("entity") or v.get("entityName") or "me"
        project = v.get("project") or v.get("projectName") or "p"
        name = v.get("name") or v.get("run") or v.get("runName") or "r"
        where = {"id": "pid", "name": project, "entity": {"id": "eid", "name": entity}}
        simple = {
            "Viewer": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "OrganizationFeatureFlags": {"organization": {"featureFlags": []}},
            "RunResumeStatus": {"model": {"bucket": None, **where}},
            "RunStoppedStatus": {"project": {"run": {"stopped": False}}},
            "ArtifactType": {"project": {"artifact": None}},
            "NotifyScriptableRunAlert": {"notifyScriptableRunAlert": {"success": True}},
            "CommitArtifact": {"commitArtifact": {"artifact": {"id": "art", "digest": "x"}}},
            "CreateArtifact": {
                "createArtifact": {
                    "artifact": {
                        "id": "art",
                        "state": "PENDING",
                        "artifactSequence": {"id": "seq", "latestArtifact": None},
                    }
                }
            },
            "CreateCustomChart": {
                "createCustomChart": {"chart": {"id": f"{entity}/{v.get('chartName')}"}}
            },
            "ProjectInternalId": {"project": {"id": "pid", "internalId": "iid"}},
        }
        if operation in simple:
            return simple[operation]
        if operation == "UpsertBucket":
            bucket = {
                "id": f"id-{name}",
                "name": name,
                "displayName": v.get("displayName") or name,
                "config": v.get("config") or "{}",
                "sweepName": None,
                "historyLineCount": 0,
                "project": where,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        return self._uploads(operation, v, str(name)) or self._view(operation, v, project, entity)

    def _uploads(self, operation: str, v: dict[str, Any], name: str) -> Any:
        to = f"{self.url}/storage"
        if operation == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{to}/{name}/{f}"} for f in v["files"]]
            return {"createRunFiles": {"runID": f"id-{name}", "uploadHeaders": [], "files": files}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            file = {
                "id": "f",
                "name": "m",
                "displayName": "m",
                "uploadUrl": f"{to}/manifest",
                "uploadHeaders": [],
            }
            key = operation[0].lower() + operation[1:]
            return {key: {"artifactManifest": {"id": "man", "file": file}}}
        if operation == "CreateArtifactFiles":
            edges = [
                {
                    "node": {
                        "id": "f",
                        "name": spec["name"],
                        "displayName": spec["name"],
                        "uploadUrl": f"{to}/artifact/{spec['name']}",
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "storagePath": spec["name"],
                        "artifact": {"id": "art"},
                    }
                }
                for spec in v["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        return None

    def _view(self, operation: str, v: dict[str, Any], project: str, entity: str) -> Any:
        if operation != "UpsertView2":
            return None
        view = {
            "id": v.get("id") or "view",
            "type": v.get("type"),
            "name": v.get("name"),
            "displayName": v.get("displayName"),
            "description": None,
            "project": {"id": "pid", "name": project, "entityName": entity},
            "spec": v.get("spec"),
            "updatedAt": "2026-01-01T00:00:00Z",
            "createdAt": "2026-01-01T00:00:00Z",
            "user": {"name": "me", "username": "me"},
        }
        return {"upsertView": {"view": view, "inserted": True}}


class _Handler(BaseHTTPRequestHandler):
    backend: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            raw = b""
            while n := int(self.rfile.readline().split(b";")[0], 16):
                raw += self.rfile.read(n)
                self.rfile.readline()
            self.rfile.readline()
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        coding = self.headers.get("Content-Encoding", "")
        if coding == "gzip":
            return gzip.decompress(raw)
        return zlib.decompress(raw) if coding == "deflate" else raw

    def _reply(self, value: Any, code: int = 200) -> None:
        if self.backend.silent.is_set():
            self.backend.heard.wait()  # until then: no answer, however long the client waits
            self.close_connection = True
            return
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/storage/"):
            self._reply(self.backend.files.get(self.path[9:], b""))
        else:
            self._unknown()

    def do_PUT(self) -> None:
        body = self._body()
        if not self.backend.silent.is_set():
            self.backend.files[self.path[9:]] = body
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.backend.silent.is_set() and self.path != "/return":
            self._reply({})
        elif self.path == "/vanish":  # not W&B's: the test's own
            self._reply({})
            self.backend.silent.set()
        elif self.path == "/return":
            self.backend.silent.clear()
            self.backend.heard.set()
            self._reply({})
        elif self.path.endswith("/graphql"):
            self._graphql(json.loads(body))
        elif match := _STREAM.fullmatch(self.path):
            self.backend.take_stream(match[1], json.loads(body))
            self._reply({"exitcode": None, "limits": {}})
        else:
            self._unknown()

    def _graphql(self, request: dict[str, Any]) -> None:
        match = _OPERATION.search(request["query"])
        operation = request.get("operationName") or (match[1] if match else "?")
        variables = request.get("variables") or {}
        self.backend.asked.append((operation, variables))
        answer = self.backend.answer(operation, variables)
        if operation in self.backend.refused:
            self._reply({"data": None, "errors": [{"message": "refused"}]})
        elif answer is None:
            self.backend.unknown.append(operation)
            self._reply({"data": None, "errors": [{"message": f"not known: {operation}"}]})
        else:
            self._reply({"data": answer})

    def _unknown(self) -> None:
        self.backend.unknown.append(self.path)
        self._reply({}, 404)


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are no trouble; what fails here is missing in what arrived."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of this machine for as long as the block runs."""
    server = Server()
    http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"backend": server}))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.heard.set()
        http.shutdown()
        http.server_close()
        thread.join(10)


def environment(server: Server) -> dict[str, str]:
    """Return the variables that bring a client to this server."""
    return {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "x" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB__DISABLE_STATS": "true",
        "WANDB__DISABLE_META": "true",
        "NETRC": "no-such-file",
        "NO_PROXY": "127.0.0.1",
    }
