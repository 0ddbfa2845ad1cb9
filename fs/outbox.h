/* SPDX-License-Identifier: MIT */
#ifndef FS_OUTBOX_H
#define FS_OUTBOX_H

#include <stdio.h>

#include "fs.h"

/*
 * The mount's side of the state file (P6, P7): the drafts of earlier mounts are listed again, those of the host's other
 * mounts too, and what becomes of the messages that wait is seen.
 */

/*
 * Lists what the state file has, and begins to send what waits; once, when the state and the backend of url are open.
 * Blocks on the disk. 0, or -errno after a message on standard error.
 */
int outbox_start(struct fs *fs, const char *url);

/* The end of a mount, when no request comes any more: what is unfinished goes to the disk. Blocks up to some 10 s. The
 * state file stays open. */
void outbox_end(struct fs *fs);

/* Says in the log which other brokers' messages lie in the state directory. */
void outbox_log_left_overs(struct fs *fs);

/* For .mqfs/status: lines of a key and a value. */
void outbox_status(struct fs *fs, FILE *out);

#endif
