"""A small hub on this machine: enough of Hugging Face's protocol to list a model's files and hand them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Repos = dict[str, dict[str, bytes]]  # id -> file name -> content
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {"gated/model": (403, "GatedRepo"), "broken/model": (500, "ServerError")}


class Hub:
    """Where the server listens, and what it was asked for."""

    def __init__(self, url: str):
        self.url = url
        self.asked: list[str] = []  # "GET /path", in order
        self.short = ""  # the file of which half is sent before the connection closes


@contextmanager
def serve(repos: Repos) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET" and hub.short and self.path.endswith(hub.short) and status == 200:
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if path.startswith("/api/models/"):
                return self.answer_about(path.removeprefix("/api/models/"))
            if path.startswith("/store/"):
                repo, file = path.removeprefix("/store/").split("/resolve/")
                return self.answer(200, repos[repo][file])
            repo, _, rest = path[1:].partition("/resolve/")
            return self.answer_file(repo, rest.partition("/")[2])

        do_HEAD = do_GET

        def answer_about(self, path: str) -> None:
            repo = next((repo for repo in (*repos, *REFUSALS) if f"{path}/".startswith(f"{repo}/")), None)
            if repo is None:
                return self.answer(401, X_Error_Code="RepoNotFound")
            if repo in REFUSALS:
                status, code = REFUSALS[repo]
                return self.answer(status, X_Error_Code=code)
            kind, _, revision = path.removeprefix(f"{repo}/").partition("/")
            if kind == "revision" and revision not in ("main", COMMIT):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if kind == "tree":
                files = [self.entry(name, body) for name, body in repos[repo].items()]
                return self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
            about = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in repos[repo]]}
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")

        def entry(self, name: str, body: bytes) -> dict[str, object]:
            return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}

        def answer_file(self, repo: str, file: str) -> None:
            body = repos.get(repo, {}).get(file)
            if body is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            known = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
            if file.endswith(".safetensors"):  # large files lie in a store on another host
                store = f"http://localhost:{server.server_port}/store/{repo}/resolve/{file}"
                known |= {"X_Linked_ETag": known["ETag"], "X_Linked_Size": str(len(body))}
                return self.answer(302, Location=store, **known)
            return self.answer(200, body, **known)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
