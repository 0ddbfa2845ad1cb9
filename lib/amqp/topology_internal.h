/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_TOPOLOGY_INTERNAL_H
#define MQFS_AMQP_TOPOLOGY_INTERNAL_H

#include "arguments.h"
#include "known.h"
#include "topology.h"

struct topology {
	struct connection *connection;
	struct mqfs_settings settings;
	struct known known;
	/* The owner's. */
	amqp_channel_t scratch; /* 0: not open */
	struct job *later;      /* utlist: requests that are to be gone on with */
};

struct request {
	struct job job;
	struct topology *topology;
	/* An outcome, -ECONNRESET, or -EAGAIN: once more at due_ms, and others before. */
	int (*work)(struct topology *topology, struct request *request);
	int64_t due_ms;
	char *queue;
	enum mqfs_place place;
	int64_t level_ms;
	bool unsafe;
	bool again; /* the connection was lost on the first try */
	/* Deleting. */
	int64_t looks_ms; /* looks have until then to end; 0: none were looked for yet */
	bool waited;      /* for what was on its way home from a level */
	bool refuses;     /* the queue may have refused it */
	struct mqfs_settings settings;

	/* Exactly one of these. */
	mqfs_done_fn *done;
	mqfs_depths_fn *depths_done;
	topology_levels_fn *levels_done;
	void *arg;

	/* The answer. The owner's until the request is answered. */
	char reason[256];
	struct mqfs_depths depths;
	int64_t levels[KNOWN_LEVELS];
	size_t levels_count;
};

/*
 * Single calls (topology_calls.c), on the owner thread. 0, -ECONNRESET, or what the broker refused: -ENOENT, …
 */
int topology_look_at(struct topology *topology, const char *queue, struct mqfs_depths *ret_depths); /* or NULL */
int topology_make(struct topology *topology, const char *queue, const struct arguments *arguments);
int topology_remove(struct topology *topology, const char *queue, bool if_unused, bool if_empty);
/* These three: 0, also when it can't be found out, or -ECONNRESET. The kind is noted down. */
int topology_learn_kind(struct topology *topology, const char *queue);
/* Anew where it counted: such a Q.dead may have been made anew as well. */
int topology_learn_dead_kind(struct topology *topology, const char *dead);
/* May the queue have refused what came home from a level? true unless it was found out that it does not. */
int topology_learn_refuses(struct topology *topology, const char *queue, bool *ret_refuses);

/* The work of each kind of request (topology_work.c): synchronous calls, on the owner thread. */
int topology_work_find(struct topology *topology, struct request *request);
int topology_work_declare(struct topology *topology, struct request *request);
int topology_work_delete(struct topology *topology, struct request *request);
int topology_work_depths(struct topology *topology, struct request *request);
int topology_work_prepare(struct topology *topology, struct request *request);
int topology_work_learn(struct topology *topology, struct request *request);
int topology_work_make_place(struct topology *topology, struct request *request);
int topology_work_levels(struct topology *topology, struct request *request);

#endif
