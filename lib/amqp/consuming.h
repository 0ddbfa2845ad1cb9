/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_CONSUMING_H
#define MQFS_AMQP_CONSUMING_H

#include <mqfs/backend.h>

#include "connection.h"
#include "settling.h"

/*
 * The consume connection: a channel for each queue that is consumed. Essay in consuming.c. All functions
 * are thread-safe, and return 0, or -ENOMEM: nothing was done then, and no completion runs.
 */
struct consuming;

extern const struct connection_role consuming_role;

/* generations: shared by all that hand out deliveries. */
struct consuming *consuming_new(struct connection *connection, struct publisher *publisher, struct topology *topology,
                                _Atomic uint64_t *generations);
struct consuming *consuming_free(struct consuming *consuming); /* after the connection was joined */

int consuming_start(struct consuming *consuming, const char *queue, int prefetch, const struct mqfs_sink *sink,
                    void *arg);
int consuming_cancel(struct consuming *consuming, const char *queue, mqfs_done_fn *done, void *arg);
struct settling *consuming_settling(struct consuming *consuming);

#endif
