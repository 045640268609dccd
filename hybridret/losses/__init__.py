"""The contrastive loss: :func:`hybridret.infonce`, :func:`hybridret.infonce_statistics`, kernels.

``functional``: the functions users call; ``_options``: the record of a kernel's arguments;
``_cpu`` and ``_cuda``: calls of the kernels; ``_ops``: the torch ops.
"""
