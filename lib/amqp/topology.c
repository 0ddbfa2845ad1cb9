/* SPDX-License-Identifier: MIT */
#include "topology.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include <mqfs/clock.h>
#include <mqfs/name.h>
#include <mqfs/retry.h>
#define LOG_TOPIC "amqp.topology"
#include <mqfs/log.h>

#include "arguments.h"

/*
 * A queue that exists is never declared, whatever its arguments: whether it does is asked with a passive
 * declare, which also counts its ready messages and consumers. For a queue that is missing the broker
 * closes the channel (404), so all is done in a scratch channel that is opened again when needed.
 *
 * Which delay levels a queue has can't be asked, only tried, one by one, at the price of a channel for each
 * that is missing. Those that were found are remembered, with the time at which all were tried.
 *
 * Whether a queue is a quorum queue can't be asked either. It is known of those that mqfs declared, those whose
 * deliveries came with a count, and those that once refused a conditional delete: with 540, and the whole
 * connection closed.
 */

#define LEVELS 32
/* Others may have made levels since. */
#define LEVELS_STALE_MS 300000
#define LEVELS_STALE_LOOK_MS 60000
#define NOT_IMPLEMENTED 540

struct known {
	char *queue;
	bool counts;
	uint32_t levels;  /* a bit for each that was there */
	int64_t tried_ms; /* when all were tried, or 0 */
	UT_hash_handle hh;
};

struct topology {
	struct connection *connection;
	struct mqfs_settings settings;
	amqp_channel_t scratch; /* 0: not open; the owner's */

	pthread_mutex_t lock; /* guards known; a leaf */
	struct known *known;  /* uthash by queue */
};

struct request {
	struct job job;
	struct topology *topology;
	int (*work)(struct topology *topology, struct request *request); /* an outcome, or -ECONNRESET */
	char *queue;
	enum mqfs_place place;
	int64_t level_ms;
	bool unsafe;
	bool again; /* the connection was lost on the first try */
	struct mqfs_settings settings;

	/* Exactly one of these. */
	mqfs_done_fn *done;
	mqfs_depths_fn *depths_done;
	topology_levels_fn *levels_done;
	void *arg;

	char reason[256];
	struct mqfs_depths depths;
	int64_t levels[LEVELS];
	size_t levels_count;
};

/* ---- what is known ---- */

/* Under the lock. NULL: not there, and not to be made or no memory for it. */
static struct known *known_get(struct topology *topology, const char *queue, bool make)
{
	struct known *known;

	HASH_FIND_STR(topology->known, queue, known);
	if (known || !make)
		return known;
	known = calloc(1, sizeof(*known));
	if (!known)
		return NULL;
	known->queue = strdup(queue);
	if (!known->queue) {
		free(known);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, topology->known, known->queue, strlen(known->queue), known);
	return known;
}

static void known_remove(struct topology *topology, struct known *known)
{
	HASH_DEL(topology->known, known);
	free(known->queue);
	free(known);
}

static void forget(struct topology *topology, const char *queue)
{
	struct known *known;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, false);
	if (known)
		known_remove(topology, known);
	pthread_mutex_unlock(&topology->lock);
}

bool topology_counts(struct topology *topology, const char *queue)
{
	struct known *known;
	bool counts;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, false);
	counts = known && known->counts;
	pthread_mutex_unlock(&topology->lock);
	return counts;
}

void topology_set_counts(struct topology *topology, const char *queue)
{
	struct known *known;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, true);
	if (known)
		known->counts = true;
	pthread_mutex_unlock(&topology->lock);
}

static unsigned level_index(int64_t level_ms)
{
	unsigned index = 0;

	while (index < LEVELS - 1 && mqfs_retry_level_at(index) < level_ms)
		index++;
	return index;
}

static void note_level(struct topology *topology, const char *queue, unsigned index, bool is_there)
{
	struct known *known;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, true);
	if (known && is_there)
		known->levels |= 1u << index;
	else if (known)
		known->levels &= ~(1u << index);
	pthread_mutex_unlock(&topology->lock);
}

/* The levels to try: those that were there, or all when the last time is too long ago. */
static uint32_t levels_to_try(struct topology *topology, const char *queue, int64_t stale_ms, bool *ret_all)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();
	struct known *known;
	uint32_t levels = UINT32_MAX;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, false);
	if (known && known->tried_ms > 0 && now_ms - known->tried_ms < stale_ms)
		levels = known->levels;
	pthread_mutex_unlock(&topology->lock);
	*ret_all = levels == UINT32_MAX;
	return levels;
}

static void note_tried(struct topology *topology, const char *queue)
{
	struct known *known;

	pthread_mutex_lock(&topology->lock);
	known = known_get(topology, queue, true);
	if (known)
		known->tried_ms = mqfs_clock_monotonic_ms();
	pthread_mutex_unlock(&topology->lock);
}

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
		note_level(topology, queue, level_index(level_ms), true);
	return r;
}

/* How many wait in each level (-1: no such level), asking only where it makes sense. */
static int count_levels(struct topology *topology, const struct request *request, int64_t stale_ms,
                        int64_t ret_ready[LEVELS])
{
	bool all;
	uint32_t try = levels_to_try(topology, request->queue, stale_ms, &all);
	struct mqfs_depths depths;
	mqfs_name_t delay;
	int r;

	for (unsigned i = 0; i < LEVELS; i++)
		ret_ready[i] = -1;
	for (unsigned i = 0; i < LEVELS && mqfs_retry_level_at(i) > 0; i++) {
		if (!(try & 1u << i))
			continue;
		if (mqfs_clock_monotonic_ms() > request->job.deadline_ms)
			return -ETIMEDOUT;
		mqfs_name_delay_queue(request->queue, mqfs_retry_level_at(i), delay);
		r = look_at(topology, delay, &depths);
		if (r < 0 && r != -ENOENT)
			return r;
		note_level(topology, request->queue, i, r == 0);
		ret_ready[i] = r == 0 ? depths.ready : -1;
	}
	if (all)
		note_tried(topology, request->queue);
	return 0;
}

static int count_dead(struct topology *topology, const char *queue, int64_t *ret_ready)
{
	struct mqfs_depths depths = {0};
	mqfs_name_t dead;
	int r;

	mqfs_name_dead_queue(queue, dead);
	r = look_at(topology, dead, &depths);
	*ret_ready = r == 0 ? depths.ready : 0;
	return r == -ENOENT ? 0 : r;
}

/* ---- requests, each on the owner thread ---- */

static int find_queue(struct topology *topology, struct request *request)
{
	int r = look_at(topology, request->queue, NULL);

	if (r == -ENOENT)
		forget(topology, request->queue);
	return r;
}

static int declare_queue(struct topology *topology, struct request *request)
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
	forget(topology, request->queue);
	arguments_work_queue(&arguments, request->queue, settings, topology->connection->version);
	r = make(topology, request->queue, &arguments);
	if (r == 0 && settings->type == MQFS_QUEUE_QUORUM)
		topology_set_counts(topology, request->queue);
	return r;
}

static int prepare_queue(struct topology *topology, struct request *request)
{
	int64_t level_ms = mqfs_retry_level(topology->settings.backoff_base_ms, false);
	int r = look_at(topology, request->queue, NULL);

	if (r == 0)
		r = ensure_dead_queue(topology, request->queue);
	if (r == 0)
		r = ensure_level(topology, request->queue, level_ms);
	return r;
}

static int make_place(struct topology *topology, struct request *request)
{
	int r = look_at(topology, request->queue, NULL);

	if (r < 0)
		return r;
	if (request->place == MQFS_PLACE_DEAD)
		return ensure_dead_queue(topology, request->queue);
	return ensure_level(topology, request->queue, request->level_ms);
}

static int count_depths(struct topology *topology, struct request *request)
{
	int64_t ready[LEVELS];
	int r = look_at(topology, request->queue, &request->depths);

	if (r == 0)
		r = count_dead(topology, request->queue, &request->depths.dead);
	if (r == 0)
		r = count_levels(topology, request, LEVELS_STALE_MS, ready);
	for (unsigned i = 0; r == 0 && i < LEVELS; i++)
		request->depths.retry += ready[i] > 0 ? ready[i] : 0;
	return r;
}

static int list_levels(struct topology *topology, struct request *request)
{
	int64_t ready[LEVELS], dead;
	int r;

	request->levels_count = 0;
	if (request->place == MQFS_PLACE_DEAD) {
		r = count_dead(topology, request->queue, &dead);
		if (r == 0 && dead > 0)
			request->levels[request->levels_count++] = 0;
		return r;
	}
	r = count_levels(topology, request, LEVELS_STALE_LOOK_MS, ready);
	for (unsigned i = 0; r == 0 && i < LEVELS; i++)
		if (ready[i] > 0)
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

	if (topology_counts(topology, request->queue))
		return request->unsafe ? remove_unsafely(topology, request->queue) : -EOPNOTSUPP;
	r = remove_queue(topology, request->queue, true, true);
	if (was_not_implemented(topology, r)) {
		topology_set_counts(topology, request->queue);
		return request->unsafe ? -ECONNRESET : -EOPNOTSUPP;
	}
	if (r == -EPERM && topology->connection->refusal.code == AMQP_PRECONDITION_FAILED)
		return busy_or_full(topology, request->queue);
	return r;
}

/* What is left behind is never content: each goes when it is found empty, and it does no harm if one stays. */
static void remove_helpers(struct topology *topology, const char *queue, const int64_t ready[LEVELS])
{
	mqfs_name_t name;
	int r = 0;

	for (unsigned i = 0; i < LEVELS && r != -ECONNRESET; i++) {
		if (ready[i] < 0)
			continue;
		mqfs_name_delay_queue(queue, mqfs_retry_level_at(i), name);
		r = remove_unsafely(topology, name);
	}
	mqfs_name_dead_queue(queue, name);
	if (r != -ECONNRESET && look_at(topology, name, NULL) == 0)
		remove_queue(topology, name, true, true);
}

static int delete_queue(struct topology *topology, struct request *request)
{
	int64_t ready[LEVELS], dead;
	int r = look_at(topology, request->queue, NULL);

	if (r < 0)
		return r == -ENOENT && request->again ? 0 : r;
	r = count_levels(topology, request, 0, ready);
	if (r == 0)
		r = count_dead(topology, request->queue, &dead);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < LEVELS; i++)
		if (ready[i] > 0)
			return -ENOTEMPTY;
	if (dead > 0)
		return -ENOTEMPTY;
	r = remove_work_queue(topology, request);
	if (r == 0) {
		remove_helpers(topology, request->queue, ready);
		forget(topology, request->queue);
	}
	return r;
}

/* ---- requests ---- */

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
		return "others consume from the queue";
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
	struct request *request = request_new(topology, find_queue, queue, deadline_ms, arg);

	if (request)
		request->done = done;
	return request_submit(topology, request);
}

int topology_declare(struct topology *topology, const char *queue, const struct mqfs_settings *settings,
                     int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, declare_queue, queue, deadline_ms, arg);

	if (request) {
		request->done = done;
		request->settings = *settings;
	}
	return request_submit(topology, request);
}

int topology_delete(struct topology *topology, const char *queue, bool unsafe, int64_t deadline_ms, mqfs_done_fn *done,
                    void *arg)
{
	struct request *request = request_new(topology, delete_queue, queue, deadline_ms, arg);

	if (request) {
		request->done = done;
		request->unsafe = unsafe;
	}
	return request_submit(topology, request);
}

int topology_depths(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done, void *arg)
{
	struct request *request = request_new(topology, count_depths, queue, deadline_ms, arg);

	if (request)
		request->depths_done = done;
	return request_submit(topology, request);
}

int topology_prepare(struct topology *topology, const char *queue, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, prepare_queue, queue, deadline_ms, arg);

	if (request)
		request->done = done;
	return request_submit(topology, request);
}

int topology_make_place(struct topology *topology, const char *queue, enum mqfs_place place, int64_t level_ms,
                        int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(topology, make_place, queue, deadline_ms, arg);

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
	struct request *request = request_new(topology, list_levels, queue, deadline_ms, arg);

	if (request) {
		request->levels_done = done;
		request->place = place;
	}
	return request_submit(topology, request);
}

/* ---- the role ---- */

static int topology_opened(void *arg)
{
	struct topology *topology = arg;

	topology->scratch = 0;
	return 0;
}

static void topology_lost(void *arg, int result, const char *reason)
{
	struct topology *topology = arg;

	(void)result;
	(void)reason;
	topology->scratch = 0;
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
};

struct topology *topology_new(struct connection *connection, const struct mqfs_settings *settings)
{
	struct topology *topology = calloc(1, sizeof(*topology));

	if (!topology)
		return NULL;
	topology->connection = connection;
	topology->settings = *settings;
	pthread_mutex_init(&topology->lock, NULL);
	return topology;
}

struct topology *topology_free(struct topology *topology)
{
	struct known *known, *tmp;

	if (!topology)
		return NULL;
	HASH_ITER(hh, topology->known, known, tmp)
	known_remove(topology, known);
	pthread_mutex_destroy(&topology->lock);
	free(topology);
	return NULL;
}
