"""The gateway's own HTTP/1.1 listener: the same ASGI application as under uvicorn, at a fraction of the cost.

What is not exactly one well-framed request is refused and costs the connection; a request's meaning never depends on how
its bytes were cut into segments.
"""
