/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_STORE_H
#define FS_DRAFT_STORE_H

#include "draft.h"

#include <mqfs/outbox.h>

/*
 * What the state file has of drafts (P6, P7). This mount is the master of what is KEPT, DOT or EMPTY, and the file
 * follows: draft_follow brings there what has changed, one request at a time for each draft, and looks again when that
 * is done. Of what is QUEUED the file is the master, since the outbox, perhaps another mount's, may be sending it: rm
 * and mv ask there (draft_queued.h), and the draft follows (outbox.h).
 */

/* (locked) Makes the state file follow what the draft is now, or begins to. */
void draft_follow(struct draft *draft);

/* (locked) The ticket, to be answered with draft->answer, once the draft has come to rest: it is the broker's, or on
 * the disk, or can't get there. 0: not yet, or nobody waits. */
ticket_t draft_take_ticket(struct draft *draft);

/* fsync(2): answers req when the state file has the draft as it is now. What is being written to be a message is
 * complete when it is closed; there is nothing to bring to a disk before. No lock. */
void draft_sync(struct fs *fs, fuse_req_t req, struct draft *draft);

/* (locked) The message-id for a message that was given none: always the same, whatever becomes of it. */
const char *draft_made_id(struct draft *draft);

/* (locked) Is its content on the disk only? */
bool draft_is_away(const struct draft *draft);
/*
 * Parks req, brings the content into memory, and lets fetch->run go on with result 0 (or why that failed; -ENOENT: it
 * is gone), with the content pinned meanwhile. No lock.
 */
void draft_fetch(struct fs *fs, fuse_req_t req, struct draft *draft, struct fetch *fetch);

/* (locked) An entry of the state file, with that name there, is this draft from now on, and the other way round. */
void draft_remember_id(struct draft *draft, int64_t id, const char *name);
void draft_forget_id(struct draft *draft);
struct draft *draft_by_id(struct fs *fs, int64_t id);

/* (locked) The entry that says what the draft is, but for kind; strings point into the draft. */
struct mqfs_entry draft_entry(const struct draft *draft, enum mqfs_entry_kind kind);

/* (locked) Requests to the state file: how many are under way. */
void draft_begin_request(struct draft *draft);
void draft_end_request(struct draft *draft);

#endif
