"""Nothing secret is printed: passwords in addresses, signed queries, tokens, headers; with --debug, too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isthmus.checkpoint.redaction import redact

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"GET http://user:{SECRET}@host:80/x failed",
        f"http://user:p@{SECRET}@host/x",
        f"http://user:pa/{SECRET}@host/x",
        f"http://{SECRET}@host",
        f"https://cdn/x?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
        f"path?token={SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"authorization: Basic {SECRET}",
        f"Cookie: session={SECRET}",
        f"socks5://u:{SECRET}@proxy:1080",
    ],
)
def test_forms_of_secrets(text: str) -> None:
    assert SECRET not in redact(text)


def test_ordinary_text_stays() -> None:
    text = "the pad_token of 'user/model@main' differs: see https://host/docs/a@b, and basic training"
    assert redact(text) == text


@pytest.mark.parametrize(
    "text", ["://" * 200_000, "a" * 10**6, "?token" * 10**5, "bearer " * 10**5, "http://" + "@" * 10**5]
)
def test_no_pattern_is_slow(text: str) -> None:
    start = time.process_time()
    redact(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    "environment",
    [
        {"HF_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:9"},
        {"HF_ENDPOINT": f"http://user:pa/{SECRET}@127.0.0.1:9"},
        {"HF_ENDPOINT": "http://127.0.0.1:9", "HTTP_PROXY": f"http://user:{SECRET}@127.0.0.1:9"},
        {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": SECRET},
    ],
    ids=["endpoint", "endpoint with a slash", "proxy", "token"],
)
def test_the_command_line_prints_none(tmp_path: Path, environment: dict[str, str], debug: bool) -> None:
    root = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-m", "isthmus", "check", "user/a", "user/b", *(["--debug"] if debug else [])],
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode in (1, 2)
    assert SECRET not in run.stderr + run.stdout
    assert ("Traceback" in run.stderr) == debug
