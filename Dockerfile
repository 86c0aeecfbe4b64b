# rekd-hloc on a CPU: docker build -t rekd-hloc . ; then, with photos in ./photos,
# docker run --rm -v "$PWD:/data" rekd-hloc reconstruct photos out --page
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir -c /src/constraints.txt "/src[heif]" \
 && rm -rf /src
WORKDIR /data
ENTRYPOINT ["rekd-hloc"]
CMD ["--help"]
