/* SPDX-License-Identifier: MIT */
#ifndef FS_CLAIM_FILE_H
#define FS_CLAIM_FILE_H

#include <stdint.h>

#include "node.h"

/*
 * claim and next: files to wait on (C7). The object, a slot, tells which. They are not listed, so that
 * `grep -r` never waits.
 */
extern const struct node_ops claim_file_ops;

/* Something may be pending in some queue: whoever polls there looks again. No lock. */
void claim_file_wake_polls(struct fs *fs);

/* Housekeeping: while somebody polls, the queue is being waited on. No lock. */
int64_t claim_file_tick(struct fs *fs, struct queue *queue, int64_t now_ms);

#endif
