# docker build -t soilcarbon . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" soilcarbon map --help
# PyTorch's CPU build; for a GPU leave out the first pip line and run with --gpus all.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends libexpat1 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/soilcarbon
COPY requirements.txt .
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps . && useradd --create-home user
USER user
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["soilcarbon"]
CMD ["--help"]
