"""A tracking server on loopback that takes what MLflow's client sends, or is no help, as asked."""

from __future__ import annotations

import json
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUN_ID = "0" * 31 + "1"


class Backend(ThreadingHTTPServer):
    """Keeps the metrics it accepts.

    Attributes:
        mode: `ok`, `refuse` (hangs up without an answer), `stall` (answers `stall_s` late) or
            `error` (answers 500).
        troubled: Calls that came while the mode was another than `ok`.
        metrics: (tag, env step, value) in the order in which they came.
        statuses: What the run was said to be.
    """

    daemon_threads = True

    def __init__(self, artifacts: Path, mode: str = "ok", stall_s: float = 10.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.stall_s, self.artifacts = mode, stall_s, artifacts
        self.troubled = 0
        self.metrics: list[tuple[str, int, float]] = []
        self.statuses: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reply(self, call: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Answer as MLflow's server would, as far as its client looks."""
        info = {"run_id": RUN_ID, "run_uuid": RUN_ID, "experiment_id": "1", "status": "RUNNING"}
        info |= {"artifact_uri": str(self.artifacts), "lifecycle_stage": "active"}
        if call == "runs/log-batch":
            rows = sent.get("metrics", [])
            self.metrics += [(m["key"], int(m["step"]), float(m["value"])) for m in rows]
        if call == "runs/update":
            self.statuses.append(sent["status"])
            return {"run_info": info}
        if call.startswith("experiments/"):
            return {"experiment": {"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}}
        return {"run": {"info": info, "data": {}}} if call in ("runs/create", "runs/get") else {}


class Handler(BaseHTTPRequestHandler):
    """One call; `/control/MODE` sets the mode and returns how many calls were in trouble."""

    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path.startswith("/control/"):
            self.server.mode = path.rpartition("/")[2] or self.server.mode
            counts = {"troubled": self.server.troubled, "metrics": len(self.server.metrics)}
            self.answer(200, counts)
            return
        mode = self.server.mode
        self.server.troubled += mode != "ok"
        if mode == "stall":
            time.sleep(self.server.stall_s)
        if mode == "error":
            self.answer(500, {})
        elif mode != "refuse":
            self.answer(
                200, self.server.reply(path.partition("/mlflow/")[2], json.loads(body or "{}"))
            )

    do_GET = do_PATCH = do_POST  # noqa: N815 - names that http.server looks for

    def answer(self, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def control(address: str, mode: str = "") -> dict[str, int]:
    """Set the mode of a backend in another process, if one is named; return its counts."""
    with urllib.request.urlopen(f"{address}/control/{mode}", timeout=10) as answer:
        return json.loads(answer.read())
