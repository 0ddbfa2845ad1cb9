/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_INTERNAL_H
#define MQFS_SQLITE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <sqlite3.h>

#include "hash.h"

#include <mqfs/backend.h>

#include "db/boot.h"
#include "db/checkpoint.h"
#include "db/codec.h"

#include "statements.h"

/* The numbers are in the file, and tables.c's indexes name them. */
enum message_state { STATE_READY, STATE_LEASED, STATE_RETRY, STATE_DEAD, STATES };

/* A queue as the file has it; see ledger.h. */
struct queue {
	char *name;
	int64_t id;
	int64_t max_priority;
	int64_t message_ttl_ms;
	int64_t max_length;
	enum mqfs_overflow overflow;
	bool dead_letter;
	int64_t counts[STATES];
	bool changed; /* counts are newer than the file's */
	UT_hash_handle by_name;
	UT_hash_handle by_id;
};

struct request;
struct intake;

/*
 * An open store. One thread, the writer, owns the connection and everything below "the writer's"; the
 * others only queue requests under the lock.
 */
struct store {
	struct mqfs_backend backend; /* first: a backend is a store */

	/* Constant. */
	char *path;
	int64_t lease_timeout_ms;
	char boot_id[BOOT_ID_BYTES];
	char host[65];
	pthread_t thread;

	_Atomic int64_t busy_ms; /* the writer is in a round since then (monotonic); 0: it is not */

	/* A leaf: nothing is locked or called while it is held. */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* on the monotonic clock */
	/* Guarded by lock. */
	struct request *requests; /* the oldest first */
	struct request **requests_end;
	bool sleeping; /* the writer waits for wake */
	bool closing;
	int64_t since_us;
	char trouble[256]; /* why the last transaction failed; "" when it didn't */

	/* The writer's. */
	sqlite3 *db;
	sqlite3_stmt *statements[STATEMENTS];
	struct checkpoint checkpoint;
	struct codec_buffer head;

	/* ledger.c */
	struct queue *queues_by_name;
	struct queue *queues_by_id;
	int64_t data_version;
	int64_t sequence; /* -1: not read yet */
	bool sequence_changed;

	/* clockwork.c: nothing is due before this real time; -1: not known */
	int64_t due_us;

	/* intake.c */
	struct intake *intakes;

	/* lease.c */
	int64_t mount; /* 0: no row */
	int64_t lease_until_ms;
	bool consumers_changed;

	/* writer.c */
	struct request *backlog; /* taken from requests, not done */
	bool more;               /* there was more to feed than one transaction takes */
	bool locked_out;         /* another process had the lock when it was last wanted */
	/* After a failure: nothing of that kind before this time (monotonic). Each for itself, so that what can't be
	 * done holds up nothing else. */
	struct {
		int64_t lease_ms;
		int64_t clockwork_ms;
		int64_t feed_ms;
	} pause;
};

#endif
