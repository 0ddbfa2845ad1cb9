/* SPDX-License-Identifier: MIT */
#ifndef FS_QUEUE_H
#define FS_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <mqfs/consumer.h>
#include <mqfs/counters.h>
#include <mqfs/look.h>
#include <mqfs/name.h>
#include <mqfs/settings.h>

#include "fs.h"

struct draft;
struct abandoned;
struct moved;
struct poll_wait;

/* What a queue's directory shows: slots are objects of tree nodes, so their order is theirs alone. */
enum slot {
	SLOT_QUEUE,
	SLOT_NEW,
	SLOT_PENDING,
	SLOT_CLAIMED,
	SLOT_PEEK,
	SLOT_RETRY,
	SLOT_DEAD,
	SLOT_CLAIM,
	SLOT_NEXT,
	SLOT_STATS,
	SLOT_CONFIG,
	SLOT_SETTINGS,                      /* one for each setting from here */
	SLOT_PRIORITY = SLOT_SETTINGS + 64, /* new/@0 from here */
	SLOTS = SLOT_PRIORITY + 256
};

/* A queue as this mount knows it. */
struct queue {
	/* constant */
	struct fs *fs;
	mqfs_name_t name; /* at the broker */
	mqfs_name_t file; /* in MOUNT */
	int64_t known_us; /* real time when this mount made or found it */
	struct mqfs_look *retry, *dead;
	struct mqfs_counters counters;
	struct mqfs_consumer *consumer;
	/* Addresses for the nodes: aligned and apart as many as there are views, so that each inode number is unique.
	 */
	_Alignas(VIEWS) struct {
		char views[VIEWS];
	} slots[SLOTS];

	atomic_uint references;
	atomic_bool doubtful; /* the broker said that it is not there: the next look-up asks again */

	/* guarded by fs->lock */
	bool listed;
	bool ended; /* by queues_end */
	struct mqfs_settings settings;
	struct draft *drafts; /* those with a name, by it */
	struct draft *ghosts; /* published ones, oldest first (utlist) */
	unsigned ghost_count;
	struct draft *removed;       /* drafts that may be put back, oldest first (utlist) */
	int64_t draft_count;         /* with or without a name; not ghosts, nor what waits in the outbox */
	int64_t in_line;             /* those that wait in the outbox, or are on their way to it */
	struct abandoned *abandoned; /* claims whose taker was killed */
	struct poll_wait *polls;     /* who polls claim and next */
	struct moved *moved;         /* names that were moved to, oldest first (utlist) */
	unsigned moved_count;
	struct mqfs_depths depths; /* the last answer */
	int64_t depths_ms;         /* monotonic, when; 0 never */
	UT_hash_handle hh;
};

struct queue *queue_ref(struct queue *queue);
void queue_unref(struct queue *queue);

/* (locked) By name at the broker; NULL when this mount does not know it. */
struct queue *queue_known(struct fs *fs, const char *name);
/* Makes a queue known and gives a reference; NULL when out of memory. No lock. */
struct queue *queue_add(struct fs *fs, const char *name);
/*
 * It is gone from the broker: no longer listed; what is held is given back when the last reference goes. false: it has
 * drafts, which came while the broker was asked, perhaps; so it stays. No lock.
 */
bool queue_remove(struct fs *fs, struct queue *queue);
/* M1: takes nothing more; claims can be settled. Again and again, for queues found meanwhile. How many claims are held
 * or being settled. No lock. */
int64_t queues_drain(struct fs *fs);
/* The end: gives back what they hold, also those that are listed no longer, or that somebody has a reference to who
 * will not drop it (an open file). The backend must still be open. No lock. */
void queues_end(struct fs *fs);
/* Then, with the backend closed, removes all. */
void queues_clear(struct fs *fs);

/* Is the name of a helper: mqfs.*, or Q.dead of a known Q? (locked) */
bool queue_is_helper(struct fs *fs, const char *name);

/* Sets one setting of one queue at run time. 0, -EINVAL. No lock. */
int queue_configure(struct fs *fs, struct queue *queue, const char *name, const char *value);

/* Housekeeping's round over all queues. */
int64_t queues_tick(struct fs *fs, int64_t now_ms);

#endif
