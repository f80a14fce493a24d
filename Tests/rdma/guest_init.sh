#!/bin/sh
# The guest's first process: makes the host's files usable, brings up the network, runs the command, and powers off.
mount -t proc proc /proc
for word in $(cat /proc/cmdline); do case $word in job=*) job=${word#job=} ;; esac; done
mount -t sysfs sys /sys
[ -c /dev/null ] || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm

# What is to be writable is mounted aside first: a fresh /tmp may hide where it belongs.
mount -t tmpfs tmpfs /media
mkdir /media/job /media/work
writable=$(cat "$job/writable")
mount -t hostfs -o "$job" none /media/job
mount -t hostfs -o "$writable" none /media/work
for folder in /tmp /var/tmp /run /root; do
    [ "$folder" = "$writable" ] || mount -t tmpfs -o mode=1777 tmpfs $folder
done
mkdir -p "$writable" "$job"
mount -o move /media/work "$writable" 2>/dev/null || mount -o bind /media/work "$writable"
mount -o bind /media/job "$job"

ulimit -l unlimited
stty -F /dev/tty1 raw
/bin/sh -c ". $job/network && exec /bin/bash $job/command" >/dev/tty1 2>&1
echo $? >/media/job/status
sync
/bin/busybox poweroff -f
