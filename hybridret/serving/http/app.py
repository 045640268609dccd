"""The service as an ASGI application: search, embeddings, documents."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

import fastjsonschema
import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from hybridret._types import Vectors
from hybridret.data.table import Document
from hybridret.errors import (
    DataError,
    HybridretError,
    IndexFileError,
    KnownDocumentError,
    UnknownDocumentError,
)
from hybridret.serving.change import GenerationGone
from hybridret.serving.http.batching import Batcher, Busy
from hybridret.serving.http.schema import SCHEMAS, openapi
from hybridret.serving.index import Hit
from hybridret.serving.inputs import queries_of
from hybridret.serving.retriever import Known, Retriever
from hybridret.serving.words import MODES

log = logging.getLogger("hybridret.service")
_OPEN = {"/", "/health", "/ready", "/metrics", "/openapi.json", "/docs"}  # without a key
_PIECE = 4000  # characters of documents that are embedded between two looks at the queries


@dataclass(frozen=True)
class Limits:
    """What a service takes on.

    Attributes:
        body: bytes of a request.
        bodies: bytes of all requests that are being read or answered; others get 429.
        hits: documents that the queries of a request may ask for together.
        waiting: requests, or pieces of large ones, that may wait; others are answered with 429.
        changes: changes of documents that may wait.
        batch: characters of queries that are embedded together.
        timeout: seconds until a request is answered with 504.
        threads: batches that are computed at the same time.
    """

    body: int = 16 << 20
    bodies: int = 256 << 20
    hits: int = 20_000
    waiting: int = 512
    changes: int = 16
    batch: int = 8000
    timeout: float = 30.0
    threads: int = 2


class Problem(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: one sentence.
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def create_app(
    retriever: Retriever, *, keys: Sequence[str] = (), limits: Limits | None = None
) -> Starlette:
    """The application, for uvicorn or another ASGI server.

    Args:
        keys: one of them has to be sent (``Authorization: Bearer KEY``); empty: none is needed.
    """
    return Service(retriever, keys, limits or Limits()).app


class Service:
    """The application and what it works with."""

    def __init__(self, retriever: Retriever, keys: Sequence[str], limits: Limits) -> None:
        self.retriever = retriever
        self.keys = [key.encode() for key in keys]
        self.limits = limits
        self.ready = False
        self.metrics = _Metrics()
        self._changes = 0  # that wait or run
        self._bytes = 0  # of requests
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="hybridret-changes")
        self._reader = ThreadPoolExecutor(2, thread_name_prefix="hybridret-reads")
        self.batcher = Batcher(
            self._compute, threads=limits.threads, batch=limits.batch, queue=limits.waiting
        )
        self.metrics.waiting.set_function(lambda: self.batcher.waiting)
        self.metrics.cut.set_function(lambda: self.retriever.encoder.cut)
        routes = [
            ("/search", "POST", self.search),
            ("/v1/embeddings", "POST", self.embeddings),
            ("/documents", "POST", self.add),
            ("/documents/delete", "POST", self.delete),
            ("/documents/{document_id:path}", "GET", self.get),
            ("/documents/{document_id:path}", "DELETE", self.delete_one),
            ("/stats", "GET", self.stats),
            ("/health", "GET", self.health),
            ("/ready", "GET", self.readiness),
            ("/metrics", "GET", self.scrape),
            ("/openapi.json", "GET", self.describe),
            ("/docs", "GET", self.reference),
            ("/", "GET", self.page),
        ]
        self.app = Starlette(
            routes=[
                Route(path, self._answering(path, handler), methods=[method])
                for path, method, handler in routes
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._not_routed},
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader, self.retriever.search, "warm-up", 1)
        self.ready = True
        yield
        self.ready = False
        await self.batcher.close()
        self._writer.shutdown()
        self._reader.shutdown()

    # ------------------------------------------------------------------------- requests

    def _answering(
        self, path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler that counts, checks the key, and answers errors."""
        path = path.partition(":path")[0] + ("}" if ":path" in path else "")

        async def answer(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = await self._response(path, handler, request)
            finally:
                self._bytes -= getattr(request.state, "bytes", 0)
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(path, response.status_code).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if path not in _OPEN:
                log.info(
                    "%s %s %d %.1f ms", request.method, path, response.status_code, seconds * 1e3
                )
            return response

        return answer

    async def _response(
        self, path: str, handler: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Response:
        try:
            if path not in _OPEN:
                self._check_key(request)
            async with asyncio.timeout(self.limits.timeout):
                return await handler(request)
        except Problem as problem:
            return _error(problem.status, str(problem), problem.headers)
        except Busy:
            return _error(429, "too much is waiting: try again later", {"Retry-After": "1"})
        except TimeoutError:
            return _error(504, f"it took longer than {self.limits.timeout:g} s")
        except ClientDisconnect:
            return _error(400, "the request was cut short")
        except KnownDocumentError as error:
            return _error(409, str(error))
        except UnknownDocumentError as error:
            return _error(404, str(error))
        except DataError as error:
            return _error(400, str(error))
        except IndexFileError as error:
            log.error("%s", error)
            return _error(503, _without_paths(str(error)), {"Retry-After": "1"})
        except HybridretError as error:
            log.error("%s", error)
            return _error(500, _without_paths(str(error)))
        except Exception:
            log.exception("%s %s", request.method, path)
            return _error(500, "a mistake of the service, which its log describes")

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path}"
        messages = {404: f"no such address: {what}", 405: f"no such method: {what}"}
        message = messages.get(error.status_code, str(error.detail))
        return _error(error.status_code, message, dict(error.headers or {}))

    def _check_key(self, request: Request) -> None:
        if not self.keys:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode() if kind.lower() == "bearer" else b""
        # All are compared, in the same time whatever is given.
        matches = [hmac.compare_digest(given, known) for known in self.keys]
        if not any(matches):
            what = "a wrong key" if given else "no key: send 'Authorization: Bearer KEY'"
            raise Problem(401, what, **{"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request, schema: str) -> Any:
        """The checked JSON of a request."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, f"the content type must be application/json, got {kind or 'none'!r}")
        most, body = self.limits.body, bytearray()
        too_large = Problem(413, f"the request has more than {most:,} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_large
        request.state.bytes = 0
        try:
            async with asyncio.timeout(self.limits.timeout / 2):
                async for chunk in request.stream():
                    body += chunk
                    self._bytes += len(chunk)
                    request.state.bytes += len(chunk)
                    if len(body) > most:
                        raise too_large
                    if self._bytes > self.limits.bodies:
                        raise Busy
        except TimeoutError:
            seconds = self.limits.timeout / 2
            raise Problem(408, f"the request did not come to its end in {seconds:g} s") from None
        try:
            value = json.loads(bytes(body).decode(), parse_constant=_no_constant)
        except RecursionError:
            raise Problem(400, "the JSON is nested too deeply") from None
        except ValueError as error:
            raise Problem(400, f"not JSON in UTF-8: {error}") from None
        try:
            _validators()[schema](value)
        except fastjsonschema.JsonSchemaValueException as error:
            raise Problem(400, _sentence(error)) from None
        except RecursionError:
            raise Problem(400, "the JSON is nested too deeply") from None
        return value

    # -------------------------------------------------------------------------- endpoints

    async def search(self, request: Request) -> Response:
        asked = await self._body(request, "SearchRequest")
        texts, single = queries_of(asked.get("queries") or asked["query"])
        if len(texts) * asked.get("k", 10) > self.limits.hits:
            raise Problem(400, f"queries times k must be at most {self.limits.hits:,}")
        mode = asked.get("mode", "dense")
        options = {
            "k": asked.get("k", 10),
            "languages": asked.get("languages"),
            "where": asked.get("where"),
        }
        found: list[list[Hit]] = await self.batcher.submit(
            _Search(texts, mode, options),
            size=sum(map(len, texts)),
            urgent=True,
            timeout=self.limits.timeout,
        )
        results = [{"hits": [_hit(hit) for hit in hits]} for hits in found]
        return JSONResponse(results[0] if single else {"results": results})

    async def embeddings(self, request: Request) -> Response:
        asked = await self._body(request, "EmbeddingRequest")
        texts, _ = queries_of(asked["input"])
        encoder, _ = self.retriever.current()
        size = asked.get("dimensions", encoder.dimension)
        if size > encoder.dimension:
            raise Problem(400, f"dimensions is {size}, but vectors have {encoder.dimension}")
        query = asked.get("input_type", "document") == "query"
        found = []
        for piece in _pieces(texts):  # one after the other: others have their turn in between
            result = await self.batcher.submit(
                _Texts(encoder, piece, query),
                size=sum(map(len, piece)),
                urgent=query and len(texts) < 16,
                timeout=self.limits.timeout,
            )
            found.append(result)
        vectors = np.concatenate([vectors for vectors, _ in found])
        tokens = sum(count for _, count in found)
        if size < encoder.dimension:
            vectors = vectors[:, :size]
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        as_text = asked.get("encoding_format", "float") == "base64"
        data = [
            {
                "object": "embedding",
                "index": n,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if as_text
                else vector.tolist(),
            }
            for n, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        model = asked.get("model", "")
        return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})

    async def add(self, request: Request) -> Response:
        asked = await self._body(request, "DocumentsRequest")
        documents = [
            Document(
                d["id"],
                d["text"],
                d.get("language", ""),
                d.get("group", ""),
                d.get("title", ""),
                metadata=d.get("metadata"),
            )
            for d in asked["documents"]
        ]
        replacing = asked.get("upsert", False)

        def add() -> dict[str, int]:
            before = len(self.retriever)
            known: Known = "replace" if replacing else "refuse"
            added = self.retriever.add(documents, known=known, batch_size=8)
            new = len(self.retriever) - before
            return {"added": added, "replaced": max(0, added - new) if replacing else 0}

        return JSONResponse(await self._change(add))

    async def delete(self, request: Request) -> Response:
        ids = (await self._body(request, "DeleteRequest"))["ids"]
        await self._change(partial(self.retriever.delete, ids))
        return JSONResponse({"deleted": len(set(ids))})

    async def delete_one(self, request: Request) -> Response:
        await self._change(partial(self.retriever.delete, [request.path_params["document_id"]]))
        return JSONResponse({"deleted": 1})

    async def get(self, request: Request) -> Response:
        document_id = request.path_params["document_id"]
        document = await self._read(partial(self.retriever.get, document_id))
        if document is None:
            raise Problem(404, f"no document {document_id!r} in the index")
        return JSONResponse(
            {
                "id": document.document_id,
                "text": document.text,
                "language": document.language,
                "title": document.title,
                "group": document.group_id,
                "metadata": document.metadata,
            }
        )

    async def stats(self, _: Request) -> Response:
        def found() -> dict[str, Any]:
            _, index = self.retriever.current()
            stats = index.stats()
            return {
                "documents": stats["documents"],
                "languages": stats["languages"],
                "fields": stats["fields"],
                "modes": list(MODES) if index.has_words else ["dense"],
                "dimension": stats["dimension"],
                "encoder": stats["encoder"],
            }

        return JSONResponse(await self._read(found))

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "running"})

    async def readiness(self, _: Request) -> Response:
        if not self.ready:
            raise Problem(503, "the service is starting or stopping")
        return JSONResponse({"status": "ready"})

    async def scrape(self, _: Request) -> Response:
        self.metrics.documents.set(await self._read(partial(len, self.retriever)))
        text = generate_latest(self.metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def describe(self, _: Request) -> Response:
        return JSONResponse(openapi(keys=bool(self.keys)))

    async def page(self, _: Request) -> Response:
        return HTMLResponse(_page("search.html"))

    async def reference(self, _: Request) -> Response:
        return HTMLResponse(_page("reference.html"))

    # --------------------------------------------------------------------------- the work

    async def _read(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._reader, call)

    async def _change(self, call: Callable[[], Any]) -> Any:
        """One change after the other. Once it has begun it is brought to its end, whoever waits."""
        if self._changes >= self.limits.changes:
            raise Busy
        self._changes += 1
        running = asyncio.get_running_loop().run_in_executor(self._writer, call)
        running.add_done_callback(self._changed)
        return await asyncio.shield(running)

    def _changed(self, running: asyncio.Future[Any]) -> None:
        self._changes -= 1
        if not running.cancelled():
            running.exception()  # it was reported, or nobody waits for it any more

    def _compute(self, batch: Sequence[Any]) -> list[Any]:
        """Results of searches and texts to embed, in a thread."""
        searches = [work for work in batch if isinstance(work, _Search)]
        texts = [work for work in batch if isinstance(work, _Texts)]
        self.metrics.batch.observe(sum(len(work.texts) for work in batch))
        found: dict[int, Any] = {}
        if searches:
            for work, result in zip(searches, self._search(searches), strict=True):
                found[id(work)] = result
        for some in texts:
            try:
                found[id(some)] = some.embed()
            except Exception as error:
                found[id(some)] = error
        return [found[id(work)] for work in batch]

    def _search(self, searches: Sequence[_Search]) -> list[Any]:
        """Hits of each search, or an exception; the queries are embedded together."""
        encoder, index = self.retriever.current()
        texts = [t for s in searches if s.mode != "words" for t in s.texts]
        vectors: Vectors | None = encoder.encode_queries(texts) if texts else None
        results: list[Any] = []
        start = 0
        for search in searches:
            own = None
            if search.mode != "words" and vectors is not None:
                own = vectors[start : start + len(search.texts)]
                start += len(search.texts)
            try:
                results.append(
                    index.search(
                        own,
                        words=None if search.mode == "dense" else search.texts,
                        **search.options,
                    )
                )
            except GenerationGone:  # the encoder was dropped meanwhile
                try:
                    results.append(
                        self.retriever.search(search.texts, mode=search.mode, **search.options)
                    )
                except Exception as error:
                    results.append(error)
            except Exception as error:
                results.append(error)
        return results


@dataclass(eq=False)
class _Search:
    texts: list[str]
    mode: Any
    options: dict[str, Any]


@dataclass(eq=False)
class _Texts:
    encoder: Any
    texts: list[str]
    query: bool

    def embed(self) -> tuple[Vectors, int]:
        """Vectors, and how many tokens the texts have."""
        encode = self.encoder.encode_queries if self.query else self.encoder.encode_documents
        tokens = sum(map(len, self.encoder.tokenizer.ids(self.texts)))
        return encode(self.texts), tokens


class _Metrics:
    """For Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "hybridret_requests", "Requests.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "hybridret_request_seconds",
            "Time to the answer.",
            ["path"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.batch = Histogram(
            "hybridret_batch_texts",
            "Texts that are computed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.waiting = Gauge("hybridret_waiting", "Pieces of work that wait.", registry=registry)
        self.documents = Gauge("hybridret_documents", "Documents.", registry=registry)
        self.cut = Gauge(
            "hybridret_texts_cut",
            "Texts that were longer than the encoder reads.",
            registry=registry,
        )


def _pieces(texts: Sequence[str]) -> list[list[str]]:
    """Texts in groups of some thousand characters."""
    pieces: list[list[str]] = []
    size = 0
    for text in texts:
        if not pieces or size + len(text) > _PIECE:
            pieces.append([])
            size = 0
        pieces[-1].append(text)
        size += len(text)
    return pieces


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.document_id,
        "text": hit.text,
        "language": hit.language,
        "score": hit.score,
        "title": hit.title,
        "metadata": hit.metadata,
    }


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "service_error"
    return JSONResponse({"error": {"message": message, "type": kind}}, status, headers)


def _without_paths(message: str) -> str:
    """A message that does not tell where files are."""
    return re.sub(r"(?<!\w)/[^\s:,;']+", "the index", message)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


@cache
def _validators() -> dict[str, Callable[[Any], Any]]:
    found = {}
    for name, schema in SCHEMAS.items():
        whole = {**schema, "components": {"schemas": SCHEMAS}}
        found[name] = fastjsonschema.compile(whole, use_default=False)
    return found


def _sentence(error: fastjsonschema.JsonSchemaValueException) -> str:
    """One sentence about where the value is and what is wrong with it."""
    where = str(error.name).removeprefix("data").removeprefix(".") or "the request"
    message = error.message.partition(" ")[2]
    value = json.dumps(error.value, ensure_ascii=False)
    if error.rule == "pattern":
        message = "must not be empty"
    if error.rule in ("anyOf", "oneOf"):
        message = {
            "input": "must be a text or a list of texts that are not empty (token numbers are not "
            "taken)",
            "the request": "must have either query or queries",
        }.get(where, "has the wrong type")
    return f"{where} {message}, got {value:.60}" if len(value) <= 60 else f"{where} {message}"


@cache
def _page(name: str) -> str:
    return (files("hybridret.serving.http") / name).read_text(encoding="utf-8")
