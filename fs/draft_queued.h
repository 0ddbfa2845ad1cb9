/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_QUEUED_H
#define FS_DRAFT_QUEUED_H

#include "draft.h"

/*
 * rm and mv of a message of the outbox (P6): the state file is asked, since it may be on its way just now. Each answers
 * req: EBUSY while it is in flight, or somebody else asks; ENOENT once it was sent. They wait for the local disk only.
 * No lock; draft is a reference of the caller's.
 */

/* rm: taken back. tid: who (draft_remove). */
void draft_take_back(struct fs *fs, fuse_req_t req, struct draft *draft, pid_t tid);

/* mv to name in queue's new/ (-1) or new/@priority/: with a leading dot it is an ordinary file again, taken back; else
 * it waits there, at the end of the line. Its content is in memory. */
void draft_move_queued(struct fs *fs, fuse_req_t req, struct draft *draft, struct queue *queue, int priority,
                       const char *name);

/* (locked) What draft_put_back has put back waits again. */
void draft_line_up_again(struct draft *draft);

#endif
