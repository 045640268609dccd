"""The retriever in other libraries: :mod:`.langchain`, :mod:`.mteb`."""
