#!/usr/bin/env bash
# The first process of a host: makes the root that only this host sees, then becomes its sshd.
# In fresh mount, pid, uts, ipc and net namespaces:  boot.sh NAME ADDRESS FOLDER VENV PYTHON_HOME HIDDEN
set -euo pipefail
name=$1 address=$2 folder=$3 venv=$4 python_home=$5 hidden=$6
root=$folder/root

mount --make-rprivate /
mount -t tmpfs -o size=1g tmpfs "$folder/disk"
mkdir "$folder/disk/upper" "$folder/disk/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/disk/upper,workdir=$folder/disk/work" "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount --bind "$root/dev/pts/ptmx" "$root/dev/ptmx"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount --bind "$folder/tmp" "$root/tmp"
mount --bind "$folder/home" "$root/root"
# The project's own folder is out of sight: what runs here must have come by `ray up`.
mkdir -p "$root$hidden"
mount -t tmpfs tmpfs "$root$hidden"
for shared in "$venv" "$python_home"; do
    mkdir -p "$root$shared"
    mount --bind "$shared" "$root$shared"
    mount -o remount,bind,ro "$root$shared"
done

hostname "$name"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
mkdir -p "$root/run/sshd" "$root/.before"
cat >"$root/etc/ssh/sshd_of_host" <<END
ListenAddress $address
HostKey /root/.ssh/host_key
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
END
cd "$root"
pivot_root . .before
umount -l /.before
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_of_host
