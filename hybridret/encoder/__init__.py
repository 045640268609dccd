"""Encoders, text to vectors: exported ones that run without torch, and torch models for training.

Without torch: ``base``, ``tokenization``, ``onnx``, ``manifest``, ``loading``. With torch:
``model``, ``model_folder``, ``weights``, ``torch_encoder``, ``exporting``.
"""
