/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_TOPOLOGY_INTERNAL_H
#define MQFS_AMQP_TOPOLOGY_INTERNAL_H

#include "known.h"
#include "topology.h"

struct topology {
	struct connection *connection;
	struct mqfs_settings settings;
	struct known known;
	amqp_channel_t scratch; /* 0: not open; the owner's */
};

struct request {
	struct job job;
	struct topology *topology;
	int (*work)(struct topology *topology, struct request *request); /* an outcome, or -ECONNRESET */
	char *queue;
	enum mqfs_place place;
	int64_t level_ms;
	bool unsafe;
	bool again; /* the connection was lost on the first try */
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
