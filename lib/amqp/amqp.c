/* SPDX-License-Identifier: MIT */
#include "amqp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <mqfs/name.h>
#include <mqfs/retry.h>

#include "../utf8.h"
#include "rabbit.h"

/*
 * The operations of mqfs/backend.h: each hands its request to the module it is for.
 */

/* Of those that looking waits for. */
static int64_t silent_ms(const struct rabbit *rabbit)
{
	int64_t admin_ms = connection_silent_ms(&rabbit->connections[ADMIN]);
	int64_t look_ms = connection_silent_ms(&rabbit->connections[LOOK]);

	return admin_ms > look_ms ? admin_ms : look_ms;
}

static void rabbit_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	struct rabbit *rabbit = to_rabbit(backend);
	struct connection_status status;

	pthread_mutex_lock(&rabbit->lock);
	rabbit_gather(rabbit, &status);
	*ret_status = (struct mqfs_backend_status){.connected = status.connected, .since_us = rabbit->since_us};
	pthread_mutex_unlock(&rabbit->lock);
	ret_status->silent_ms = silent_ms(rabbit);
	snprintf(ret_status->peer, sizeof(ret_status->peer), "%s", status.peer);
	snprintf(ret_status->product, sizeof(ret_status->product), "%s", status.product);
	snprintf(ret_status->reason, sizeof(ret_status->reason), "%s", status.reason);
}

/*
 * Can a queue of such a name exist? It must fit a short string; the broker drops line breaks, so that another's queue
 * would answer; and it closes the connection on what is not UTF-8.
 */
static bool is_name(const char *queue)
{
	size_t bytes = strlen(queue);

	return bytes > 0 && bytes <= MQFS_NAME_MAX && !strpbrk(queue, "\r\n") && utf8_is_valid(queue, bytes);
}

static void rabbit_answer(struct rabbit *rabbit, int result, mqfs_done_fn *done, void *arg)
{
	struct answer answer = {.done = done, .arg = arg, .result = result};

	if (result == -ENOMEM)
		answer.reason = "out of memory";
	else if (result < 0)
		answer.reason = "no queue of this broker can have such a name";
	if (result < 0)
		answer_later(&rabbit->answers, &answer);
}

static void rabbit_queue_declare(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
                                 int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -EINVAL;

	if (r == 0)
		r = topology_declare(rabbit->topology, queue, settings, deadline_ms, done, arg);
	rabbit_answer(rabbit, r, done, arg);
}

static void rabbit_queue_find(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
                              void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = topology_find(rabbit->topology, queue, deadline_ms, done, arg);
	rabbit_answer(rabbit, r, done, arg);
}

static void rabbit_queue_delete(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
                                mqfs_done_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = topology_delete(rabbit->topology, queue, unsafe, deadline_ms, done, arg);
	rabbit_answer(rabbit, r, done, arg);
}

/* AMQP can't tell. */
static void rabbit_queue_list(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg)
{
	answer_later(&to_rabbit(backend)->answers, &(struct answer){.list = done, .arg = arg});
}

static void rabbit_queue_depths(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms,
                                mqfs_depths_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = topology_depths(rabbit->topology, queue, deadline_ms, done, arg);
	if (r < 0)
		answer_later(&rabbit->answers, &(struct answer){.depths = done, .arg = arg, .result = r});
}

static void rabbit_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                           struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int64_t level_ms = place == MQFS_PLACE_RETRY ? mqfs_retry_level(delay_ms, true) : 0;
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = publisher_submit(rabbit->publisher, queue, place, level_ms, message, deadline_ms, done, arg);
	else
		mqfs_message_free(message);
	rabbit_answer(rabbit, r, done, arg);
}

static void rabbit_consume(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
                           void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = consuming_start(rabbit->consuming, queue, prefetch, sink, arg);
	rabbit_answer(rabbit, r, sink->ended, arg);
}

static void rabbit_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = is_name(queue) ? 0 : -ENOENT;

	if (r == 0)
		r = consuming_cancel(rabbit->consuming, queue, done, arg);
	rabbit_answer(rabbit, r, done, arg);
}

static void rabbit_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                          const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done,
                          void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	bool consumed = delivery->place == MQFS_PLACE_READY;
	struct settling *settling =
	    consumed ? consuming_settling(rabbit->consuming) : looking_settling(rabbit->looking);
	int r = !disposition->queue || is_name(disposition->queue) ? 0 : -ENOENT;

	if (r == 0)
		r = settling_submit(settling, delivery, disposition, deadline_ms, done, arg);
	else
		mqfs_message_free(disposition->copy);
	rabbit_answer(rabbit, r, done, arg);
}

static void rabbit_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                          int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	struct rabbit *rabbit = to_rabbit(backend);
	int r = -ENOENT;

	if (is_name(queue))
		r = looking_browse(rabbit->looking, queue, place, limit, deadline_ms, done, arg);
	if (r < 0)
		answer_later(&rabbit->answers,
		             &(struct answer){.browse = done, .arg = arg, .result = r == -ENOENT ? 0 : r});
}

const struct mqfs_backend_ops rabbit_ops = {
    .scheme = "amqp",
    .looks_hold = true,
    .acks_blind = true,
    .close = rabbit_close,
    .status = rabbit_status,
    .queue_declare = rabbit_queue_declare,
    .queue_find = rabbit_queue_find,
    .queue_delete = rabbit_queue_delete,
    .queue_list = rabbit_queue_list,
    .queue_depths = rabbit_queue_depths,
    .publish = rabbit_publish,
    .consume = rabbit_consume,
    .cancel = rabbit_cancel,
    .settle = rabbit_settle,
    .browse = rabbit_browse,
};
