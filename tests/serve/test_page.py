from __future__ import annotations

from fastapi import FastAPI
from fastapi.testclient import TestClient

from steelyard.serve import page


def client(folder) -> TestClient:
    app = FastAPI()
    app.include_router(page.router(folder))
    return TestClient(app)


def test_without_a_built_page_the_server_says_how_to_build_it(tmp_path):
    answer = client(tmp_path / "nothing").get("/")
    assert answer.status_code == 503 and "make web" in answer.text and answer.headers["content-type"].startswith("text/html")


def test_the_page_is_served_under_a_policy_that_lets_nothing_in_from_elsewhere(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "index-1a2b.js").write_text("1")
    served = client(tmp_path)
    policy = served.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "img-src 'self' data: blob:" in policy and "unsafe" not in policy
    asset = served.get("/assets/index-1a2b.js")
    assert "immutable" in asset.headers["cache-control"] and "javascript" in asset.headers["content-type"]
    assert served.get("/").headers["cache-control"] == "no-cache"


def test_only_files_of_the_page_can_be_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    built = tmp_path / "built"
    (built / "assets").mkdir(parents=True)
    (built / "assets" / "link.txt").symlink_to(tmp_path / "secret.txt")
    served = client(built)
    for name in ("..%2f..%2fsecret.txt", "link.txt", "%00", "%2e%2e", "a" * 5000, "nothing.js"):
        assert served.get(f"/assets/{name}").status_code == 404, name
