/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "topology_internal.h"

/*
 * A queue that exists is never declared, whatever its arguments: whether it does is asked with a passive
 * declare, which also counts its ready messages and consumers. For a queue that is missing the broker
 * closes the channel (404), so all is done in a scratch channel that is opened again when needed.
 *
 * Whether a queue is a quorum queue can't be asked either. It is known of those that mqfs declared, those that
 * a probe found out about (kind.h; it needs the permission to configure the queue), those whose deliveries came with
 * a count, and those that once refused a conditional delete: with 540, and the whole connection closed.
 */

static int scratch(struct topology *topology)
{
	return topology->scratch ? 0 : connection_channel_open(topology->connection, &topology->scratch);
}

/* The outcome of a call in the scratch channel, which a refusal has closed. */
static int called(struct topology *topology)
{
	const struct refusal *refusal = &topology->connection->refusal;
	int r = connection_called(topology->connection, topology->scratch);

	if (r == 0)
		return 0;
	topology->scratch = 0;
	/* "home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible" */
	if (r == -ENOENT && strstr(refusal->text, "inaccessible"))
		return -EHOSTDOWN;
	return r;
}

static int declare(struct topology *topology, const char *queue, bool passive, amqp_table_t arguments,
                   struct mqfs_depths *ret_depths)
{
	amqp_queue_declare_ok_t *ok;
	int r = scratch(topology);

	if (r < 0)
		return r;
	connection_arm_call(topology->connection);
	ok = amqp_queue_declare(topology->connection->state, topology->scratch, amqp_cstring_bytes(queue), passive, 1,
	                        0, 0, arguments);
	r = called(topology);
	if (r == 0 && ret_depths)
		*ret_depths = (struct mqfs_depths){.ready = ok->message_count, .consumers = ok->consumer_count};
	return r;
}

int topology_look_at(struct topology *topology, const char *queue, struct mqfs_depths *ret_depths)
{
	return declare(topology, queue, true, amqp_empty_table, ret_depths);
}

int topology_make(struct topology *topology, const char *queue, const struct arguments *arguments)
{
	int r = declare(topology, queue, false, arguments->table, NULL);

	/* Somebody made it since we looked, with other arguments: it is there. */
	return r == -EPERM && topology->connection->refusal.code == AMQP_PRECONDITION_FAILED ? -EEXIST : r;
}

int topology_remove(struct topology *topology, const char *queue, bool if_unused, bool if_empty)
{
	int r = scratch(topology);

	if (r < 0)
		return r;
	connection_arm_call(topology->connection);
	amqp_queue_delete(topology->connection->state, topology->scratch, amqp_cstring_bytes(queue), if_unused,
	                  if_empty);
	return called(topology);
}

int topology_learn_kind(struct topology *topology, const char *queue)
{
	struct kind_probe probe;
	enum kind kind;
	int r;

	if (known_kind(&topology->known, queue) != KIND_UNKNOWN)
		return 0;
	kind_probe_init(&probe);
	do {
		kind = KIND_UNKNOWN;
		r = declare(topology, queue, false, probe.table, NULL);
	} while (r == -EPERM && !kind_probe_read(&probe, topology->connection->refusal.text, &kind));
	if (kind != KIND_UNKNOWN)
		known_set_kind(&topology->known, queue, kind);
	return r == -ECONNRESET ? r : 0;
}

int topology_learn_dead_kind(struct topology *topology, const char *dead)
{
	if (known_kind(&topology->known, dead) == KIND_COUNTS)
		known_forget(&topology->known, dead);
	return topology_learn_kind(topology, dead);
}

int topology_learn_refuses(struct topology *topology, const char *queue, bool *ret_refuses)
{
	struct kind_probe probe;
	int r;

	*ret_refuses = true;
	if (known_kind(&topology->known, queue) == KIND_COUNTS || known_refused(&topology->known, queue))
		return 0;
	kind_probe_init_overflow(&probe);
	do {
		r = declare(topology, queue, false, probe.table, NULL);
	} while (r == -EPERM && !kind_probe_read_overflow(&probe, topology->connection->refusal.text, ret_refuses));
	return r == -ECONNRESET ? r : 0;
}
