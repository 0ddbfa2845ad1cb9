/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_PUBLISHER_H
#define MQFS_AMQP_PUBLISHER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <mqfs/backend.h>

#include "connection.h"

/*
 * The publish connection: everything goes out mandatory, persistent and confirmed, many messages on the way at a time.
 * Essay in publisher_internal.h.
 */
struct publisher;
struct topology;

extern const struct connection_role publisher_role;

struct publisher *publisher_new(struct connection *connection, struct topology *topology);
struct publisher *publisher_free(struct publisher *publisher); /* after the connection was joined */

/*
 * Publishes to queue's place (READY, RETRY, DEAD); level_ms is RETRY's delay level, and mqfs-next-at is set from it.
 * message is taken over, also when there is no memory (-ENOMEM: done does not run). Else 0, and done runs
 * once, by deadline_ms, on any thread but never inside this call.
 */
int publisher_submit(struct publisher *publisher, const char *queue, enum mqfs_place place, int64_t level_ms,
                     struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

#endif
