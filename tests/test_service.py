"""The HTTP service, asked over real connections."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, TEXTS

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from hybridret.cli import main
from hybridret.data.table import Document
from hybridret.encoder.exporting import export
from hybridret.encoder.torch_encoder import TorchEncoder
from hybridret.serving import words
from hybridret.serving.retriever import Retriever

LANGUAGES = ("en", "de", "ru", "zh", "ar", "en")
DOCUMENTS = [
    Document(
        f"d{n}",
        f"{TEXTS[n % 6]} {'river ' * (n // 6)}{n}",
        LANGUAGES[n % 6],
        title="" if n % 3 else "Title",
        metadata={"year": 2000 + n},
    )
    for n in range(60)
]


class Server:
    """A service in a process of its own."""

    def __init__(self, folder, *options: object, log=None) -> None:
        command = [sys.executable, "-m", "hybridret.cli", "serve", folder, "--port", 0, *options]
        self.log = tempfile.TemporaryFile("w+") if log is None else log  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:(\d+))/", line)
        if not found:
            raise AssertionError(line)
        self.url, self.port = found[1], int(found[2])
        self.client = httpx.Client(base_url=self.url, timeout=60)
        while True:
            try:
                if self.client.get("/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    def stop(self) -> tuple[int, str]:
        """Exit status and log."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        self.client.close()
        self.log.seek(0)
        with self.log as log:
            return self.process.returncode, log.read()


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    encoder = TorchEncoder.new_static(TEXTS, dimension=24, vocabulary_size=400)
    return export(encoder, tmp_path_factory.mktemp("service") / "encoder").folder


@pytest.fixture(scope="module")
def server(encoder_folder):
    Retriever.create(encoder_folder).add(DOCUMENTS)
    server = Server(encoder_folder)
    yield server
    status, log = server.stop()
    assert status == 0
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def retriever(server, encoder_folder):
    return Retriever.load(encoder_folder)


def expected(hits) -> list[dict]:
    return [
        {
            "id": h.document_id,
            "text": h.text,
            "language": h.language,
            "score": pytest.approx(h.score, abs=1e-6),
            "title": h.title,
            "metadata": h.metadata,
        }
        for h in hits
    ]


@pytest.mark.parametrize("mode", ["dense", "words", "hybrid"])
def test_a_search_is_that_of_the_library(server, retriever, mode):
    for options in (
        {},
        {"k": 3},
        {"k": 1000},
        {"languages": ["de", "zh"]},
        {"where": {"year": {"gte": 2030}}, "languages": None},
    ):
        hits = retriever.search("Paris river", mode=mode, **options)
        answer = server.client.post(
            "/search", json={"query": "Paris river", "mode": mode, **options}
        )
        assert answer.status_code == 200
        assert answer.json() == {"hits": expected(hits)}
    queries = ["capital of France", "法国的首都", "Hauptstadt"]
    answer = server.client.post("/search", json={"queries": queries, "mode": mode, "k": 4})
    alone = [retriever.search(query, k=4, mode=mode) for query in queries]
    assert answer.json() == {"results": [{"hits": expected(hits)} for hits in alone]}


def test_embeddings(server, retriever):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    texts = [d.text for d in DOCUMENTS]
    own = retriever.encoder.encode_documents(texts)
    for form in ({}, {"encoding_format": "float"}):  # by itself the client asks for base64
        found = client.embeddings.create(model="mine", input=texts, **form)
        assert found.model == "mine"
        vectors = np.array([d.embedding for d in found.data])
        np.testing.assert_allclose(vectors, own, atol=1e-6)
        tokens = sum(map(len, retriever.encoder.tokenizer.ids(texts)))
        assert found.usage.total_tokens == found.usage.prompt_tokens == tokens
    one = client.embeddings.create(model="x", input=texts[3], dimensions=8)
    short = own[3, :8] / np.linalg.norm(own[3, :8])
    np.testing.assert_allclose(one.data[0].embedding, short, atol=1e-6)
    answer = server.client.post(
        "/v1/embeddings",
        json={"input": "Paris", "input_type": "query", "encoding_format": "base64"},
    )
    raw = base64.b64decode(answer.json()["data"][0]["embedding"])
    np.testing.assert_allclose(
        np.frombuffer(raw, "<f4"), retriever.encoder.encode_queries(["Paris"])[0], atol=1e-6
    )


def test_documents(server, retriever):
    client = server.client
    new = {"id": "n/1 ?ü", "text": "Belgrade", "language": "sr", "metadata": {"a": [1, None]}}
    assert client.post("/documents", json={"documents": [new]}).json() == {
        "added": 1,
        "replaced": 0,
    }
    assert "n/1 ?ü" in retriever
    path = "/documents/n%2F1%20%3F%C3%BC"
    assert client.get(path).json() == {**new, "group": "n/1 ?ü", "title": ""}
    again = client.post("/documents", json={"documents": [new]})
    assert (again.status_code, again.json()["error"]["type"]) == (409, "invalid_request_error")
    changed = {"documents": [{**new, "text": "Vienna"}, {"id": "n2", "text": "x"}], "upsert": True}
    assert client.post("/documents", json=changed).json() == {"added": 2, "replaced": 1}
    assert client.get(path).json()["text"] == "Vienna"
    assert client.delete(path).json() == {"deleted": 1}
    assert client.get(path).status_code == client.delete(path).status_code == 404
    ids = {"ids": ["n2", "unknown"]}
    assert "no document 'unknown'" in client.post("/documents/delete", json=ids).text
    assert client.post("/documents/delete", json={"ids": ["n2"]}).json() == {"deleted": 1}
    assert len(retriever) == 60
    stats = client.get("/stats").json()
    assert stats["documents"] == 60
    assert "year" in stats["fields"]
    assert stats["modes"] == ["dense", "words", "hybrid"]


def test_one_sentence_for_each_mistake(server):
    client = server.client
    for path, body, status, message in (
        ("/search", {}, 400, "the request must have either query or queries"),
        ("/search", {"query": "a", "queries": ["b"]}, 400, "either query or queries"),
        ("/search", {"query": " "}, 400, "query must not be empty"),
        ("/search", {"query": 5}, 400, "query must be string, got 5"),
        ("/search", {"queries": []}, 400, "queries must contain at least 1 items"),
        ("/search", {"query": "a", "k": 0}, 400, "k must be bigger than or equal to 1, got 0"),
        ("/search", {"query": "a", "k": 1.5}, 400, "k must be integer, got 1.5"),
        ("/search", {"query": "a", "k": 10**9}, 400, "k must be smaller than or equal to 1000"),
        ("/search", {"query": "a", "mode": "bm25"}, 400, "mode must be one of"),
        ("/search", {"queries": ["a"] * 21, "k": 1000}, 400, "queries times k must be at most"),
        ("/search", {"query": "a", "languages": ["fr"]}, 400, "no document in language 'fr'"),
        ("/search", {"query": "a", "languages": "xx-!"}, 400, "languages"),
        ("/search", {"query": "a", "where": {"yaer": 1}}, 400, "did you mean year"),
        ("/search", {"query": "a", "where": {"year": {"near": 1}}}, 400, "unknown operator"),
        ("/search", {"query": "a", "wher": {}}, 400, "must not contain {'wher'} properties"),
        ("/search", {"query": "\ud800"}, 400, "lone surrogate"),
        ("/search", [1], 400, "the request must be object"),
        ("/v1/embeddings", {"input": [1, 2, 3]}, 400, "token numbers are not taken"),
        ("/v1/embeddings", {"input": []}, 400, "input must be a text or a list of texts"),
        ("/v1/embeddings", {"input": "a", "dimensions": 25}, 400, "vectors have 24"),
        ("/documents", {"documents": [{"id": "x"}]}, 400, "must contain ['text'] properties"),
        ("/documents", {"documents": [{"id": "", "text": "a"}]}, 400, "documents[0].id"),
        ("/documents", {"documents": [{"id": "x", "text": ""}]}, 400, "documents[0].text"),
        (
            "/documents",
            {"documents": [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]},
            400,
            "'x' is a duplicate",
        ),
        ("/documents", {"documents": [{"id": "x", "text": "a", "language": "??"}]}, 400, "'x'"),
        ("/documents/delete", {"ids": []}, 400, "ids must contain at least 1 items"),
    ):
        data = json.dumps(body)
        answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, (path, body, answer.text)
        error = answer.json()["error"]
        assert message in error["message"], (body, error)
        assert "\n" not in error["message"]
    for content, kind, status, message in (
        (b"{", "application/json", 400, "not JSON in UTF-8"),
        (b'{"query": "\xff"}', "application/json", 400, "not JSON in UTF-8"),
        (b'{"query": "a", "k": NaN}', "application/json", 400, "NaN is not a number of JSON"),
        (b"[" * 200_000, "application/json", 400, "nested too deeply"),
        (b"", "application/json", 400, "not JSON in UTF-8"),
        (b'{"query": "a"}', "text/plain", 415, "must be application/json, got 'text/plain'"),
        (b"x" * (17 << 20), "application/json", 413, "more than 16,777,216 bytes"),
    ):
        answer = client.post("/search", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, message in answer.text) == (status, True), answer.text
    assert client.get("/nowhere").status_code == 404
    assert "no such address" in client.get("/nowhere").text
    assert client.get("/search").status_code == 405
    assert client.get("/health").json() == {"status": "running"}


def test_bodies_that_are_cut_short_and_clients_that_leave(server):
    head = "POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for request in (
        head + "Content-Length: 500\r\n\r\n" + '{"query": ',
        head + "Content-Length: 20\r\n\r\n" + '{"query": "Paris"}  ',
        head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "nonsense\r\n\r\n",
    ):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request.encode())
    assert server.client.post("/search", json={"query": "Paris"}).status_code == 200


def test_four_hundred_at_once_are_each_alone(server, retriever):
    texts = [f"{DOCUMENTS[n % 60].text} {n % 7}" for n in range(400)]
    alone = {
        (n, mode): retriever.search(text, k=5, mode=mode)
        for n, text in enumerate(texts)
        for mode in (("dense", "words", "hybrid")[n % 3],)
    }
    vectors = retriever.encoder.encode_documents(texts)

    async def ask() -> None:
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

            async def one(n: int) -> None:
                mode = ("dense", "words", "hybrid")[n % 3]
                body = {"query": texts[n], "k": 5, "mode": mode}
                answer = await client.post("/search", json=body)
                assert answer.json() == {"hits": expected(alone[n, mode])}
                answer = await client.post("/v1/embeddings", json={"input": texts[n]})
                found = answer.json()["data"][0]["embedding"]
                np.testing.assert_allclose(found, vectors[n], atol=1e-6)

            await asyncio.gather(*(one(n) for n in range(400)))

    asyncio.run(ask())


def test_a_request_that_does_not_come_to_its_end(encoder_folder):
    """It is given up; so are requests that have more bytes together than a service holds."""
    server = Server(encoder_folder, "--timeout", 6)
    head = (
        "POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: {}\r\n\r\n"
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head.format(500).encode() + b'{"query": ')
            assert b" 408 " in connection.recv(1000)
        connections = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(head.format(16 << 20).encode() + b" " * (15 << 20))
            connections.append(connection)
        found = [connection.recv(1000).partition(b"\r\n")[0] for connection in connections]
        assert b"HTTP/1.1 429 Too Many Requests" in found
        for connection in connections:
            connection.close()
        assert server.client.post("/search", json={"query": "Paris"}).status_code == 200
    finally:
        assert server.stop()[0] == 0


def test_metrics_pages_and_description(server):
    server.client.post("/search", json={"query": "Paris"})
    text = server.client.get("/metrics").text
    names = set(re.findall(r"^(\w+?)(?:_created|_total|_bucket|_sum|_count)?[ {]", text, re.M))
    assert names == {
        "hybridret_requests",
        "hybridret_request_seconds",
        "hybridret_batch_texts",
        "hybridret_waiting",
        "hybridret_documents",
        "hybridret_texts_cut",
    }
    assert "hybridret_documents 60.0" in text
    assert re.search(r'hybridret_requests_total\{path="/search",status="200"\} [1-9]', text)
    for path in ("/", "/docs"):
        page = server.client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "http" not in re.sub(r"<title>.*?</title>|HTTP interface", "", page.text)
    assert server.client.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_what_is_described_is_what_is_done(server):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        def holds(case) -> None:
            case.call_and_validate(
                checks=[
                    checks.not_a_server_error,
                    *(
                        check
                        for check in schemathesis.checks.CHECKS.get_all()
                        if check.__name__
                        in (
                            "status_code_conformance",
                            "content_type_conformance",
                            "response_schema_conformance",
                        )
                    ),
                ]
            )

        holds()


def test_without_words_meaning_alone_is_offered(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "available", lambda: False)
    Retriever.create(encoder_folder, store=tmp_path / "store").add(DOCUMENTS[:3])
    server = Server(encoder_folder, "--store", tmp_path / "store")
    try:
        assert server.client.get("/stats").json()["modes"] == ["dense"]
        answer = server.client.post("/search", json={"query": "Paris", "mode": "words"})
        assert answer.status_code == 400
        assert str(tmp_path) not in answer.text
    finally:
        assert server.stop()[0] == 0


def test_keys(encoder_folder, tmp_path, capsys):
    keys = tmp_path / "keys"
    keys.write_text("first-key\n\nsecond-key\n")
    server = Server(encoder_folder, "--key-file", keys)
    try:
        body = {"query": "Paris"}
        for header, status in (
            (None, 401),
            ("Bearer wrong", 401),
            ("Bearer", 401),
            ("Basic first-key", 401),
            ("Bearer first-key", 200),
            ("bearer second-key", 200),
        ):
            headers = {"Authorization": header} if header else {}
            assert server.client.post("/search", json=body, headers=headers).status_code == status
        assert server.client.get("/stats").status_code == 401
        for path in ("/", "/health", "/ready", "/metrics", "/openapi.json"):
            assert server.client.get(path).status_code == 200
    finally:
        status, log = server.stop()
    assert status == 0
    assert "Paris" not in log  # no texts
    assert re.search(r"POST /search 200 [\d.]+ ms", log)
    for options, message in (
        (["--host", "0.0.0.0"], "can be reached by other machines: give --key-file"),
        (["--key-file", str(tmp_path / "none")], "the keys cannot be read"),
        (["--port", str(server.port), "--host", "300.0.0.1"], "300.0.0.1"),
        (["--timeout", "0"], "timeout must be from 1"),
    ):
        assert main(["serve", str(encoder_folder), *options]) == 1
        assert message in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(encoder_folder), "--port", str(port)]) == 1
        assert "cannot listen" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 1
    assert "not an exported encoder" in capsys.readouterr().err


def test_too_much_is_refused_and_the_rest_answered(encoder_folder):
    """More than may wait, all at once: each is answered, rightly or with 429."""
    server = Server(encoder_folder, "--max-waiting", 8, "--threads", 1)
    try:
        texts = ["Paris river " * 200] * 64

        def ask(n: int) -> int:
            return httpx.post(
                f"{server.url}/search", json={"queries": texts, "k": 1}, timeout=60
            ).status_code

        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(ask, range(128)))
        assert set(found) == {200, 429}
        assert httpx.post(f"{server.url}/search", json={"query": "Paris"}).status_code == 200
    finally:
        assert server.stop()[0] == 0


def test_requests_that_have_begun_are_answered_before_it_stops(encoder_folder):
    server = Server(encoder_folder)
    found: list[int] = []

    def ask() -> None:
        texts = ["Paris river " * 300] * 100
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"input": texts}, timeout=60)
        found.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    status, log = server.stop()
    for thread in threads:
        thread.join()
    assert (status, found) == (0, [200] * 4)
    assert "Traceback" not in log


def test_a_change_of_the_encoder_beside_requests(encoder_folder, tmp_path):
    """No request fails while another process changes the encoder."""
    other = TorchEncoder.new_static(TEXTS, dimension=16, vocabulary_size=400, seed=3)
    export(other, tmp_path / "other")
    store = tmp_path / "store"
    Retriever.create(encoder_folder, store=store).add(DOCUMENTS)
    server = Server(encoder_folder, "--store", store)
    stop, wrong = threading.Event(), []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                document = DOCUMENTS[rng.integers(60)]
                answer = client.post("/search", json={"query": document.full_text, "k": 1})
                good = answer.status_code == 200 and answer.json()["hits"][0]["score"] > 0.9999
                if not good:
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for folder, dimension in ((tmp_path / "other", 16), (encoder_folder, 24)):
            command = ["reindex", str(encoder_folder), "--store", str(store), "--encoder"]
            assert main([*command, str(folder)]) == 0
            end = time.monotonic() + 20
            while server.client.get("/stats").json()["dimension"] != dimension:
                assert time.monotonic() < end
                time.sleep(0.02)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert server.stop()[0] == 0
    assert wrong == []


def test_the_example_of_the_readme(encoder_folder, server, tmp_path, monkeypatch):
    """A service of one's own, as README has it."""
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"with FastAPI.*?```python\n(.*?)```", text, re.S)
    (tmp_path / "encoder").symlink_to(encoder_folder)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    with TestClient(names["app"]) as client:
        found = client.get("/search", params={"q": "Paris", "k": 2, "mode": "hybrid"}).json()
        own = server.client.post(
            "/search", json={"query": "Paris", "k": 2, "mode": "hybrid"}
        ).json()
        assert [hit["id"] for hit in found] == [hit["id"] for hit in own["hits"]]
        answer = client.get("/search", params={"q": "Paris", "mode": "bm25"})
        assert (answer.status_code, "mode must be" in answer.text) == (400, True)


def test_a_log_that_nobody_reads(server, encoder_folder):
    """A pipe holds 64 kB: what does not fit is dropped, and nobody waits for it."""
    unread, log = os.pipe()
    with os.fdopen(log, "w") as writer:
        silent = Server(encoder_folder, log=writer)
        for _ in range(2500):  # lines of some 70 bytes
            assert silent.client.get("/stats").status_code == 200
        silent.process.send_signal(signal.SIGTERM)
        assert silent.process.wait(timeout=30) == 0
        silent.client.close()
    with os.fdopen(unread, "rb") as reader:
        assert len(reader.read()) > 60_000
