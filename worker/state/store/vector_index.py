"""Search by meaning: which texts of an item are embedded, and how near their embeddings are to that of a query."""

import asyncio
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp, get_text_at_path, tokenize_path
from numpy.typing import NDArray

from langgraph_rq.shared.errors import LanggraphRqError

_DIMS = struct.Struct("<I")

Vector = NDArray[np.float32]


class VectorsError(LanggraphRqError):
    """Embeddings do not fit `store.index` of langgraph.json."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """What `store.index` says.

    Args:
        dims: Length of each embedding.
        embeddings: Makes them.
        fields: Paths of what is embedded where a put does not say; each text that they find gets an embedding.
    """

    dims: int
    embeddings: Embeddings
    fields: Sequence[str] = ("$",)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    """The one that the embeddings' async client belongs to; elsewhere the sync one is called, in a thread."""

    def texts(self, op: PutOp) -> list[str]:
        """Return the texts of an item that are embedded; none of a deletion."""
        if op.value is None or op.index is False:
            return []
        paths = self.fields if op.index is None else op.index
        return [text for path in paths for text in get_text_at_path(dict(op.value), _tokens(path))]

    async def embed(self, texts: Iterable[str]) -> dict[str, Vector]:
        """Embed texts in one call, each once; embeddings are divided by their lengths.

        Raises:
            VectorsError: an embedding is not of the length `dims`.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        if self._is_at_home:
            made = await self.embeddings.aembed_documents(distinct)
        else:
            made = await asyncio.to_thread(self.embeddings.embed_documents, distinct)
        if len(made) != len(distinct):
            raise VectorsError(f"store.index.embed: expected {len(distinct)} embeddings, got: {len(made)}")
        return {text: self._vector(vector) for text, vector in zip(distinct, made, strict=True)}

    async def embed_query(self, query: str) -> Vector:
        """Embed the query of a search."""
        if self._is_at_home:
            made = await self.embeddings.aembed_query(query)
        else:
            made = await asyncio.to_thread(self.embeddings.embed_query, query)
        return self._vector(made)

    @property
    def _is_at_home(self) -> bool:
        return asyncio.get_running_loop() is self.loop

    def pack(self, vectors: Sequence[Vector]) -> bytes:
        """Write embeddings: the number of their dimensions, then 32-bit floats."""
        return _DIMS.pack(self.dims) + b"".join(vector.astype("<f4").tobytes() for vector in vectors)

    def score(self, packed: Sequence[bytes], query: Vector) -> list[float]:
        """Return the cosine of the nearest embedding of each item to the query.

        Raises:
            VectorsError: the embeddings of an item are of another length.
        """
        matrices = [self._unpack(one) for one in packed]
        starts = np.cumsum([0, *(len(matrix) for matrix in matrices[:-1])])
        # By einsum, as BLAS would start threads, which cost more than they save.
        cosines = np.clip(np.einsum("ij,j->i", np.concatenate(matrices), query), -1.0, 1.0)
        return [float(best) for best in np.maximum.reduceat(cosines, starts)]

    def wrong_dims(self, dims: int) -> VectorsError:
        """Return the error of an item with embeddings of this length, which is not that of the index."""
        return VectorsError(
            f"store.index.dims: expected embeddings of {self.dims} numbers, got an item with {dims}: put the items "
            "again that were embedded with another model"
        )

    def _unpack(self, packed: bytes) -> Vector:
        dims = _DIMS.unpack_from(packed)[0] if len(packed) >= _DIMS.size else 0
        if dims != self.dims or len(packed) <= _DIMS.size or (len(packed) - _DIMS.size) % (4 * dims):
            raise self.wrong_dims(dims)
        return np.frombuffer(packed, dtype="<f4", offset=_DIMS.size).reshape(-1, dims)

    def _vector(self, numbers: Sequence[float]) -> Vector:
        vector = np.asarray(numbers, dtype=np.float32)
        if vector.shape != (self.dims,):
            got = " x ".join(map(str, vector.shape))
            raise VectorsError(f"store.index.dims: expected embeddings of {self.dims} numbers, got: {got}")
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length):
            raise VectorsError("store.index.embed: expected embeddings of finite numbers, got: infinity or NaN")
        return vector / np.float32(length) if length else vector  # the cosine of one without length is 0


def _tokens(path: str) -> Any:
    return path if path == "$" else tokenize_path(path)
