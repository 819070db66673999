# The demo in a container, without a GPU: docker build -t selfalign . && docker run --rm -v "$PWD/runs:/selfalign/runs" selfalign
# Any other command: docker run --rm -it selfalign .venv/bin/selfalign check isara in_scope --model smollm2-135m
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /selfalign
# What is installed changes seldom: a change of the code alone does not install it again.
COPY Makefile pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir -p src/selfalign && touch src/selfalign/__init__.py && make install
COPY . .
CMD ["make", "demo"]
