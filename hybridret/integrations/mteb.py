"""mteb: the search of an exported encoder, as it is served, on mteb's retrieval tasks.

>>> model = MtebSearch("encoder", mode="hybrid")  # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridret._extras import require
from hybridret.data.table import Document
from hybridret.errors import DataError
from hybridret.serving.retriever import Retriever
from hybridret.serving.words import Mode


class MtebSearch:
    """An exported encoder with a store of the task's corpus (mteb's ``SearchProtocol``).

    Args:
        folder: of the exported encoder.
        mode, exact: of :meth:`hybridret.Retriever.search`.
        name: in mteb's results, ``organisation/model``.

    Raises:
        ModelError: the folder is not an exported encoder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        mode: Mode = "dense",
        exact: bool = False,
        name: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.mode = mode
        self.exact = exact
        self.name = name or f"hybridret/{self.folder.resolve().name}"
        self._store: tempfile.TemporaryDirectory[str] | None = None
        self._retriever: Retriever | None = None

    @property
    def mteb_model_meta(self) -> Any:
        mteb = require("mteb.models.model_meta", "mteb", "the mteb wrapper")
        return mteb.ModelMeta.create_empty(overwrites={"name": self.name, "revision": self.mode})

    def index(self, corpus: Any, **_: Any) -> None:
        """Embeds a corpus: rows with ``id``, ``text``, ``title``. Empty ones are passed over: they
        are never found."""
        self._store = tempfile.TemporaryDirectory(prefix="hybridret-mteb-")
        self._retriever = Retriever.create(self.folder, store=Path(self._store.name) / "store")
        self._retriever.add(_documents(corpus))
        self._retriever.index.link()

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Scores of the ``top_k`` best documents by query id.

        Args:
            queries: rows with ``id`` and ``text``.
            top_ranked: for each query the ids of the documents to rank, if not all.

        Raises:
            DataError: nothing was indexed.
        """
        if self._retriever is None:
            raise DataError("index a corpus before searching it")
        found: dict[str, dict[str, float]] = {}
        for query in queries:
            name, text = str(query["id"]), _text(query["text"])
            options: dict[str, Any] = {"mode": self.mode, "exact": self.exact}
            if top_ranked is not None:
                wanted = [str(document) for document in top_ranked[name]]
                options["where"] = {"id": {"in": wanted}}
            hits = self._retriever.search(text, top_k, **options) if text.strip() else []
            found[name] = {hit.document_id: hit.score for hit in hits}
        return found


def _documents(corpus: Any) -> Iterator[Document]:
    for row in corpus:
        name, text = str(row["id"]), _text(row["text"])
        title = _text(row.get("title") or "")
        if f"{title}{text}".strip():
            yield Document(name, text, title=title, metadata={"id": name})


def _text(value: Any) -> str:
    """A text without what a store refuses."""
    return str(value).replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
