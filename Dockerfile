# Two stages: the first installs what is locked, by hash, and is thrown away with its tools and caches; the second holds the result.
# A test carries out these steps and starts what comes of them.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements requirements
RUN python -m venv /build && /build/bin/python -m pip install --require-hashes -r requirements/bootstrap.lock
RUN python -m venv --without-pip /opt/bailiwick
RUN /build/bin/uv pip install --compile-bytecode --python /opt/bailiwick/bin/python --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY policies policies
COPY audit audit
COPY sandbox sandbox
COPY examples/procurement examples/procurement
RUN /build/bin/uv build --wheel --no-build-isolation --python /build/bin/python --out-dir /wheels
RUN /build/bin/uv pip install --compile-bytecode --python /opt/bailiwick/bin/python --no-deps --no-index --find-links /wheels bailiwick

FROM python:3.11-slim-bookworm
COPY --from=build /opt/bailiwick /opt/bailiwick
# The folder of settings and policies is mounted read-only, the data folder is the only place that is written.
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/bailiwick
WORKDIR /etc/bailiwick
USER 10001:10001
ENV PATH=/opt/bailiwick/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 BAILIWICK_DATA=/var/lib/bailiwick
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["bailiwick", "check", "--live", "http://127.0.0.1:8080"]
ENTRYPOINT ["bailiwick"]
CMD ["serve", "--config", "/etc/bailiwick/bailiwick.yaml"]
