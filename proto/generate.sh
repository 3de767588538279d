#!/bin/sh
# Generate Python from the .proto files into proto/src; with --check, fail when what is committed differs.
set -eu
cd "$(dirname "$0")"
bin=../.venv/bin
out=src
[ "${1:-}" = "--check" ] && { out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; }
"$bin/python" -m grpc_tools.protoc -I . \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
  microedr/v1/*.proto
# Only transport.proto has a service; the generator writes an empty module for every other.
for stem in event action detection; do rm -f "$out/microedr/v1/${stem}_pb2_grpc.py" "$out/microedr/v1/${stem}_pb2_grpc.pyi"; done
if [ "$out" != src ]; then
  diff -r -x __pycache__ -x __init__.py -x py.typed "$out/microedr/v1" src/microedr/v1 \
    || { echo "generated code differs from the .proto files: run 'make generate'" >&2; exit 1; }
fi
