"""A Hub on loopback, in the protocol that huggingface_hub speaks, with faults on demand; it counts what it carries.

Models with branches, tags and pull requests; files with ranges, ETags and redirects of large ones to a second address;
creating, preupload, large-file batches, commits; gated and private repositories; rate limits and dropped connections.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote

import yaml

TOKEN = "hf_token_of_the_tests"
USER = "user"
LARGE = (".safetensors", ".bin", ".pt", ".png")
NAME = r"(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repo:
    """`files` are those of the branch main; `branches` hold other branches and pull requests."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    sha: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    commits: list[dict[str, object]] = field(default_factory=list)

    def at(self, revision: str) -> dict[str, bytes] | None:
        if revision in (*self.revisions, self.sha):
            return self.files
        return self.branches.get(revision)

    def sha_of(self, revision: str) -> str:
        return self.heads.get(revision, self.sha)

    @property
    def metadata(self) -> dict[str, object]:
        text = self.files.get("README.md", b"").decode(errors="replace")
        found = re.match(r"---\n(.*?)\n---", text, re.S)
        content = yaml.safe_load(found[1]) if found else None
        return content if isinstance(content, dict) else {}


@dataclass
class Fault:
    """What goes wrong with requests of a method whose address holds `part`: `times` of them, after `after` others.

    With a `status` they are answered so; without, the connection drops, `late` after the request was carried out.
    """

    method: str
    part: str
    status: int | None = None
    times: int = 1
    after: int = 0
    late: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    """`sent` holds (method, path in the repository, bytes of body) of every answer that carried a file.

    `requests` holds (method, address) of everything asked, `stored` the large files that have arrived, by SHA-256, and
    `arrivals` their digests in order, twice for one that came twice. `traffic` are the bytes of all answers.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    arrivals: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    traffic: int = 0
    ranges: ClassVar[bool] = True
    failing: bool = False

    def __post_init__(self) -> None:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def large_url(self) -> str:
        """Another host's address, as far as a client can tell."""
        return f"http://localhost:{self._server.server_port}"

    def add(self, repo: str, directory: Path, subfolder: str = "", **facts: object) -> Repo:
        prefix = f"{subfolder}/" if subfolder else ""
        paths = [path for path in directory.rglob("*") if path.is_file()]
        files = {f"{prefix}{path.relative_to(directory).as_posix()}": path.read_bytes() for path in paths}
        self.repos[repo] = Repo(files, **facts)  # type: ignore[arg-type]
        return self.repos[repo]

    def bytes_sent(self, suffix: str) -> int:
        return sum(size for method, path, size in self.sent if method == "GET" and path.endswith(suffix))

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method not in ("GET", "HEAD")]

    def fault(self, method: str, address: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.part in address and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def reset(self) -> None:
        self.repos.clear()
        self.stored.clear()
        self.failing = False
        self.traffic = 0
        for counted in (self.sent, self.requests, self.arrivals, self.faults):
            counted.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@cache
def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_problems(content: str) -> list[str]:
    """What the Hub would object to in a model card's metadata."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", content, re.S)
    try:
        data = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["metadata is not a mapping"]
    problems = [
        f'"{key}" must be a string'
        for key in ("license", "library_name", "pipeline_tag")
        if key in data and not isinstance(data[key], str)
    ]
    bases = data.get("base_model", [])
    problems += [
        f'"base_model" {name!r} is no id'
        for name in ([bases] if isinstance(bases, str) else bases)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    ]
    if data.get("base_model_relation", "merge") not in ("adapter", "merge", "quantized", "finetune"):
        problems.append('"base_model_relation" is unknown')
    for model in data.get("model-index", []):
        problems += [] if isinstance(model.get("name"), str) else ["model-index without a name"]
        for result in model.get("results", []):
            for path in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not isinstance(result.get(path[0], {}).get(path[1]), str):
                    problems.append(f"model-index result without {'.'.join(path)}")
            for metric in result.get("metrics", [{}]):
                if not isinstance(metric.get("type"), str) or "value" not in metric:
                    problems.append("model-index metric without type or value")
    return problems


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self) -> None:
        hub = self.server_hub
        hub.requests.append((self.command, self.path))
        fault = hub.fault(self.command, self.path)
        if fault is not None and fault.status is None and not fault.late:
            return self._drop()
        self._body = self._read_body()
        if fault is not None and fault.status is not None:
            return self._reply(fault.status, b"", fault.headers)
        if fault is not None:
            self._mute = True
        try:
            status, code = self._route()
        except BrokenPipeError:
            return None
        if getattr(self, "_mute", False):
            return self._drop()
        if status != 200:
            body = json.dumps({"error": code or f"error {status}"}).encode()
            self._reply(status, body, {"X-Error-Code": code} if code else {})
        return None

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline().strip(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if getattr(self, "_mute", False):
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.server_hub.traffic += len(body)
            self.wfile.write(body)

    def _json(self, content: object, status: int = 200) -> tuple[int, str]:
        self._reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})
        return 200, ""

    def _route(self) -> tuple[int, str]:
        """Answer, or say which error it is."""
        if self.server_hub.failing:
            return 503, ""
        path, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        reading = (
            (rf"/api/models/{NAME}(?:/revision/(?P<revision>[^/]+))?", self._info),
            (rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._file),
        )
        writing = (
            (rf"/api/models/{NAME}/preupload/(?P<revision>[^/]+)", self._preupload),
            (rf"/api/models/{NAME}/commit/(?P<revision>[^/]+)", self._commit),
            (rf"/api/models/{NAME}/branch/(?P<revision>[^/]+)", self._branch),
            (rf"/{NAME}\.git/info/lfs/objects/batch", self._batch),
        )
        if path == "/api/repos/create" and self.command == "POST":
            return self._create()
        if path == "/api/validate-yaml":
            problems = card_problems(json.loads(self._body)["content"])
            return self._json({"errors": [{"message": p} for p in problems]}, 400 if problems else 200)
        if path == "/api/whoami-v2":
            return self._json({"type": "user", "name": USER, "auth": {}}) if self.authorised else (401, "")
        if path.startswith("/large/"):
            return self._large(path.rpartition("/")[2])
        for pattern, reply in reading if self.command in ("GET", "HEAD") else writing:
            match = re.fullmatch(pattern, path)
            if match:
                return self._repository({key: unquote(value or "") for key, value in match.groupdict().items()}, reply)
        return 404, ""

    def _repository(self, asked: dict[str, str], reply: Callable[..., tuple[int, str]]) -> tuple[int, str]:
        repo = self.server_hub.repos.get(asked["repo"])
        if repo is None or (repo.private and not self.authorised):
            return (404 if self.authorised else 401), "RepoNotFound"
        if self.command not in ("GET", "HEAD") and not self.authorised:
            return 401, ""
        revision = asked.get("revision") or "main"
        if repo.at(revision) is None and reply != self._branch:
            return 404, "RevisionNotFound"
        if repo.gated and not self.authorised and reply == self._file:
            return 403, "GatedRepo"
        return reply(asked, repo, revision)

    def _info(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        siblings = []
        for name, content in sorted((repo.at(revision) or {}).items()):
            sibling: dict[str, object] = {"rfilename": name}
            if "blobs" in self.query:
                sibling |= {"size": len(content), "blobId": blob_id(content)}
                if name.endswith(LARGE):
                    digest = sha256(content)
                    sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        facts = {"private": repo.private, "gated": "manual" if repo.gated else False, "cardData": repo.metadata}
        return self._json({"id": asked["repo"], "sha": repo.sha_of(revision), "siblings": siblings, **facts})

    def _file(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        content = (repo.at(revision) or {}).get(asked["path"])
        if content is None:
            return 404, "EntryNotFound"
        digest = sha256(content)
        headers = {"X-Repo-Commit": repo.sha_of(revision), "Accept-Ranges": "bytes"}
        if asked["path"].endswith(LARGE):
            self.server_hub.stored.setdefault(digest, content)
            self._names()[digest] = asked["path"]
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self._reply(302, b"", headers | {"Location": f"{self.server_hub.large_url}/large/{digest}"})
            return 200, ""
        return self._content(asked["path"], content, headers | {"ETag": f'"{blob_id(content)}"'})

    def _names(self) -> dict[str, str]:
        return self.server_hub.__dict__.setdefault("_large_names", {})

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> tuple[int, str]:
        whole, first, last = len(content), 0, len(content) - 1
        asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if not self.server_hub.ranges:
            asked = None
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            headers["Content-Range"] = f"bytes {first}-{last}/{whole}"
        part = content[first : last + 1]
        self.server_hub.sent.append((self.command, name, len(part) if self.command == "GET" else 0))
        self._reply(206 if asked else 200, part, headers)
        return 200, ""

    def _large(self, digest: str) -> tuple[int, str]:
        hub = self.server_hub
        if self.command != "PUT":
            if self.headers.get("Authorization"):
                return 400, ""  # the token must not leave the Hub
            return self._content(self._names().get(digest, digest), hub.stored[digest], {"ETag": f'"{digest}"'})
        if hashlib.sha256(self._body).hexdigest() != digest:
            return 400, ""
        with hub.lock:
            hub.stored[digest] = self._body
            hub.arrivals.append(digest)
        self._reply(200, b"", {"ETag": f'"{digest}"'})
        return 200, ""

    def _create(self) -> tuple[int, str]:
        if not self.authorised:
            return 401, ""
        asked = json.loads(self._body)
        owner = asked.get("organization") or USER
        if owner != USER:
            return 403, ""
        name = f"{owner}/{asked['name']}"
        if name in self.server_hub.repos:
            there = {"error": "You already created this model repo", "url": f"{self.server_hub.url}/{name}"}
            return self._json(there, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server_hub.repos[name] = Repo({".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        return self._json({"url": f"{self.server_hub.url}/{name}"})

    def _branch(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        if repo.at(revision) is not None:
            return 409, ""
        repo.branches[revision] = dict(repo.files)
        return self._json({})

    def _preupload(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        files = []
        for file in json.loads(self._body)["files"]:
            held = (repo.at(revision) or {}).get(file["path"])
            large = file["path"].endswith(LARGE)
            oid = None if held is None else sha256(held) if large else blob_id(held)
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self._json({"files": files})

    def _batch(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        objects = []
        for entry in json.loads(self._body)["objects"]:
            upload = {"upload": {"href": f"{self.server_hub.large_url}/large/{entry['oid']}"}}
            arrived = entry["oid"] in self.server_hub.stored
            objects.append({**entry, **({} if arrived else {"actions": upload})})
        return self._json({"transfer": "basic", "objects": objects})

    def _commit(self, asked: dict[str, str], repo: Repo, revision: str) -> tuple[int, str]:
        lines = [json.loads(line) for line in self._body.splitlines() if line]
        header = lines[0]["value"]
        pull_request = "create_pr" in self.query
        if not pull_request and header.get("parentCommit") not in (None, repo.sha_of(revision)):
            return 412, ""
        files = dict(repo.at(revision) or {})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server_hub.stored:
                    return 400, ""
                files[value["path"]] = self.server_hub.stored[value["oid"]]
            elif files.pop(value["path"], None) is None:
                return 404, "EntryNotFound"
        repo.commits.append({"summary": header["summary"], "revision": revision, "pull_request": pull_request})
        sha = hashlib.sha1(f"{asked['repo']}{len(repo.commits)}".encode()).hexdigest()
        url = f"{self.server_hub.url}/{asked['repo']}"
        reply = {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha}
        if pull_request:
            number = sum(bool(commit["pull_request"]) for commit in repo.commits)
            repo.branches[f"refs/pr/{number}"] = files
            reply["pullRequestUrl"] = f"{url}/discussions/{number}"
        elif revision in repo.branches:
            repo.branches[revision], repo.heads[revision] = files, sha
        else:
            repo.files, repo.sha = files, sha
        return self._json(reply)
