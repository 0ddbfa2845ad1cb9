/* SPDX-License-Identifier: MIT */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include "options.h"

/*
 * Connects, mounts, serves until SIGTERM, SIGINT, SIGHUP or an unmount, and ends cleanly. Returns the process's exit
 * status. Unless in the foreground the caller's process returns once the mount answers (or has failed), and a
 * child serves.
 */
int mount_run(const struct options *options);

#endif
