"""A small HTTP server that speaks as much of the Hugging Face hub's API as pushing and downloading
a model takes: create a repository, commit files, list them, send them."""
import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(BaseHTTPRequestHandler):
    "One request; `server.repos` is repository → path → bytes."
    protocol_version = "HTTP/1.1"

    def answer(self, status=200, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def not_found(self, code="RepoNotFound"):
        self.answer(404, {"error": "not found"}, X_Error_Code=code)

    def commit_of(self, repo):
        listing = json.dumps(sorted((p, hashlib.sha1(b).hexdigest())
                                    for p, b in self.server.repos[repo].items()))
        return hashlib.sha1(listing.encode()).hexdigest()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self.answer(body={"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, {"error": "a token is needed"})
        if self.path == "/api/repos/create":
            about = json.loads(body)
            repo = f"{about.get('organization') or 'me'}/{about['name']}"
            self.server.repos.setdefault(repo, {})
            return self.answer(body={"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})
        m = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main(\?.*)?", self.path)
        if not m or m[1] not in self.server.repos:
            return self.not_found()
        if m[2] == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]
            return self.answer(body={"files": files})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.repos[m[1]][value["path"]] = base64.b64decode(value["content"])
        oid = self.commit_of(m[1])
        self.answer(body={"success": True, "commitOid": oid,
                          "commitUrl": f"{self.server.url}/{m[1]}/commit/{oid}"})

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            if m[1] not in self.server.repos:
                return self.not_found()
            files = [{"rfilename": p} for p in sorted(self.server.repos[m[1]])]
            return self.answer(body={"id": m[1], "modelId": m[1], "private": False, "tags": [],
                                     "sha": self.commit_of(m[1]), "siblings": files})
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            if m[1] not in self.server.repos:
                return self.not_found()
            files = [{"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                     for p, b in sorted(self.server.repos[m[1]].items())]
            return self.answer(body=files)
        if m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            found = self.server.repos.get(m[1])
            if found is None or m[2] not in found:
                return self.not_found("RepoNotFound" if found is None else "EntryNotFound")
            tag = hashlib.sha1(found[m[2]]).hexdigest()
            return self.answer(body=found[m[2]], ETag=f'"{tag}"',
                               X_Repo_Commit=self.commit_of(m[1]))
        self.not_found()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def hub(token="hf_of-the-test"):
    "A running stand-in; gives its server, with `url`, `token`, `repos` and `asked`."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.token, server.repos, server.asked = token, {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
