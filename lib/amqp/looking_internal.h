/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_LOOKING_INTERNAL_H
#define MQFS_AMQP_LOOKING_INTERNAL_H

#include "hash.h"

#include <mqfs/name.h>

#include "known.h"
#include "looking.h"

#define SHELF_KEY_BYTES (MQFS_NAME_MAX + 3)

struct shelf {
	struct holder holder;      /* first: a holder is a shelf's */
	char key[SHELF_KEY_BYTES]; /* place and queue */
	struct browse *browses;    /* utlist; the first is being served */
	/* What its consumer was sent and no browse took yet, or NULL. Closing the channel puts it back. */
	struct mqfs_delivery *spare;
	UT_hash_handle by_key;
};

struct browse {
	struct job job;
	struct browse *prev, *next;
	struct looking *looking;
	char *queue;
	enum mqfs_place place;
	size_t limit;
	mqfs_browse_fn *done; /* NULL: answered */
	void *arg;
	int64_t levels[KNOWN_LEVELS]; /* RETRY: to get from; DEAD: one */
	size_t levels_count;
	size_t level;   /* the present one */
	size_t asked;   /* gets on their way */
	bool exhausted; /* the present one had nothing more */
	struct mqfs_delivery **deliveries;
	size_t count;
};

struct looking {
	struct connection *connection;
	struct topology *topology;
	struct settling settling;
	_Atomic uint64_t *generations;
	struct shelf *shelves; /* uthash by key; the owner thread's */
};

/* shelf.c; all on the owner thread, but for browse_fail and browse_free, which any may call. */

void browse_fail(struct job *job, int result, const char *reason); /* answers and frees */
void browse_free(struct browse *browse);

/* The one of that place and queue, made if need be. NULL: out of memory. */
struct shelf *shelf_get(struct looking *looking, enum mqfs_place place, const char *queue);
/* Its channel, with a consumer where that is needed. 0, or a negative errno. */
int shelf_open(struct looking *looking, struct shelf *shelf, const struct browse *browse);
/* Its channel is no more, or never was: every browse that waits for it fails, and it is freed. */
void shelf_fail(struct looking *looking, struct shelf *shelf, int result);
/* Serves its browses as far as it can. */
void shelf_continue(struct looking *looking, struct shelf *shelf);
/* A message that was got for its first browse, or that its consumer was sent. */
void shelf_receive(struct looking *looking, struct shelf *shelf, struct frame_content *content);
/* Answers what is late with what it has got so far. Its gets that are on their way are put back as they come. */
void shelf_expire(struct shelf *shelf, int64_t now_ms, int64_t *due_ms);

#endif
