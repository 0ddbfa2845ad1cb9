/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/clock.h>
#include <mqfs/name.h>
#include <mqfs/retry.h>

#include "arguments.h"
#include "topology_internal.h"

/*
 * A queue that exists is never declared, whatever its arguments: whether it does is asked with a passive
 * declare, which also counts its ready messages and consumers. For a queue that is missing the broker
 * closes the channel (404), so all is done in a scratch channel that is opened again when needed.
 *
 * Which delay levels a queue has can't be asked, only tried, one by one, at the price of a channel for each
 * that is missing. Those that were found are remembered, with the time at which all were tried.
 *
 * Whether a queue is a quorum queue can't be asked either. It is known of those that mqfs declared, those that
 * a probe found out about (kind.h; it needs the permission to configure the queue), those whose deliveries came with
 * a count, and those that once refused a conditional delete: with 540, and the whole connection closed.
 */

/* Others may have made levels since. */
#define LEVELS_STALE_MS 300000
#define LEVELS_STALE_LOOK_MS 60000
#define NOT_IMPLEMENTED 540
/* A look that has just ended may take so long to be gone. */
#define LOOKS_END_MS 200
#define LOOKS_POLL_US 10000

/* ---- single calls ---- */

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

/* 0, -ENOENT, … ret_depths may be NULL. */
static int look_at(struct topology *topology, const char *queue, struct mqfs_depths *ret_depths)
{
	return declare(topology, queue, true, amqp_empty_table, ret_depths);
}

static int make(struct topology *topology, const char *queue, const struct arguments *arguments)
{
	int r = declare(topology, queue, false, arguments->table, NULL);

	/* Somebody made it since we looked, with other arguments: it is there. */
	return r == -EPERM && topology->connection->refusal.code == AMQP_PRECONDITION_FAILED ? -EEXIST : r;
}

static int remove_queue(struct topology *topology, const char *queue, bool if_unused, bool if_empty)
{
	int r = scratch(topology);

	if (r < 0)
		return r;
	connection_arm_call(topology->connection);
	amqp_queue_delete(topology->connection->state, topology->scratch, amqp_cstring_bytes(queue), if_unused,
	                  if_empty);
	return called(topology);
}

/* 0, also when it can't be found out, or -ECONNRESET. */
static int learn_kind(struct topology *topology, const char *queue)
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

/* As learn_kind. A look relies on a Q.dead that counts: it may have been made anew since. */
static int learn_dead_kind(struct topology *topology, const char *dead)
{
	if (known_kind(&topology->known, dead) == KIND_COUNTS)
		known_forget(&topology->known, dead);
	return learn_kind(topology, dead);
}

/* ---- helper queues ---- */

static int ensure_dead_queue(struct topology *topology, const char *queue)
{
	struct arguments arguments;
	mqfs_name_t dead;
	int r;

	mqfs_name_dead_queue(queue, dead);
	r = look_at(topology, dead, NULL);
	if (r != -ENOENT)
		return r;
	arguments_dead_queue(&arguments, topology->connection->version);
	r = make(topology, dead, &arguments);
	if (r == 0)
		known_set_kind(&topology->known, dead, KIND_PLAIN);
	return r == -EEXIST ? 0 : r;
}

static int ensure_level(struct topology *topology, const char *queue, int64_t level_ms)
{
	struct arguments arguments;
	mqfs_name_t delay;
	int r;

	mqfs_name_delay_queue(queue, level_ms, delay);
	r = look_at(topology, delay, NULL);
	if (r == -ENOENT) {
		arguments_delay_queue(&arguments, queue, level_ms, topology->connection->version);
		r = make(topology, delay, &arguments);
		r = r == -EEXIST ? 0 : r;
	}
	if (r == 0)
		known_note_level(&topology->known, queue, known_level_index(level_ms), true);
	return r;
}

/* What is in each level (ready -1: no such level), asking only where it makes sense. */
static int count_levels(struct topology *topology, const struct request *request, int64_t stale_ms,
                        struct mqfs_depths ret_levels[KNOWN_LEVELS])
{
	uint32_t try;
	bool all = known_levels(&topology->known, request->queue, stale_ms, &try);
	mqfs_name_t delay;
	int r;

	for (unsigned i = 0; i < KNOWN_LEVELS; i++)
		ret_levels[i] = (struct mqfs_depths){.ready = -1};
	for (unsigned i = 0; i < KNOWN_LEVELS && mqfs_retry_level_at(i) > 0; i++) {
		if (!(try & 1u << i))
			continue;
		if (mqfs_clock_monotonic_ms() > request->job.deadline_ms)
			return -ETIMEDOUT;
		mqfs_name_delay_queue(request->queue, mqfs_retry_level_at(i), delay);
		r = look_at(topology, delay, &ret_levels[i]);
		if (r < 0 && r != -ENOENT)
			return r;
		known_note_level(&topology->known, request->queue, i, r == 0);
	}
	if (all)
		known_note_tried(&topology->known, request->queue);
	return 0;
}

static int count_dead(struct topology *topology, const char *queue, struct mqfs_depths *ret_dead)
{
	mqfs_name_t dead;
	int r;

	*ret_dead = (struct mqfs_depths){0};
	mqfs_name_dead_queue(queue, dead);
	r = look_at(topology, dead, ret_dead);
	return r == -ENOENT ? 0 : r;
}

/* ---- requests, each on the owner thread ---- */

int topology_work_find(struct topology *topology, struct request *request)
{
	int r = look_at(topology, request->queue, NULL);

	if (r == -ENOENT)
		known_forget(&topology->known, request->queue);
	return r;
}

int topology_work_declare(struct topology *topology, struct request *request)
{
	const struct mqfs_settings *settings = &request->settings;
	struct arguments arguments;
	int r = look_at(topology, request->queue, NULL);

	if (r == 0)
		return request->again ? 0 : -EEXIST;
	if (r == -ENOENT && settings->dead_letter)
		r = ensure_dead_queue(topology, request->queue);
	if (r < 0 && r != -ENOENT)
		return r;
	known_forget(&topology->known, request->queue);
	arguments_work_queue(&arguments, request->queue, settings, topology->connection->version);
	r = make(topology, request->queue, &arguments);
	if (r == 0 && settings->type == MQFS_QUEUE_QUORUM)
		known_set_kind(&topology->known, request->queue, KIND_COUNTS);
	return r;
}

/* A place whose node is down is there all the same: that must not keep anybody from working. */
int topology_work_prepare(struct topology *topology, struct request *request)
{
	int64_t level_ms = mqfs_retry_level(topology->settings.backoff_base_ms, false);
	int r = look_at(topology, request->queue, NULL);

	if (r == -ENOENT)
		known_forget(&topology->known, request->queue);
	if (r == 0)
		r = learn_kind(topology, request->queue);
	if (r < 0)
		return r;
	r = ensure_dead_queue(topology, request->queue);
	if (r == 0 || r == -EHOSTDOWN)
		r = ensure_level(topology, request->queue, level_ms);
	return r == -EHOSTDOWN ? 0 : r;
}

int topology_work_learn(struct topology *topology, struct request *request)
{
	return learn_kind(topology, request->queue);
}

int topology_work_make_place(struct topology *topology, struct request *request)
{
	int r = look_at(topology, request->queue, NULL);

	if (r < 0)
		return r;
	if (request->place == MQFS_PLACE_DEAD)
		return ensure_dead_queue(topology, request->queue);
	return ensure_level(topology, request->queue, request->level_ms);
}

int topology_work_depths(struct topology *topology, struct request *request)
{
	struct mqfs_depths levels[KNOWN_LEVELS], dead;
	int r = look_at(topology, request->queue, &request->depths);

	if (r == 0)
		r = count_dead(topology, request->queue, &dead);
	if (r == 0)
		r = count_levels(topology, request, LEVELS_STALE_MS, levels);
	if (r < 0)
		return r;
	request->depths.dead = dead.ready;
	for (unsigned i = 0; i < KNOWN_LEVELS; i++)
		request->depths.retry += levels[i].ready > 0 ? levels[i].ready : 0;
	return 0;
}

int topology_work_levels(struct topology *topology, struct request *request)
{
	struct mqfs_depths levels[KNOWN_LEVELS], dead;
	mqfs_name_t name;
	int r;

	request->levels_count = 0;
	if (request->place == MQFS_PLACE_DEAD) {
		r = count_dead(topology, request->queue, &dead);
		if (r < 0 || dead.ready == 0)
			return r;
		request->levels[request->levels_count++] = 0;
		mqfs_name_dead_queue(request->queue, name);
		return learn_dead_kind(topology, name);
	}
	r = count_levels(topology, request, LEVELS_STALE_LOOK_MS, levels);
	for (unsigned i = 0; r == 0 && i < KNOWN_LEVELS; i++)
		if (levels[i].ready > 0)
			request->levels[request->levels_count++] = mqfs_retry_level_at(i);
	return r;
}

/* ---- deleting (Q3) ---- */

static bool was_not_implemented(const struct topology *topology, int result)
{
	return result == -ECONNRESET && topology->connection->refusal.code == NOT_IMPLEMENTED;
}

/* The broker said that the condition doesn't hold, but not which. */
static int busy_or_full(struct topology *topology, const char *queue)
{
	struct mqfs_depths depths;
	int r = look_at(topology, queue, &depths);

	if (r < 0)
		return r;
	return depths.consumers > 0 ? -EBUSY : -ENOTEMPTY;
}

/* Checked and deleted in two steps, which is all a quorum queue allows. */
static int remove_unsafely(struct topology *topology, const char *queue)
{
	struct mqfs_depths depths;
	int r = look_at(topology, queue, &depths);

	if (r < 0)
		return r;
	if (depths.consumers > 0)
		return -EBUSY;
	return depths.ready > 0 ? -ENOTEMPTY : remove_queue(topology, queue, false, false);
}

static int remove_work_queue(struct topology *topology, const struct request *request)
{
	int r;

	if (known_kind(&topology->known, request->queue) == KIND_COUNTS)
		return request->unsafe ? remove_unsafely(topology, request->queue) : -EOPNOTSUPP;
	r = remove_queue(topology, request->queue, true, true);
	if (was_not_implemented(topology, r)) {
		known_set_kind(&topology->known, request->queue, KIND_COUNTS);
		return request->unsafe ? -ECONNRESET : -EOPNOTSUPP;
	}
	if (r == -EPERM && topology->connection->refusal.code == AMQP_PRECONDITION_FAILED)
		return busy_or_full(topology, request->queue);
	return r;
}

/* What is left behind is never content: each goes when it is found empty, and it does no harm if one stays. */
static void remove_helpers(struct topology *topology, const char *queue, const struct mqfs_depths levels[KNOWN_LEVELS])
{
	mqfs_name_t name;
	int r = 0;

	for (unsigned i = 0; i < KNOWN_LEVELS && r != -ECONNRESET; i++) {
		if (levels[i].ready < 0)
			continue;
		mqfs_name_delay_queue(queue, mqfs_retry_level_at(i), name);
		r = remove_unsafely(topology, name);
	}
	mqfs_name_dead_queue(queue, name);
	if (r == -ECONNRESET || look_at(topology, name, NULL) < 0 || learn_dead_kind(topology, name) < 0)
		return;
	if (known_kind(&topology->known, name) != KIND_COUNTS && remove_queue(topology, name, true, true) == 0)
		known_forget(&topology->known, name);
}

/* What is held by a look counts as content too; who looks is counted as a consumer (looking.c). */
static int check_helper(const struct mqfs_depths *helper)
{
	if (helper->ready > 0)
		return -ENOTEMPTY;
	return helper->consumers > 0 ? -EBUSY : 0;
}

/* 0 when there is nothing in retry/ and dead/, and nobody looks at them. */
static int check_helpers(struct topology *topology, const struct request *request,
                         struct mqfs_depths ret_levels[KNOWN_LEVELS])
{
	struct mqfs_depths dead;
	int r = count_levels(topology, request, 0, ret_levels);

	if (r == 0)
		r = count_dead(topology, request->queue, &dead);
	if (r == 0)
		r = check_helper(&dead);
	for (unsigned i = 0; r == 0 && i < KNOWN_LEVELS; i++)
		r = check_helper(&ret_levels[i]);
	return r;
}

int topology_work_delete(struct topology *topology, struct request *request)
{
	int64_t until_ms = mqfs_clock_monotonic_ms() + LOOKS_END_MS;
	struct mqfs_depths levels[KNOWN_LEVELS];
	int r = look_at(topology, request->queue, NULL);

	if (r < 0)
		return r == -ENOENT && request->again ? 0 : r;
	while ((r = check_helpers(topology, request, levels)) == -EBUSY && mqfs_clock_monotonic_ms() < until_ms)
		usleep(LOOKS_POLL_US);
	if (r < 0)
		return r;
	r = remove_work_queue(topology, request);
	if (r == 0) {
		remove_helpers(topology, request->queue, levels);
		known_forget(&topology->known, request->queue);
	}
	return r;
}
