"""What the service takes and gives, as JSON Schema: requests are checked by it, and it is the
OpenAPI description at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from hybridret import _native
from hybridret.serving.words import MODES

MOST_TEXTS = 2048
"""Texts, queries or documents in a request."""
MOST_CHARACTERS = 1_000_000
"""Characters of a text."""
MOST_HITS = 1000
"""Documents that a query may ask for."""

Schema = dict[str, Any]


def _object(required: list[str], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _text(what: str) -> Schema:
    return {
        "type": "string",
        "minLength": 1,
        "maxLength": MOST_CHARACTERS,
        "pattern": r"\S",
        "description": what,
    }


def _list(items: Schema, most: int = MOST_TEXTS, least: int = 1) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_ID = {"type": "string", "minLength": 1, "maxLength": 1024, "description": "of a document"}
_WORD = {"type": "string", "maxLength": 1024}
_METADATA = _nullable({"type": "object", "description": "what else is known of it"})
_QUERY = _text("in any language that the encoder knows")

SCHEMAS: dict[str, Schema] = {
    "EmbeddingRequest": {
        "type": "object",
        "properties": {
            "input": {"anyOf": [_text("a text"), _list(_text("a text"))]},
            "model": {"type": "string", "description": "any; it is given back"},
            "encoding_format": {"enum": ["float", "base64"], "default": "float"},
            "dimensions": {
                "type": "integer",
                "minimum": 1,
                "description": "the first ones of each vector, normalised again; all by default",
            },
            "input_type": {
                "enum": ["query", "document"],
                "default": "document",
                "description": "which of the encoder's prompts is put before the texts",
            },
            "user": {"type": "string"},
        },
        "required": ["input"],
    },
    "Embeddings": _object(
        ["object", "data", "model", "usage"],
        object={"const": "list"},
        data=_list(
            _object(
                ["object", "index", "embedding"],
                object={"const": "embedding"},
                index={"type": "integer"},
                embedding={
                    "anyOf": [
                        {"type": "array", "items": {"type": "number"}},
                        {"type": "string", "description": "base64 of float32, little-endian"},
                    ]
                },
            )
        ),
        model={"type": "string"},
        usage=_object(
            ["prompt_tokens", "total_tokens"],
            prompt_tokens={"type": "integer"},
            total_tokens={"type": "integer"},
        ),
    ),
    "SearchRequest": _object(
        [],
        query=_QUERY,
        queries=_list(_QUERY),
        k={"type": "integer", "minimum": 1, "maximum": MOST_HITS, "default": 10},
        languages=_nullable(_list(_WORD, 200)),
        where=_nullable(
            {
                "type": "object",
                "description": 'conditions on metadata, such as {"year": {"gte": 2024}}',
            }
        ),
        mode={"enum": list(MODES), "default": "dense"},
    )
    | {"oneOf": [{"required": ["query"]}, {"required": ["queries"]}]},
    "Hit": _object(
        ["id", "text", "language", "score", "title", "metadata"],
        id={"type": "string"},
        text={"type": "string"},
        language={"type": "string"},
        score={"type": "number"},
        title={"type": "string"},
        metadata=_METADATA,
    ),
    "Hits": _object(["hits"], hits=_list({"$ref": "#/components/schemas/Hit"}, MOST_HITS, 0)),
    "SearchResponse": {
        "anyOf": [
            {"$ref": "#/components/schemas/Hits"},
            _object(["results"], results=_list({"$ref": "#/components/schemas/Hits"})),
        ]
    },
    "Document": _object(
        ["id", "text"],
        id=_ID,
        text=_text("what is searched"),
        language={**_WORD, "description": "a tag such as de or zh-CN"},
        title={"type": "string", "maxLength": MOST_CHARACTERS},
        group={**_WORD, "description": "shared by translations"},
        metadata=_METADATA,
    ),
    "DocumentsRequest": _object(
        ["documents"],
        documents=_list({"$ref": "#/components/schemas/Document"}),
        upsert={
            "type": "boolean",
            "default": False,
            "description": "replace documents that are there; else they are refused",
        },
    ),
    "Added": _object(
        ["added", "replaced"], added={"type": "integer"}, replaced={"type": "integer"}
    ),
    "DeleteRequest": _object(["ids"], ids=_list(_ID)),
    "Deleted": _object(["deleted"], deleted={"type": "integer"}),
    "Stats": {
        "type": "object",
        "properties": {
            "documents": {"type": "integer"},
            "languages": {"type": "object", "additionalProperties": {"type": "integer"}},
            "fields": {"type": "array", "items": {"type": "string"}},
            "modes": {"type": "array", "items": {"enum": list(MODES)}},
            "dimension": {"type": "integer"},
            "encoder": {"type": "string"},
        },
        "required": ["documents", "languages", "fields", "modes", "dimension", "encoder"],
    },
    "Status": _object(["status"], status={"type": "string"}),
    "Error": _object(
        ["error"],
        error=_object(["message", "type"], message={"type": "string"}, type={"type": "string"}),
    ),
}

_ERRORS = {
    400: "the request is not valid",
    401: "no key, or a wrong one",
    404: "no such document",
    408: "the request did not come to an end",
    409: "a document with the id is there",
    413: "the request is too large",
    415: "not JSON",
    429: "too much is waiting: try again later",
    500: "a mistake of the service",
    503: "the index cannot be used or changed now",
    504: "it took too long",
}


def _answer(name: str, what: str) -> Schema:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _operation(
    summary: str, gives: str, takes: str | None = None, *, errors: tuple[int, ...] = (), **more: Any
) -> Schema:
    common = (401, 429, 500, 503, 504) if errors else ()
    found: Schema = {
        "summary": summary,
        "responses": {
            "200": _answer(gives, "done"),
            **{str(n): _answer("Error", _ERRORS[n]) for n in sorted({*errors, *common})},
        },
        **more,
    }
    if takes:
        schema = {"$ref": f"#/components/schemas/{takes}"}
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        for n in (400, 408, 413, 415):
            found["responses"][str(n)] = _answer("Error", _ERRORS[n])
    return found


def openapi(*, keys: bool) -> Schema:
    """The OpenAPI 3.1 description.

    Args:
        keys: whether requests need a key.
    """
    one = [
        {
            "name": "document_id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
    ]
    paths = {
        "/search": {
            "post": _operation(
                "Search", "SearchResponse", "SearchRequest", errors=(400,), operationId="search"
            )
        },
        "/v1/embeddings": {
            "post": _operation(
                "Embed texts, in OpenAI's form", "Embeddings", "EmbeddingRequest", errors=(400,)
            )
        },
        "/documents": {
            "post": _operation(
                "Add or replace documents", "Added", "DocumentsRequest", errors=(400, 409)
            )
        },
        "/documents/delete": {
            "post": _operation("Delete documents", "Deleted", "DeleteRequest", errors=(400, 404))
        },
        "/documents/{document_id}": {
            "get": _operation("A document", "Document", errors=(400, 404), parameters=one),
            "delete": _operation("Delete a document", "Deleted", errors=(400, 404), parameters=one),
        },
        "/stats": {"get": _operation("What is in the index", "Stats", errors=(400,))},
        "/health": {"get": _operation("Whether the process runs", "Status")},
        "/ready": {"get": _operation("Whether it can answer", "Status", errors=(503,))},
    }
    found: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "hybridret", "version": _native.__version__},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found
