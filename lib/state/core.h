/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_CORE_H
#define MQFS_STATE_CORE_H

#include <pthread.h>

#include "hash.h"

#include "db/boot.h"
#include "db/checkpoint.h"

#include "internal.h"

struct prepared {
	const char *sql;
	sqlite3_stmt *statement;
	UT_hash_handle hh;
};

struct mqfs_state {
	/* Constant. */
	char *path;
	int lock_fd; /* says to others that this file has a mount; -1: could not be made */
	char boot_id[BOOT_ID_BYTES];
	pthread_t thread;

	/* A leaf: nothing is locked or called while it is held. */
	pthread_mutex_t lock;
	pthread_cond_t wake;   /* on the monotonic clock */
	pthread_cond_t ticked; /* a member's tick has ended */
	/* Guarded by lock. */
	struct state_job *jobs; /* the oldest first */
	struct state_job **jobs_end;
	struct state_member *members;
	struct state_member *ticking; /* whose tick runs */
	bool sleeping;                /* the thread waits for wake */
	bool poked;
	bool closing;

	/* The thread's. */
	sqlite3 *db;
	struct prepared *prepared;
	struct checkpoint checkpoint;
	struct state_job *backlog; /* taken from jobs, not done */
	int trouble;               /* why the last transaction that writes failed, 0 */
};

/* writer.c: the thread. 0 or a negative errno. stop blocks for some seconds at most. */
int state_start(struct mqfs_state *state);
void state_stop(struct mqfs_state *state);

/*
 * file.c: the broker of a URL, as text without credentials: "amqp://a:5672,b:5672/vhost", the hosts sorted, or
 * "sqlite:/real/path"; and the path of its file in directory. New strings. 0, -EINVAL for what is no such URL, -ENOMEM.
 */
int file_peer(const char *url, char **ret_peer);
int file_path(const char *directory, const char *peer, char **ret_path);
#define FILE_SUFFIX ".state"

#endif
