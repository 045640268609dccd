"""The contrastive loss: :func:`hybridret.infonce`, its parts, and the kernels behind it.

``functional`` is what users call, ``_options`` the one record of what a kernel is given, ``_cpu``
and ``_cuda`` the kernels, ``_ops`` how torch sees them.
"""
