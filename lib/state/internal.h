/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_INTERNAL_H
#define MQFS_STATE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

#include <mqfs/state.h>

#include "db/statement.h"

/*
 * What the outbox and the records build on: one thread owns the file, and others hand it jobs. Everything that is
 * queued becomes one transaction, whose commit is the answer to all of it.
 */

/* One piece of work. Whoever holds it owns its memory: the caller until it is queued, the state until done. */
struct state_job {
	/*
	 * Inside a transaction, on the state's thread. It may run again, so what it sets it may set anew. A documented
	 * outcome (-ENOENT, -EBUSY, …) goes into result, and 0 is returned: what the job changed, if anything, stays. A
	 * negative return is a failure: all that this job changed is undone, and it becomes the result.
	 */
	int (*run)(struct mqfs_state *state, struct state_job *job);
	/* After the commit (or when the job failed), on the state's thread, no lock held; exactly once. The job is the
	 * callee's again. It must not block. */
	void (*done)(struct mqfs_state *state, struct state_job *job);
	int64_t deadline_ms; /* monotonic, MQFS_NEVER: until then another process's lock is waited for */
	bool reads;          /* it changes nothing: it waits only for what was queued before it */
	size_t bytes;        /* about how much it writes; bounds a transaction */

	/* 0, what run set, -ETIMEDOUT, -ENOSPC, -EROFS, -EACCES, -EIO, -ENOMEM, -ESHUTDOWN. */
	int result;
	struct state_job *next; /* the state's */
};

/* From any thread; never blocks. */
void state_submit(struct mqfs_state *state, struct state_job *job);

/* Somebody with work of its own on the state's thread. The memory is its owner's, from join until leave returns. */
struct state_member {
	/* After every transaction, outside of one, no lock held. Returns when it wants to run next (monotonic ms,
	 * MQFS_NEVER). It may read, and queue jobs, and must not block. */
	int64_t (*tick)(struct mqfs_state *state, struct state_member *member, int64_t now_ms);
	struct state_member *next;
};
/* From any thread but the state's. leave waits for a tick that runs just now. */
void state_join(struct mqfs_state *state, struct state_member *member);
void state_leave(struct mqfs_state *state, struct state_member *member);
/* All ticks soon. From any thread; never blocks. */
void state_poke(struct mqfs_state *state);

/* The rest is for run and tick only, on the state's thread. */

/*
 * The prepared statement of sql, which is a text that stays where it is (it is known by its address); reset, its
 * earlier bindings cleared. NULL when it can't be prepared; statement_step and the others then give -ENOMEM.
 */
sqlite3_stmt *state_statement(struct mqfs_state *state, const char *sql);
/* Rows that the last statement changed. */
int64_t state_changes(struct mqfs_state *state);
/* This boot's id. */
const char *state_boot_id(const struct mqfs_state *state);

#endif
