#!/usr/bin/env bash
# One host of a job, isolated as in a container:   host.sh NAME BASE HOSTS_FILE PYTHON
# Runs as process 1 of new mount, pid, uts and ipc namespaces, in a network namespace that has the interface. BASE is mounted
# as /opt/ml; everything written elsewhere goes to memory and is lost.
set -euo pipefail
name=$1 base=$2 hosts=$3 python=$4
hostname "$name"
mount -t tmpfs tmpfs /mnt
for folder in etc root opt run; do
  mkdir "/mnt/$folder" "/mnt/$folder.work"
  mount -t overlay -o "lowerdir=/$folder,upperdir=/mnt/$folder,workdir=/mnt/$folder.work" overlay "/$folder"
done
mkdir -p /opt/ml
mount --bind "$base" /opt/ml
cat "$hosts" >/etc/hosts
mount -t tmpfs tmpfs /tmp
# As in the image: no key, and a login that needs no audit system.
rm -rf /etc/ssh/ssh_host_* /root/.ssh
sed -i 's/^session *required *pam_loginuid.so/session optional pam_loginuid.so/' /etc/pam.d/sshd
printf '%s\n' 'Host *' ' StrictHostKeyChecking no' ' UserKnownHostsFile /dev/null' ' LogLevel ERROR' >/etc/ssh/ssh_config.d/frcnn.conf
exec "$python" -m frcnn.entrypoint train
