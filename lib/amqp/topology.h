/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_TOPOLOGY_H
#define MQFS_AMQP_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mqfs/backend.h>

#include "connection.h"

/*
 * The admin connection: which queues there are, what is in them, making and deleting them. Each request is
 * a job that makes its synchronous calls one after the other; a deadline that passes meanwhile is answered
 * by the watchdog. Essays in topology_calls.c and topology_work.c.
 *
 * All functions are thread-safe. Those that take a completion return 0, or -ENOMEM: it does not run then.
 */
struct topology;

extern const struct connection_role topology_role;

struct topology *topology_new(struct connection *connection, const struct mqfs_settings *settings);
struct topology *topology_free(struct topology *topology); /* after the connection was joined */

int topology_find(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg);
int topology_declare(struct topology *topology, const char *queue, const struct mqfs_settings *settings,
                     int64_t deadline_ms, mqfs_done_fn *done, void *arg);
int topology_delete(struct topology *topology, const char *queue, bool unsafe, int64_t deadline_ms, mqfs_done_fn *done,
                    void *arg);
int topology_depths(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done, void *arg);

/* Makes sure of Q.dead and of the delay level of a first retry. -ENOENT: queue itself is not there. */
int topology_prepare(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg);
/* Finds out what topology_counts tells of the queue, as far as that can be. */
int topology_learn(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg);
/* Makes the queue of one place (RETRY with its level, DEAD), which turned out to be missing. -ENOENT as above. */
int topology_make_place(struct topology *topology, const char *queue, enum mqfs_place place, int64_t level_ms,
                        int64_t deadline_ms, mqfs_done_fn *done, void *arg);

/* The delay levels of queue (for RETRY) that hold something, or for DEAD a 0 when Q.dead does. Valid during the call.
 */
typedef void topology_levels_fn(void *arg, int result, const int64_t *levels_ms, size_t count);
int topology_levels(struct topology *topology, const char *queue, enum mqfs_place place, int64_t deadline_ms,
                    topology_levels_fn *done, void *arg);

/* Does the broker count this queue's deliveries (is it a quorum queue)? As far as is known. Never block. */
bool topology_counts(struct topology *topology, const char *queue);
void topology_set_counts(struct topology *topology, const char *queue);
/* The queue has refused a message: it may do so to a retry that comes home. Never blocks. */
void topology_note_refusal(struct topology *topology, const char *queue);

#endif
