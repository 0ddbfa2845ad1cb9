/* SPDX-License-Identifier: MIT */
#ifndef FS_OPENED_H
#define FS_OPENED_H

#include "fuse.h"

/*
 * What is open: the kernel sends no RELEASE for it when the mount ends. Drafts have a list of their own, since the
 * state file comes into it (outbox.c).
 */

struct fs;

/*
 * Answers OPEN or OPENDIR, with handle as its fh; drop frees it, and settles nothing, should it still be open in the
 * end. 0, or a negative errno when the caller of open() has gone: then there will be no RELEASE either. No lock.
 */
int opened_reply(struct fs *fs, fuse_req_t req, struct fuse_file_info *fi, void *handle,
                 void (*drop)(struct fs *fs, void *handle));

/* RELEASE came. */
void opened_forget(struct fs *fs, void *handle);

/* The end, when no request is served any more. */
void opened_end(struct fs *fs);

#endif
