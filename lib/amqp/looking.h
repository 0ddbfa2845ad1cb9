/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_LOOKING_H
#define MQFS_AMQP_LOOKING_H

#include <mqfs/backend.h>

#include "connection.h"
#include "settling.h"

/*
 * The look connection: what waits in retry/ and dead/ is fetched with basic.get, and held until it is
 * settled. Essay in looking.c.
 */
struct looking;

extern const struct connection_role looking_role;

struct looking *looking_new(struct connection *connection, struct publisher *publisher, struct topology *topology,
                            _Atomic uint64_t *generations);
struct looking *looking_free(struct looking *looking); /* after the connection was joined */

/* As mqfs_backend_ops.browse; thread-safe; 0, or -ENOMEM: done does not run then. */
int looking_browse(struct looking *looking, const char *queue, enum mqfs_place place, size_t limit, int64_t deadline_ms,
                   mqfs_browse_fn *done, void *arg);
struct settling *looking_settling(struct looking *looking);

#endif
