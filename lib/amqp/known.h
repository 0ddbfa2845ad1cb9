/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_KNOWN_H
#define MQFS_AMQP_KNOWN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "hash.h"

#include "kind.h"

/*
 * What has been found out about queues and can't be asked of the broker: which delay levels a queue has, and whether it
 * counts deliveries. Only a memory: what it says may be out of date. Thread-safe, never blocks.
 */
#define KNOWN_LEVELS 32 /* at most, indexed as mqfs_retry_level_at */

struct known_queue {
	char *queue;
	enum kind kind;
	bool refused;     /* something that was published to it, full as it was */
	uint32_t levels;  /* a bit for each that was there */
	int64_t tried_ms; /* when all were tried, or 0 */
	UT_hash_handle hh;
};

struct known {
	pthread_mutex_t lock;       /* guards all below; a leaf */
	struct known_queue *queues; /* uthash by name */
};

void known_init(struct known *known);
void known_deinit(struct known *known);

void known_forget(struct known *known, const char *queue);
enum kind known_kind(struct known *known, const char *queue);
void known_set_kind(struct known *known, const char *queue, enum kind kind);

bool known_refused(struct known *known, const char *queue);
void known_note_refusal(struct known *known, const char *queue);

unsigned known_level_index(int64_t level_ms);
void known_note_level(struct known *known, const char *queue, unsigned index, bool is_there);
/* All levels have been tried just now. */
void known_note_tried(struct known *known, const char *queue);
/* The levels to try, a bit each: those that were there, or all (true) when the last time is stale_ms ago or more. */
bool known_levels(struct known *known, const char *queue, int64_t stale_ms, uint32_t *ret_levels);

#endif
