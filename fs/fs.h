/* SPDX-License-Identifier: MIT */
#ifndef FS_FS_H
#define FS_FS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/name.h>
#include <mqfs/records.h>
#include <mqfs/settings.h>
#include <mqfs/state.h>

#include "node.h"
#include "reply.h"

struct mqfs_outbox;
struct draft;
struct draft_handle;
struct parked;
struct notifier;
struct housekeeping;
struct left_over;

struct reopen;
/* One mount. */
struct fs {
	/* constant once mounted */
	struct fuse_session *session;
	struct mqfs_backend *backend;
	struct mqfs_state *state;
	struct mqfs_records *records;
	uid_t uid;
	gid_t gid;
	int64_t mounted_us;
	uint64_t secret; /* keeps heap addresses out of inode numbers */
	struct notifier *notifier;
	struct housekeeping *housekeeping;
	struct left_over *left_overs; /* of other brokers, found at the start (utlist) */
	bool outboxing;               /* what the broker can't take now goes to the outbox (P6) */

	/*
	 * Guards the tree, queues, drafts, and handles' state. Held for moments; taken before a consumer's or a look's
	 * lock. Never held while replying, notifying, or reading /proc.
	 */
	pthread_mutex_t lock;
	struct mqfs_settings settings; /* what a new queue starts with */
	struct node *nodes;            /* by key */
	struct node *root;
	struct queue *queues;   /* by name */
	struct reopen *reopens; /* threads whose open for writing was answered ESTALE, oldest first (new_dir.c) */
	unsigned reopen_count;
	unsigned polls;                     /* waits in all queues' polls */
	struct mqfs_outbox *outbox;         /* NULL: not open yet, or the mount has ended */
	bool ending;                        /* what is unfinished goes to the disk as it is */
	struct draft *live;                 /* every draft there is (utlist) */
	struct draft *stored;               /* those that the state file has, by id */
	struct draft_handle *draft_handles; /* open files (utlist) */
	struct opened *opened;              /* all others (opened.h) */
	unsigned requests;                  /* to the state file, under way */
	pthread_cond_t no_requests;
	_Alignas(VIEWS) struct {
		char views[VIEWS];
	} slots[8]; /* addresses for the nodes above the queues */

	/* A leaf lock: nothing is taken under it, but libfuse's for its session. Guards what follows. */
	pthread_mutex_t parked_lock;
	struct parked *parked; /* by ticket */
	ticket_t last_ticket;
};

/* The mount that a request is for. */
static inline struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* Blocks only while another holds it for a moment. */
static inline void fs_lock(struct fs *fs)
{
	pthread_mutex_lock(&fs->lock);
}

static inline void fs_unlock(struct fs *fs)
{
	pthread_mutex_unlock(&fs->lock);
}

#endif
