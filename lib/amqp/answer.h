/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_ANSWER_H
#define MQFS_AMQP_ANSWER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include <mqfs/backend.h>

#include "connection.h"

/*
 * Answers that are known at once, but must not be given inside the call: above all that there is no
 * memory for the request. For that case a few are kept in reserve.
 */
#define ANSWERS_RESERVED 64

struct answer {
	struct job job;
	struct answers *answers;
	/* One of these. */
	mqfs_done_fn *done;
	mqfs_depths_fn *depths;
	mqfs_list_fn *list;
	mqfs_browse_fn *browse;
	void *arg;
	int result;
	const char *reason; /* static */
	bool reserved;
};

struct answers {
	struct connection *connection; /* which gives them */
	pthread_mutex_t lock;          /* guards all below; a leaf */
	struct answer reserve[ANSWERS_RESERVED];
	bool taken[ANSWERS_RESERVED];
};

void answers_init(struct answers *answers, struct connection *connection);
void answers_deinit(struct answers *answers);

/* Copies the template's function, arg, result and reason. Thread-safe. */
void answer_later(struct answers *answers, const struct answer *template);

#endif
