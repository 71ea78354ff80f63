"""A Hub on loopback: facts, files with ranges and ETags, gated and private repositories; it counts what it sends."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

TOKEN = "hf_token_of_the_tests"
_INFO = re.compile(r"^/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?$")
_FILE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    sha: str = "a" * 40
    revisions: tuple[str, ...] = ("main",)


@dataclass
class HubServer:
    """`sent` holds (method, path in the repository, bytes of body) of every answer that carried a file."""

    repos: dict[str, Repo] = field(default_factory=dict)
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    failing: bool = False

    def __post_init__(self) -> None:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo: str, directory: Path, subfolder: str = "", **facts: object) -> Repo:
        prefix = f"{subfolder}/" if subfolder else ""
        files = {f"{prefix}{path.name}": path.read_bytes() for path in directory.iterdir() if path.is_file()}
        self.repos[repo] = Repo(files, **facts)  # type: ignore[arg-type]
        return self.repos[repo]

    def bytes_sent(self, suffix: str) -> int:
        return sum(size for method, path, size in self.sent if method == "GET" and path.endswith(suffix))

    def reset(self) -> None:
        self.repos.clear()
        self.sent.clear()
        self.failing = False

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        status, code = self._route()
        if status != 200:
            self._error(status, code)

    def _route(self) -> tuple[int, str]:
        """Answer with a file or with facts, or say which error it is."""
        if self.server_hub.failing:
            return 503, ""
        path = unquote(self.path.partition("?")[0])
        for pattern, reply in ((_INFO, self._info), (_FILE, self._file)):
            match = pattern.match(path)
            if match:
                repo = self.server_hub.repos.get(match["repo"])
                authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                if repo is None or (repo.private and not authorised):
                    return (404 if authorised else 401), "RepoNotFound"
                revision = match["revision"] or "main"
                if revision not in (*repo.revisions, repo.sha):
                    return 404, "RevisionNotFound"
                if repo.gated and not authorised and reply == self._file:
                    return 403, "GatedRepo"
                return reply(match, repo)
        return 404, ""

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _info(self, match: re.Match[str], repo: Repo) -> tuple[int, str]:
        siblings = [{"rfilename": name} for name in sorted(repo.files)]
        facts = {
            "id": match["repo"],
            "sha": repo.sha,
            "siblings": siblings,
            "private": repo.private,
            "gated": repo.gated,
        }
        body = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return 200, ""

    def _file(self, match: re.Match[str], repo: Repo) -> tuple[int, str]:
        content = repo.files.get(match["path"])
        if content is None:
            return 404, "EntryNotFound"
        whole, first, last = len(content), 0, len(content) - 1
        asked = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
        part = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", repo.sha)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)
        self.server_hub.sent.append((self.command, match["path"], len(part) if self.command == "GET" else 0))
        return 200, ""
