#!/usr/bin/env bash
# benchmarks.gpu on a machine with a card, PyTorch and nothing to download from: `bash benchmarks/gpu_job.sh [options]`
# in the repository's root. Takes wheels of what that machine lacks and ComfyUI's source (host.tar.gz) from .gpu/, which
# README.md beside this says how to fill; results go to $OUT.
set -uo pipefail
out=${OUT:-gpu-out}
site=$(mktemp -d)
mkdir -p "$out"
export PYTHONPATH=$site PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if compgen -G '.gpu/*.whl' >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/*.whl || exit
fi
if [ -f .gpu/host.tar.gz ]; then
  host=$(mktemp -d)
  mkdir "$host/page"
  python3 -m tarfile -e .gpu/host.tar.gz "$host/ComfyUI" || exit
  # ComfyUI is started without PYTHONPATH, and its page, a large package, is not needed
  printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$site" >"$host/python"
  chmod +x "$host/python"
  export COMFYUI_PATH=$host/ComfyUI COMFYUI_PYTHON=$host/python COMFYUI_FRONTEND=$host/page
  # PyAV is too large to carry. ComfyUI imports it for video alone: there is none here, so names without content do
  if ! python3 -c 'import av' 2>/dev/null; then
    mkdir "$site/av"
    cat >"$site/av/__init__.py" <<'END'
import importlib.abc
import importlib.machinery
import sys
import types


class Name(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Name(name, (), {})


class Absent(types.ModuleType):
    def __getattr__(self, name):
        return getattr(Name(self.__name__, (), {}), name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("av.") else None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())
sys.modules[__name__].__class__ = Absent
END
  fi
fi
python3 -m benchmarks.gpu --out "$out/card.json" "$@" 2>"$out/log.txt"
status=$?
tail -n 5 "$out/log.txt" >&2
exit $status
