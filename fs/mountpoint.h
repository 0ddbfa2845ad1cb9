/* SPDX-License-Identifier: MIT */
#ifndef FS_MOUNTPOINT_H
#define FS_MOUNTPOINT_H

/* Makes an absolute path what the kernel calls the mount: one slash each, no "." and none at the end. It may be a stale
 * mount or an automount, so nothing is looked at, and ".." and links stay. */
void mountpoint_normalise(char *path);

/*
 * The directory to mount on: a stale mount of ours is cleaned up, one that isn't empty is refused. An autofs
 * mountpoint is told from mountinfo and not opened: opening it would wait for the mount that we are.
 * 0, or a negative errno after a message on standard error. Blocks on the disk.
 */
int mountpoint_prepare(const char *path);

/* Takes the mount away at once, whoever uses it (umount -l). 0 or -errno. */
int mountpoint_detach(const char *path);

#endif
