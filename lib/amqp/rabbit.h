/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_RABBIT_H
#define MQFS_AMQP_RABBIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <mqfs/backend.h>
#include <mqfs/settings.h>

#include "answer.h"
#include "connection.h"
#include "consuming.h"
#include "looking.h"
#include "publisher.h"
#include "topology.h"
#include "url.h"
#include "watchdog.h"

/*
 * The backend: four connections by role, so that a broker that blocks publishers (an alarm) doesn't
 * stop acknowledgements, and slow questions don't stop either.
 *
 *   publish    publisher.c    consume    consuming.c, settling.c
 *   admin      topology.c     look       looking.c, settling.c; opened at the first look
 *
 * Each module hands work on to the others' connections, never touches them. Here is what they share: opening,
 * closing, and the state as a whole.
 */

enum { PUBLISH, CONSUME, ADMIN, LOOK, CONNECTIONS };

/* Those without which the backend is away. */
#define NEEDED_CONNECTIONS LOOK

struct rabbit {
	struct mqfs_backend backend; /* first */
	struct url *url;
	struct mqfs_settings settings;
	struct watchdog watchdog;
	struct connection connections[CONNECTIONS];
	struct topology *topology;
	struct publisher *publisher;
	struct consuming *consuming;
	struct looking *looking;
	struct answers answers;
	_Atomic uint64_t generations; /* of channels that hold deliveries; never one twice */
	size_t initialised;           /* connections */
	size_t started;
	bool watching;

	pthread_mutex_t lock; /* guards all below; a leaf */
	pthread_cond_t changed;
	bool open; /* the first connection is made: changes are told from now on */
	bool connected;
	bool blocked;
	int64_t since_us;
};

static inline struct rabbit *to_rabbit(struct mqfs_backend *backend)
{
	return (struct rabbit *)backend;
}

extern const struct mqfs_backend_ops rabbit_ops; /* amqp.c */

/* open.c. gather: under the lock; connected when all that are needed are, and the first reason that there is. */
void rabbit_gather(struct rabbit *rabbit, struct connection_status *ret_status);
void rabbit_close(struct mqfs_backend *backend);

#endif
