#!/usr/bin/env bash
# Installs the system packages that parts of frcnn need. Does nothing if all are installed.
#
#   scripts/install_system_packages.sh [--check] GROUP...
#
#   distributed   Open MPI 4.1, OpenSSH, a compiler, CMake (to build and launch Horovod), iproute2
#   serve         nginx
#
# --check only lists the missing packages and exits with 1 if there are any. Needs root, or sudo without a password;
# otherwise it prints the command to run and exits with 3.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

debian_packages() {
  case $1 in
    distributed) echo openmpi-bin libopenmpi-dev openssh-server openssh-client cmake g++ make patch iproute2 ;;
    serve) echo nginx ;;
    *) return 1 ;;
  esac
}

fedora_packages() { # also Amazon Linux and RHEL, where Open MPI is in /usr/lib64/openmpi/bin, outside PATH
  case $1 in
    distributed) echo openmpi openmpi-devel openssh-server openssh-clients cmake gcc-c++ make patch iproute ;;
    serve) echo nginx ;;
    *) return 1 ;;
  esac
}

check=
groups=()
for argument; do
  case $argument in
    --check) check=yes ;;
    -h | --help) usage; exit 0 ;;
    *) groups+=("$argument") ;;
  esac
done
if [ ${#groups[@]} -eq 0 ]; then usage >&2; exit 2; fi

if command -v apt-get >/dev/null; then
  manager=apt-get
  packages_of() { debian_packages "$1"; }
  installed() { dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
  command_line=(apt-get install --option DPkg::Lock::Timeout=300 --yes --quiet --no-install-recommends)
elif command -v dnf >/dev/null; then
  manager=dnf
  packages_of() { fedora_packages "$1"; }
  installed() { rpm --query --quiet "$1"; }
  command_line=(dnf install --assumeyes --quiet --setopt=install_weak_deps=False)
else
  echo "Neither apt-get nor dnf was found; install these packages (Debian's names):" \
    "$(for group in "${groups[@]}"; do debian_packages "$group"; done)" >&2
  exit 3
fi

missing=()
for group in "${groups[@]}"; do
  if ! packages=$(packages_of "$group"); then
    echo "unknown group of packages '$group'; expected distributed or serve" >&2
    exit 2
  fi
  for package in $packages; do
    installed "$package" || missing+=("$package")
  done
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ -n "$check" ]; then
  echo "Missing system packages: ${missing[*]}" >&2
  exit 1
fi

privileged=()
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "Missing system packages, which this user may not install. Run: sudo ${command_line[*]} ${missing[*]}" >&2
    exit 3
  fi
  privileged=(sudo -n)
fi

echo "Installing system packages: ${missing[*]}"
if [ $manager = apt-get ]; then
  # Debian starts services on installation; here their users start them.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${privileged[@]}" tee $policy >/dev/null
    "${privileged[@]}" chmod +x $policy
    trap '"${privileged[@]}" rm -f $policy' EXIT
  fi
  "${privileged[@]}" apt-get update --quiet=2
  "${privileged[@]}" env DEBIAN_FRONTEND=noninteractive "${command_line[@]}" "${missing[@]}"
else
  "${privileged[@]}" "${command_line[@]}" "${missing[@]}"
fi
