/* SPDX-License-Identifier: MIT */
#ifndef FS_NOTIFY_H
#define FS_NOTIFY_H

#include "fuse.h"

/*
 * The one thread that notifies the kernel. fuse_lowlevel_notify_inval_entry waits for the directory's lock,
 * which a request that we are answering may hold (fuse_lowlevel.h warns of the deadlock), so no other thread calls it.
 */
struct fs;
struct node;

int notify_start(struct fs *fs); /* 0 or -errno */
void notify_stop(struct fs *fs); /* joins the thread; what is queued is dropped */

/* The kernel should forget the name: a published draft's inode would stay in its memory. Best effort. */
void notify_forget_name(struct fs *fs, fuse_ino_t dir, const char *name);

/* Ends a poll(2): the handle is destroyed. */
void notify_poll(struct fs *fs, struct fuse_pollhandle *handle);

#endif
