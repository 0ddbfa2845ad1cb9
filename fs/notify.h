/* SPDX-License-Identifier: MIT */
#ifndef FS_NOTIFY_H
#define FS_NOTIFY_H

#include "fuse.h"

/*
 * The one thread that makes the kernel forget names. fuse_lowlevel_notify_inval_entry waits for the directory's lock,
 * which a request that we are answering may hold (fuse_lowlevel.h warns of the deadlock), so no other thread calls it.
 *
 * That wait can't be killed. Killed in it, mqfs would stay, and with it /dev/fuse open, so that the request that holds
 * the lock would wait for ever, and nobody could kill its caller either. So names wait here while a request is parked
 * that holds a directory, and for a moment more, since another may follow; and the thread ends while there are still
 * workers to answer who holds one. What is left is a request that takes the lock in the moment between: mqfs can't see
 * it before it reads it.
 */
struct fs;
struct node;

int notify_start(struct fs *fs); /* 0 or -errno */
/* Joins the thread, which needs the workers for that; what is queued, or comes later, is dropped. */
void notify_stop(struct fs *fs);

/* A request that holds a directory's lock in the kernel is parked, or is no longer. Any thread; no lock is held. */
void notify_hold(struct fs *fs);
void notify_release(struct fs *fs);

/* The kernel should forget the name: a published draft's inode would stay in its memory. Best effort. Any thread. */
void notify_forget_name(struct fs *fs, fuse_ino_t dir, const char *name);

/* Ends a poll(2), at once, since that waits for nothing in the kernel: the handle is destroyed. Any thread, no lock. */
void notify_poll(struct fuse_pollhandle *handle);

#endif
