"""Text to vectors: encoders that serve queries without torch, and the torch models behind them.

Free of torch: ``base``, ``tokenization``, ``onnx``, ``manifest``, ``loading``. With torch:
``model``, ``model_folder``, ``torch_encoder``, ``exporting``.
"""
