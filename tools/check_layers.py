#!/usr/bin/env python3
"""Fails when a folder of src/ includes a folder that its df_module does not declare.

Reads the DEPS of every CMakeLists.txt under src/ and every #include "..." of the sources, so that
the picture of the layers in docs/architecture.md stays true. Also refuses cycles and CUDA headers
outside compute/cuda. An include of a header that a DEPS entry does not cover may be allowed by
name in ALLOWED_HEADERS (one header, not its folder). Tests and benches (*_test.cpp, *_bench.cpp,
*_testing.h) may also include what their folder names in TEST_DEPS.
"""
import re
import sys
import tempfile
from pathlib import Path

SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.M)
TEST_FILE = re.compile(r"_(test\.(cpp|cu)|bench\.(cpp|cu)|testing\.h)$")
MODULE = re.compile(r"df_module\((.*?)\)", re.S)
# Only this header of runtime/engine is visible above it (design: server and coordinator).
ALLOWED_HEADERS = {"server": {"runtime/engine/inference_service.h"}}
CUDA_HEADER = re.compile(r"^(cuda|cublas|nccl|nvrtc|cupti|cutlass|cute/)")


def read_modules(src):
    """Returns {folder: (name, [names of DEPS and CUDA_DEPS], [names of TEST_DEPS])} from every CMakeLists.txt below src."""
    modules = {}
    for cmake in sorted(src.rglob("CMakeLists.txt")):
        text = re.sub(r"#.*", "", cmake.read_text())
        for body in MODULE.findall(text):
            words = body.split()
            fields, key = {}, None
            for word in words:
                if word in ("NAME", "SRCS", "DEPS", "CUDA_DEPS", "TEST_DEPS", "LIBS", "LOCAL_MEMORY"):
                    key = word
                    fields[key] = []
                elif key:
                    fields[key].append(word)
            folder = cmake.parent.relative_to(src).as_posix()
            modules[folder] = (fields["NAME"][0], fields.get("DEPS", []) + fields.get("CUDA_DEPS", []),
                               fields.get("TEST_DEPS", []))
    return modules


def find_cycle(edges):
    """Returns one cycle of the graph {node: [nodes]} as a list, or None."""
    state, stack = {}, []

    def visit(node):
        state[node] = 1
        stack.append(node)
        for target in edges.get(node, []):
            if state.get(target) == 1:
                return stack[stack.index(target):] + [target]
            if target not in state:
                cycle = visit(target)
                if cycle:
                    return cycle
        stack.pop()
        state[node] = 2
        return None

    for node in edges:
        if node not in state:
            cycle = visit(node)
            if cycle:
                return cycle
    return None


def check(src):
    modules = read_modules(src)
    by_name = {name: folder for folder, (name, _, _) in modules.items()}
    problems = []
    edges, test_edges = {}, {}
    for folder, (name, deps, test_deps) in modules.items():
        for dep in deps + test_deps:
            if dep not in by_name:
                problems.append(f"{folder}/CMakeLists.txt: unknown module '{dep}' in DEPS")
        edges[folder] = [by_name[d] for d in deps if d in by_name]
        test_edges[folder] = [by_name[d] for d in test_deps if d in by_name]
    cycle = find_cycle(edges)
    if cycle:
        problems.append("modules form a cycle: " + " -> ".join(cycle))

    def folder_of(path):
        while path != "." and path not in modules:
            path = str(Path(path).parent)
        return path if path in modules else None

    for path in sorted(p for p in src.rglob("*") if p.suffix in SOURCE_SUFFIXES):
        relative = path.relative_to(src)
        folder = folder_of(relative.parent.as_posix())
        if folder is None:
            problems.append(f"{relative}: lies in a folder without a df_module")
            continue
        for bracket, header in INCLUDE.findall(path.read_text()):
            if CUDA_HEADER.match(header) and not folder.startswith("compute/cuda"):
                problems.append(f"{relative}: CUDA header <{header}> outside compute/cuda")
            if bracket == "<":
                continue
            if not (src / header).is_file():
                problems.append(f'{relative}: #include "{header}" is not a path below src/')
                continue
            target = folder_of(Path(header).parent.as_posix())
            allowed = {folder, "base", *edges[folder]}
            if TEST_FILE.search(path.name):
                allowed.update(test_edges[folder])
            if target not in allowed and header not in ALLOWED_HEADERS.get(folder, set()):
                problems.append(
                    f'{relative}: includes "{header}", but {folder} does not declare {target}')
    return problems


def self_test():
    """The check must fail on a bad edge, a cycle, an undeclared folder and a CUDA header."""
    def tree(files):
        root = Path(tempfile.mkdtemp())
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return check(root)

    base = {"base/CMakeLists.txt": "df_module(NAME base SRCS a.cpp)", "base/a.h": ""}
    good = {**base, "text/CMakeLists.txt": "df_module(NAME text DEPS base)",
            "text/t.h": '#include "base/a.h"\n#include <vector>\n'}
    assert tree(good) == [], tree(good)
    upward = {**good, "base/b.h": '#include "text/t.h"\n'}
    assert any("does not declare text" in p for p in tree(upward))
    cycle = {**good, "base/CMakeLists.txt": "df_module(NAME base SRCS a.cpp DEPS text)"}
    assert any("cycle" in p for p in tree(cycle))
    assert any("without a df_module" in p for p in tree({**good, "lost/x.h": ""}))
    assert any("CUDA header" in p for p in tree({**good, "text/c.h": "#include <cuda_runtime.h>"}))
    assert any("not a path below" in p for p in tree({**good, "text/d.h": '#include "t.h"'}))
    with_test = {**good, "base/CMakeLists.txt": "df_module(NAME base SRCS a.cpp TEST_DEPS text)",
                 "base/a_test.cpp": '#include "text/t.h"\n'}
    assert tree(with_test) == [], tree(with_test)
    assert any("does not declare text" in p
               for p in tree({**with_test, "base/b.h": '#include "text/t.h"\n'}))
    print("check_layers: finds bad edges, cycles, lost files and CUDA headers")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    problems = check(Path(sys.argv[1]))
    for problem in problems:
        print(problem)
    print(f"check_layers: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
