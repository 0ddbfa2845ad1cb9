/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.topology"
#include <mqfs/log.h>

#include "topology_internal.h"

/*
 * Requests: each is a job of the admin connection, works through its calls on the owner's thread
 * (topology_work.c) and is answered there, or before by the watchdog when its deadline passes. When the connection is
 * lost on the way it is done once more: every request may be.
 */

static struct request *request_free(struct request *request)
{
	free(request->queue);
	free(request);
	return NULL;
}

static void request_tell(const struct request *request, int result, const char *reason)
{
	if (request->depths_done)
		request->depths_done(request->arg, result, result == 0 ? &request->depths : NULL);
	else if (request->levels_done)
		request->levels_done(request->arg, result, request->levels, result == 0 ? request->levels_count : 0);
	else
		request->done(request->arg, result, reason);
}

static void request_fail(struct job *job, int result, const char *reason)
{
	struct request *request = (struct request *)job;

	request_tell(request, result, reason);
	request_free(request);
}

/* On the watchdog's thread, while run is busy with it. */
static void request_overdue(struct job *job)
{
	request_tell((struct request *)job, -ETIMEDOUT, "the broker did not answer in time");
}

/* Why, when it was not the broker that said so. */
static const char *own_reason(int result)
{
	switch (result) {
	case -EEXIST:
		return "the queue exists";
	case -ENOTEMPTY:
		return "there are messages in the queue, in retry or in dead";
	case -EBUSY:
		return "others consume from the queue, or look at its retry or dead";
	case -EOPNOTSUPP:
		return "the broker can't check and delete a quorum queue in one step";
	default:
		return NULL;
	}
}

static void note_reason(struct request *request, int result)
{
	const struct connection *connection = request->topology->connection;
	const char *reason = own_reason(result);

	if (!reason)
		reason = result == -ECONNRESET ? connection->failure : connection->refusal.text;
	snprintf(request->reason, sizeof(request->reason), "%s", reason);
}

static void request_run(struct job *job, void *role)
{
	struct request *request = (struct request *)job;
	struct topology *topology = role;
	struct connection *connection = topology->connection;
	int r;

	connection->refusal = (struct refusal){0};
	r = request->work(topology, request);
	note_reason(request, r);
	if (!connection_answer(connection, job)) {
		request_free(request);
		return;
	}
	if (r == -EAGAIN) {
		DL_APPEND(topology->later, job);
		return;
	}
	if (r == -ECONNRESET && !request->again && job->deadline_ms > mqfs_clock_monotonic_ms()) {
		request->again = true;
		job->late_result = -ETIMEDOUT;
		connection_requeue(connection, job);
		return;
	}
	request_tell(request, r == -ECONNRESET ? -ETIMEDOUT : r, *request->reason ? request->reason : NULL);
	request_free(request);
}

static struct request *request_new(struct topology *topology,
                                   int (*work)(struct topology *topology, struct request *request), const char *queue,
                                   int64_t deadline_ms, void *arg)
{
	struct request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	*request = (struct request){
	    .job = {.run = request_run,
	            .fail = request_fail,
	            .overdue = request_overdue,
	            .deadline_ms = deadline_ms,
	            .late_result = -EHOSTDOWN,
	            .away_result = -EHOSTDOWN},
	    .topology = topology,
	    .work = work,
	    .queue = strdup(queue),
	    .arg = arg,
	};
	return request->queue ? request : request_free(request);
}

static int request_submit(struct topology *topology, struct request *request)
{
	if (!request)
		return -ENOMEM;
	connection_submit(topology->connection, &request->job);
	return 0;
}

int topology_find(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_find, queue, deadline_ms, arg);

	if (request)
		request->done = done;
	return request_submit(topology, request);
}

int topology_declare(struct topology *topology, const char *queue, const struct mqfs_settings *settings,
                     int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_declare, queue, deadline_ms, arg);

	if (request) {
		request->done = done;
		request->settings = *settings;
	}
	return request_submit(topology, request);
}

int topology_delete(struct topology *topology, const char *queue, bool unsafe, int64_t deadline_ms, mqfs_done_fn *done,
                    void *arg)
{
	struct request *request = request_new(topology, topology_work_delete, queue, deadline_ms, arg);

	if (request) {
		request->done = done;
		request->unsafe = unsafe;
	}
	return request_submit(topology, request);
}

int topology_depths(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_depths, queue, deadline_ms, arg);

	if (request)
		request->depths_done = done;
	return request_submit(topology, request);
}

int topology_prepare(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_prepare, queue, deadline_ms, arg);

	if (request)
		request->done = done;
	return request_submit(topology, request);
}

int topology_learn(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_learn, queue, deadline_ms, arg);

	if (request)
		request->done = done;
	return request_submit(topology, request);
}

int topology_make_place(struct topology *topology, const char *queue, enum mqfs_place place, int64_t level_ms,
                        int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_make_place, queue, deadline_ms, arg);

	if (request) {
		request->done = done;
		request->place = place;
		request->level_ms = level_ms;
	}
	return request_submit(topology, request);
}

int topology_levels(struct topology *topology, const char *queue, enum mqfs_place place, int64_t deadline_ms,
                    topology_levels_fn *done, void *arg)
{
	struct request *request = request_new(topology, topology_work_levels, queue, deadline_ms, arg);

	if (request) {
		request->levels_done = done;
		request->place = place;
	}
	return request_submit(topology, request);
}

bool topology_counts(struct topology *topology, const char *queue)
{
	return known_kind(&topology->known, queue) == KIND_COUNTS;
}

void topology_set_counts(struct topology *topology, const char *queue)
{
	known_set_kind(&topology->known, queue, KIND_COUNTS);
}

void topology_note_refusal(struct topology *topology, const char *queue)
{
	known_note_refusal(&topology->known, queue);
}

/* ---- the role ---- */

static int topology_opened(void *arg)
{
	struct topology *topology = arg;

	topology->scratch = 0;
	return 0;
}

/* Back in line, where the deadline is watched, with what is due. */
static int64_t topology_work(void *arg, int64_t now_ms)
{
	struct topology *topology = arg;
	int64_t next_ms = MQFS_NEVER;
	struct job *job, *tmp;

	DL_FOREACH_SAFE(topology->later, job, tmp)
	{
		int64_t due_ms = ((struct request *)job)->due_ms;

		if (due_ms <= now_ms) {
			DL_DELETE(topology->later, job);
			connection_requeue(topology->connection, job);
		} else if (due_ms < next_ms) {
			next_ms = due_ms;
		}
	}
	return next_ms;
}

static void topology_lost(void *arg, int result, const char *reason)
{
	struct topology *topology = arg;

	(void)result;
	(void)reason;
	topology->scratch = 0;
	topology_work(topology, MQFS_NEVER);
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct topology *topology = arg;

	(void)code;
	(void)text;
	connection_channel_gone(topology->connection, channel);
	topology->scratch = 0;
}

static const struct frame_events topology_events = {
    .channel_closed = on_channel_closed,
};

const struct connection_role topology_role = {
    .name = "admin",
    .events = &topology_events,
    .opened = topology_opened,
    .lost = topology_lost,
    .work = topology_work,
};

struct topology *topology_new(struct connection *connection, const struct mqfs_settings *settings)
{
	struct topology *topology = calloc(1, sizeof(*topology));

	if (!topology)
		return NULL;
	topology->connection = connection;
	topology->settings = *settings;
	known_init(&topology->known);
	return topology;
}

struct topology *topology_free(struct topology *topology)
{
	if (!topology)
		return NULL;
	known_deinit(&topology->known);
	free(topology);
	return NULL;
}
