# One image for every role; the role is the command: corral up | corral service router | python worker.py ...
FROM python:3.12-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 corral && mkdir /data /keys /state /enrolled && chown corral /data /keys /state /enrolled
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /src/dist/*.whl /tmp/
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/*.whl && rm /tmp/*.whl
COPY examples /examples
USER corral
WORKDIR /home/corral
VOLUME /data
ENV CORRAL_DATA_DIR=/data PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["corral", "--help"]
