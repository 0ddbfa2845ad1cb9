/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_WATCHDOG_H
#define MQFS_AMQP_WATCHDOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The one thread that never waits for a broker. It keeps every deadline that a connection's owner can't
 * keep while it is stuck in a call (connection_watch): jobs that wait too long, jobs handed in while
 * the connection is away, and sockets to be shut.
 *
 * It sleeps until the earliest deadline it knows of; whoever brings an earlier one notifies it. Since
 * deadlines mostly come in order, that is seldom.
 */
struct connection;

#define WATCHDOG_CONNECTIONS 4

struct watchdog {
	/* Constant once started. */
	struct connection *connections[WATCHDOG_CONNECTIONS];
	size_t count;
	pthread_t thread;

	_Atomic int64_t next_ms; /* it looks again by then; MQFS_NEVER while it is looking */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake;
	bool notified;
	bool stopping;
};

int watchdog_init(struct watchdog *watchdog);
void watchdog_deinit(struct watchdog *watchdog);
void watchdog_add(struct watchdog *watchdog, struct connection *connection); /* before the start */
int watchdog_start(struct watchdog *watchdog);
void watchdog_stop(struct watchdog *watchdog); /* and joins */

/* Something is due at that time. No lock of a connection's may be held. */
void watchdog_notify(struct watchdog *watchdog, int64_t due_ms);

#endif
