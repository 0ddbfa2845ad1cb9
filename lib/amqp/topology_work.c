/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <mqfs/clock.h>
#include <mqfs/name.h>
#include <mqfs/retry.h>

#include "arguments.h"
#include "topology_internal.h"

/*
 * What each request does. Which delay levels a queue has can't be asked, only tried, one by one, at the price of a
 * channel for each that is missing. Those that were found are remembered, with the time at which all were tried.
 */

/* Others may have made levels since. */
#define LEVELS_STALE_MS 300000
#define LEVELS_STALE_LOOK_MS 60000
#define NOT_IMPLEMENTED 540
/* A look that has just ended may take so long to be gone. */
#define LOOKS_END_MS 200
#define LOOKS_POLL_MS 10
/* What has left a level is at its queue by then, unless that refused it. */
#define HOME_MS 100

/* ---- helper queues ---- */

static int ensure_dead_queue(struct topology *topology, const char *queue)
{
	struct arguments arguments;
	mqfs_name_t dead;
	int r;

	mqfs_name_dead_queue(queue, dead);
	r = topology_look_at(topology, dead, NULL);
	if (r != -ENOENT)
		return r;
	arguments_dead_queue(&arguments, topology->connection->version);
	r = topology_make(topology, dead, &arguments);
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
	r = topology_look_at(topology, delay, NULL);
	if (r == -ENOENT) {
		arguments_delay_queue(&arguments, queue, level_ms, topology->connection->version);
		r = topology_make(topology, delay, &arguments);
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
		r = topology_look_at(topology, delay, &ret_levels[i]);
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
	r = topology_look_at(topology, dead, ret_dead);
	return r == -ENOENT ? 0 : r;
}

/* ---- requests, each on the owner thread ---- */

int topology_work_find(struct topology *topology, struct request *request)
{
	int r = topology_look_at(topology, request->queue, NULL);

	if (r == -ENOENT)
		known_forget(&topology->known, request->queue);
	return r;
}

int topology_work_declare(struct topology *topology, struct request *request)
{
	const struct mqfs_settings *settings = &request->settings;
	struct arguments arguments;
	int r = topology_look_at(topology, request->queue, NULL);

	if (r == 0)
		return request->again ? 0 : -EEXIST;
	if (r == -ENOENT && settings->dead_letter)
		r = ensure_dead_queue(topology, request->queue);
	if (r < 0 && r != -ENOENT)
		return r;
	known_forget(&topology->known, request->queue);
	arguments_work_queue(&arguments, request->queue, settings, topology->connection->version);
	r = topology_make(topology, request->queue, &arguments);
	if (r == 0 && settings->type == MQFS_QUEUE_QUORUM)
		known_set_kind(&topology->known, request->queue, KIND_COUNTS);
	return r;
}

/* A place whose node is down is there all the same: that must not keep anybody from working. */
int topology_work_prepare(struct topology *topology, struct request *request)
{
	int64_t level_ms = mqfs_retry_level(topology->settings.backoff_base_ms, false);
	int r = topology_look_at(topology, request->queue, NULL);

	if (r == -ENOENT)
		known_forget(&topology->known, request->queue);
	if (r == 0)
		r = topology_learn_kind(topology, request->queue);
	if (r < 0)
		return r;
	r = ensure_dead_queue(topology, request->queue);
	if (r == 0 || r == -EHOSTDOWN)
		r = ensure_level(topology, request->queue, level_ms);
	return r == -EHOSTDOWN ? 0 : r;
}

int topology_work_learn(struct topology *topology, struct request *request)
{
	return topology_learn_kind(topology, request->queue);
}

int topology_work_make_place(struct topology *topology, struct request *request)
{
	int r = topology_look_at(topology, request->queue, NULL);

	if (r < 0)
		return r;
	if (request->place == MQFS_PLACE_DEAD)
		return ensure_dead_queue(topology, request->queue);
	return ensure_level(topology, request->queue, request->level_ms);
}

int topology_work_depths(struct topology *topology, struct request *request)
{
	struct mqfs_depths levels[KNOWN_LEVELS], dead;
	int r = topology_look_at(topology, request->queue, &request->depths);

	if (r == 0)
		r = count_dead(topology, request->queue, &dead);
	if (r == 0)
		r = count_levels(topology, request, LEVELS_STALE_MS, levels);
	if (r != 0)
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
		return topology_learn_dead_kind(topology, name);
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
	int r = topology_look_at(topology, queue, &depths);

	if (r < 0)
		return r;
	return depths.consumers > 0 ? -EBUSY : -ENOTEMPTY;
}

/* Checked and deleted in two steps, which is all a quorum queue allows. */
static int remove_unsafely(struct topology *topology, const char *queue)
{
	struct mqfs_depths depths;
	int r = topology_look_at(topology, queue, &depths);

	if (r < 0)
		return r;
	if (depths.consumers > 0)
		return -EBUSY;
	return depths.ready > 0 ? -ENOTEMPTY : topology_remove(topology, queue, false, false);
}

static int remove_work_queue(struct topology *topology, const struct request *request)
{
	int r;

	if (known_kind(&topology->known, request->queue) == KIND_COUNTS)
		return request->unsafe ? remove_unsafely(topology, request->queue) : -EOPNOTSUPP;
	r = topology_remove(topology, request->queue, true, true);
	if (was_not_implemented(topology, r)) {
		known_set_kind(&topology->known, request->queue, KIND_COUNTS);
		return request->unsafe ? -ECONNRESET : -EOPNOTSUPP;
	}
	if (r == -EPERM && topology->connection->refusal.code == AMQP_PRECONDITION_FAILED)
		return busy_or_full(topology, request->queue);
	return r;
}

/* Levels that may hold what can't be counted stay (see topology_work_delete); it does no harm if one does. Each other
 * helper goes when it is found empty. */
static void remove_helpers(struct topology *topology, const struct request *request,
                           const struct mqfs_depths levels[KNOWN_LEVELS])
{
	mqfs_name_t name;
	int r = 0;

	for (unsigned i = 0; i < KNOWN_LEVELS && r != -ECONNRESET && !request->refuses; i++) {
		if (levels[i].ready < 0)
			continue;
		mqfs_name_delay_queue(request->queue, mqfs_retry_level_at(i), name);
		r = remove_unsafely(topology, name);
	}
	mqfs_name_dead_queue(request->queue, name);
	if (r == -ECONNRESET || topology_look_at(topology, name, NULL) < 0 ||
	    topology_learn_dead_kind(topology, name) < 0)
		return;
	if (known_kind(&topology->known, name) != KIND_COUNTS && topology_remove(topology, name, true, true) == 0)
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
static int check_helpers(struct topology *topology, const struct request *request, int64_t stale_ms,
                         struct mqfs_depths ret_levels[KNOWN_LEVELS])
{
	struct mqfs_depths dead;
	int r = count_levels(topology, request, stale_ms, ret_levels);

	if (r == 0)
		r = count_dead(topology, request->queue, &dead);
	if (r == 0)
		r = check_helper(&dead);
	for (unsigned i = 0; r == 0 && i < KNOWN_LEVELS; i++)
		r = check_helper(&ret_levels[i]);
	return r;
}

static bool has_levels(const struct mqfs_depths levels[KNOWN_LEVELS])
{
	bool has = false;

	for (unsigned i = 0; i < KNOWN_LEVELS; i++)
		has |= levels[i].ready >= 0;
	return has;
}

static int later(struct request *request, int64_t delay_ms)
{
	request->due_ms = mqfs_clock_monotonic_ms() + delay_ms;
	return -EAGAIN;
}

/*
 * What has left a level and is not yet taken at home, the broker counts nowhere: it holds it until the queue confirms
 * it. Mostly that is a moment, and by waiting it out it shows in the queue. But a queue that refuses what comes when it
 * is full lets it wait for minutes, so that it may look empty meanwhile, and so does its level: that stays, and brings
 * the message home when there is such a queue again.
 */
int topology_work_delete(struct topology *topology, struct request *request)
{
	bool first = request->looks_ms == 0;
	struct mqfs_depths levels[KNOWN_LEVELS];
	int r = topology_look_at(topology, request->queue, NULL);

	if (r < 0)
		return r == -ENOENT && request->again ? 0 : r;
	r = check_helpers(topology, request, first ? 0 : LEVELS_STALE_LOOK_MS, levels);
	if (first)
		request->looks_ms = mqfs_clock_monotonic_ms() + LOOKS_END_MS;
	if (r == -EBUSY && mqfs_clock_monotonic_ms() < request->looks_ms)
		return later(request, LOOKS_POLL_MS);
	if (r == 0 && has_levels(levels) && !request->waited) {
		request->waited = true;
		return later(request, HOME_MS);
	}
	if (r == 0 && has_levels(levels))
		r = topology_learn_refuses(topology, request->queue, &request->refuses);
	if (r == 0)
		r = remove_work_queue(topology, request);
	if (r == 0) {
		remove_helpers(topology, request, levels);
		known_forget(&topology->known, request->queue);
	}
	return r;
}
