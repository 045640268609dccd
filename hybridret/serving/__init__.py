"""Search in a service: index and retriever, without torch and transformers."""
