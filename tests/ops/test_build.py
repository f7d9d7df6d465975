from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from frcnn.errors import UserError
from frcnn.ops import build, compiled, gpu_code

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def fresh_kernels():
    """``active_kernels`` caches its result per process; clear it before and after the test."""
    compiled._find_kernels.cache_clear()
    yield
    compiled._find_kernels.cache_clear()


def python(code: str, home: Path, path: str | None = None) -> subprocess.Popen[str]:
    environment = {
        "HOME": str(home),
        "PATH": path or os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def small_sources(folder: Path) -> Path:
    """Sources that compile in seconds: a library without an operation."""
    folder.mkdir(parents=True)
    for name in (*build.TENSORFLOW_SOURCES, *build.KERNEL_SOURCES):
        (folder / name).touch()
    (folder / gpu_code.SOURCE).write_text('extern "C" __global__ void frcnn_nothing() {}\n')
    (folder / "ops.cc").write_text('#include "tensorflow/core/framework/op.h"\n')
    return folder


def test_concurrent_processes_compile_once(tmp_path):
    code = f"""
from pathlib import Path
from frcnn.ops import build, compiled, gpu_code
build.SOURCES = Path({str(small_sources(tmp_path / "kernels"))!r})
build.PREBUILT = Path("nowhere")
print(compiled.active_kernels().library)
"""
    runs = [python(code, tmp_path) for _ in range(4)]
    outputs = [run.communicate(timeout=300) for run in runs]
    [library] = (tmp_path / ".cache" / "frcnn").glob("*.so")
    assert {out for out, _ in outputs} == {f"{library}\n"}
    assert sum("compiling the kernels" in err for _, err in outputs) == 1
    assert not [path for path in library.parent.iterdir() if path.is_dir()], "temporary folders are removed"


def test_fallback_to_the_reference_without_a_compiler(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    code = """
import numpy as np
from frcnn import ops
for _ in range(2):
    print(ops.nms(np.float32([[[0, 0, 9, 9]]]), np.float32([[1]]), np.int32([[0]]), iou_threshold=0.5,
    max_outputs=2)[0].numpy().tolist())
"""
    out, err = python(code, tmp_path, path=str(tools)).communicate(timeout=100)
    assert out == "[[0, -1]]\n" * 2
    assert [line for line in err.splitlines() if line.startswith("frcnn:")] == [
        "frcnn: falling back to slower TensorFlow operations: the kernels could not be built: g++ not found; "
        "install it (Debian, Ubuntu: apt-get install g++)"
    ]


def test_build_error_contains_the_first_compiler_error(tmp_path, monkeypatch):
    broken = tmp_path / "kernels"
    shutil.copytree(build.SOURCES, broken)
    (broken / "nms_cpu.cc").write_text("int good;\nthis is no C++;\nnor this;\n")
    monkeypatch.setattr(build, "SOURCES", broken)
    monkeypatch.setattr(build, "KERNEL_SOURCES", {"nms_cpu.cc": []})
    monkeypatch.setattr(build, "TENSORFLOW_SOURCES", ("nms_cpu.cc",))
    with pytest.raises(gpu_code.BuildError, match=r"g\+\+ failed: .*nms_cpu.cc:2:1: error: "):
        build.build(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_library_of_another_tensorflow_is_ignored(tmp_path):
    name = build.file_name()
    assert build.tf.version.VERSION in name
    (tmp_path / name.replace(build.tf.version.VERSION, "2.20.0")).write_bytes(b"an older one")
    assert build.find(tmp_path) is None
    assert build.cache_key("2.20.0") != build.cache_key()
    (tmp_path / name).write_bytes(b"ours")
    assert build.find(tmp_path / "missing", tmp_path) == tmp_path / name


def test_cache_key_depends_on_the_sources(tmp_path, monkeypatch):
    before = build.cache_key()
    changed = tmp_path / "kernels"
    shutil.copytree(build.SOURCES, changed)
    (changed / "nms.h").write_text((changed / "nms.h").read_text() + "\n")
    monkeypatch.setattr(build, "SOURCES", changed)
    assert build.cache_key() != before


def test_invalid_library_falls_back_to_the_reference(tmp_path, monkeypatch, fresh_kernels, capfd):
    file = tmp_path / build.file_name()
    file.write_bytes(b"cut short")
    monkeypatch.setattr(build, "default_cache", lambda: tmp_path)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "none")
    state = compiled.active_kernels()
    assert state.library is None
    assert "could not be built" in state.reason
    assert capfd.readouterr().err.count("falling back to slower TensorFlow operations") == 1
    with pytest.raises(UserError, match=r"ops.kernel is 'compiled'.*set ops.kernel to auto or reference"):
        compiled.operations()


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_cache_if_the_home_is_not_writable(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert build.default_cache().name == f"frcnn-{os.getuid()}"


def test_installed_package_contains_the_kernels(tmp_path):
    # As in the Docker image: built against the installed TensorFlow, with GPU kernels if nvcc is found.
    source = tmp_path / "source"
    for name in ("frcnn", "setup.py"):  # not pyproject.toml, which needs a newer setuptools than some environments have
        origin = REPOSITORY / name
        shutil.copytree(
            origin, source / name, ignore=shutil.ignore_patterns("__pycache__", "prebuilt")
        ) if origin.is_dir() else shutil.copy(origin, source / name)
    shutil.rmtree(source / "frcnn" / "ops" / "kernels")
    small_sources(source / "frcnn" / "ops" / "kernels")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    files = {file.name for file in (tmp_path / "built" / "frcnn" / "ops" / "prebuilt").iterdir()}
    [library] = (name for name in files if name.endswith(".so"))
    assert library.startswith(f"frcnn_ops-tf{build.tf.version.VERSION}-")
    compiler = gpu_code.nvcc()
    capabilities = gpu_code.nvcc_capabilities(compiler) if compiler else ()
    assert files == {library, *(f"{Path(library).stem}.sm_{capability}.cubin" for capability in capabilities)}


def test_concurrent_threads_load_one_library(fresh_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    obtained = []

    def slowly(cache: Path) -> Path:
        obtained.append(threading.get_ident())
        time.sleep(0.2)
        raise gpu_code.BuildError("no compiler")

    monkeypatch.setattr(build, "find_or_build", slowly)
    threads = [threading.Thread(target=compiled.active_kernels) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(obtained) == 1
