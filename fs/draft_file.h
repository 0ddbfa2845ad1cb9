/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_FILE_H
#define FS_DRAFT_FILE_H

#include <stdbool.h>

#include "node.h"

struct draft;

/* object: struct draft */
extern const struct node_ops draft_file_ops;

/* An open file, fi->fh. */
struct draft_handle {
	struct draft *draft; /* a reference, and pinned */
	bool writable;
	bool
	    let_go; /* by who opened it, with nothing written: RELEASE, which comes when it likes, has nothing to say */
	struct draft_handle *prev, *next; /* fs->draft_handles */
};

/* (locked) Opens draft in handle's memory. */
void draft_handle_open(struct draft_handle *handle, struct draft *draft, bool writable);
/* (locked) Takes it back, and frees it. */
void draft_handle_close(struct draft_handle *handle);

/* user.mqfs.delay, in ms: 24 days, the longest delay level (mqfs/retry.h). */
#define DELAY_MAX_MS (2097152LL * 1000)

#endif
