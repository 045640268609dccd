"""The HTTP service: ``hybridret serve``, or :func:`hybridret.serving.http.app.create_app`."""
