/* SPDX-License-Identifier: MIT */
#ifndef FS_HOUSEKEEPING_H
#define FS_HOUSEKEEPING_H

#include <stdint.h>

/*
 * The thread that watches clocks: deadlines of parked requests, ghosts, claims and looks. It sleeps until
 * something is due, so that an idle mount does not wake.
 */
struct fs;

int housekeeping_start(struct fs *fs); /* 0 or -errno */
void housekeeping_stop(struct fs *fs); /* joins the thread */

/* Something is due at due_ms (monotonic). Takes a leaf lock; any thread, any lock held. */
void housekeeping_wake(struct fs *fs, int64_t due_ms);

#endif
