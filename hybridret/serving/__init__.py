"""Searching in a service: index and retriever, free of torch and transformers."""
