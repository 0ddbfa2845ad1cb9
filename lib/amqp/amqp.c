/* SPDX-License-Identifier: MIT */
#include "amqp.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mqfs/clock.h>
#include <mqfs/name.h>
#include <mqfs/retry.h>
#define LOG_TOPIC "amqp"
#include <mqfs/log.h>

#include "answer.h"
#include "connection.h"
#include "consuming.h"
#include "looking.h"
#include "publisher.h"
#include "topology.h"
#include "url.h"
#include "../utf8.h"
#include "watchdog.h"

/*
 * The backend: four connections by role, so that a broker that blocks publishers (an alarm) doesn't
 * stop acknowledgements, and slow questions don't stop either.
 *
 *   publish    publisher.c    consume    consuming.c, settling.c
 *   admin      topology.c     look       looking.c, settling.c; opened at the first look
 *
 * Each module hands work on to the others' connections, never touches them. Here is what they share: opening,
 * closing, and the state as a whole.
 */

enum { PUBLISH, CONSUME, ADMIN, LOOK, CONNECTIONS };

/* Those without which the backend is away. */
#define NEEDED_CONNECTIONS LOOK

struct rabbit {
	struct mqfs_backend backend; /* first */
	struct url *url;
	struct mqfs_settings settings;
	struct watchdog watchdog;
	struct connection connections[CONNECTIONS];
	struct topology *topology;
	struct publisher *publisher;
	struct consuming *consuming;
	struct looking *looking;
	struct answers answers;
	_Atomic uint64_t generations; /* of channels that hold deliveries; never one twice */
	size_t initialised;           /* connections */
	size_t started;
	bool watching;

	pthread_mutex_t lock; /* guards all below; a leaf */
	pthread_cond_t changed;
	bool open; /* the first connection is made: changes are told from now on */
	bool connected;
	bool blocked;
	int64_t since_us;
};

static struct rabbit *to_rabbit(struct mqfs_backend *backend)
{
	return (struct rabbit *)backend;
}

/* ---- the state as a whole ---- */

/* Connected when all that are needed are; the reason is the first that there is. */
static void gather(struct rabbit *rabbit, struct connection_status *ret_status)
{
	struct connection_status status;

	connection_status(&rabbit->connections[PUBLISH], ret_status);
	for (size_t i = 1; i < NEEDED_CONNECTIONS; i++) {
		connection_status(&rabbit->connections[i], &status);
		if (ret_status->connected && !status.connected)
			*ret_status = status;
		if (status.fatal < 0)
			*ret_status = status;
	}
}

static void tell_operator(const struct connection_status *status, bool was_connected, bool was_blocked)
{
	bool blocked = status->connected && *status->reason;

	if (was_connected && !status->connected)
		log_warning("%s: away: %s", status->peer, status->reason);
	else if (!was_connected && status->connected)
		log_info("%s: connected to %s", status->peer, status->product);
	if (blocked && !was_blocked)
		log_warning("%s: %s", status->peer, status->reason);
	else if (was_blocked && !blocked && status->connected)
		log_info("%s: no longer blocked", status->peer);
}

static void on_changed(void *arg)
{
	struct rabbit *rabbit = arg;
	struct connection_status status;
	bool was_connected, was_blocked, open;

	pthread_mutex_lock(&rabbit->lock);
	gather(rabbit, &status);
	was_connected = rabbit->connected;
	was_blocked = rabbit->blocked;
	open = rabbit->open;
	rabbit->connected = status.connected;
	rabbit->blocked = status.connected && *status.reason;
	if (was_connected != status.connected)
		rabbit->since_us = mqfs_clock_realtime_us();
	pthread_cond_broadcast(&rabbit->changed);
	pthread_mutex_unlock(&rabbit->lock);
	if (open)
		tell_operator(&status, was_connected, was_blocked);
}

static void rabbit_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	struct rabbit *rabbit = to_rabbit(backend);
	struct connection_status status;

	pthread_mutex_lock(&rabbit->lock);
	gather(rabbit, &status);
	*ret_status = (struct mqfs_backend_status){.connected = status.connected, .since_us = rabbit->since_us};
	pthread_mutex_unlock(&rabbit->lock);
	snprintf(ret_status->peer, sizeof(ret_status->peer), "%s", status.peer);
	snprintf(ret_status->product, sizeof(ret_status->product), "%s", status.product);
	snprintf(ret_status->reason, sizeof(ret_status->reason), "%s", status.reason);
}

/* ---- requests ---- */

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

/* ---- opening and closing ---- */

static void rabbit_free(struct rabbit *rabbit)
{
	for (size_t i = 0; i < rabbit->initialised; i++)
		connection_deinit(&rabbit->connections[i]);
	consuming_free(rabbit->consuming);
	looking_free(rabbit->looking);
	publisher_free(rabbit->publisher);
	topology_free(rabbit->topology);
	answers_deinit(&rabbit->answers);
	watchdog_deinit(&rabbit->watchdog);
	pthread_cond_destroy(&rabbit->changed);
	pthread_mutex_destroy(&rabbit->lock);
	url_free(rabbit->url);
	free(rabbit);
}

/* Completions that run now may have handed in something yet. */
static void drain(struct rabbit *rabbit)
{
	bool more;

	do {
		more = false;
		for (size_t i = 0; i < rabbit->initialised; i++)
			more |= connection_drain(&rabbit->connections[i]);
	} while (more);
}

/* The watchdog goes last: it keeps the deadlines of those that stop. */
static void rabbit_close(struct mqfs_backend *backend)
{
	struct rabbit *rabbit = to_rabbit(backend);

	pthread_mutex_lock(&rabbit->lock);
	rabbit->open = false;
	pthread_mutex_unlock(&rabbit->lock);
	for (size_t i = 0; i < rabbit->started; i++)
		connection_stop(&rabbit->connections[i]);
	for (size_t i = 0; i < rabbit->started; i++)
		connection_join(&rabbit->connections[i]);
	if (rabbit->watching)
		watchdog_stop(&rabbit->watchdog);
	drain(rabbit);
	rabbit_free(rabbit);
}

static const struct mqfs_backend_ops rabbit_ops = {
    .scheme = "amqp",
    .looks_hold = true,
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

static int init_base(struct rabbit *rabbit)
{
	pthread_condattr_t attributes;

	rabbit->backend.ops = &rabbit_ops;
	rabbit->since_us = mqfs_clock_realtime_us();
	pthread_mutex_init(&rabbit->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&rabbit->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	answers_init(&rabbit->answers, &rabbit->connections[ADMIN]);
	return watchdog_init(&rabbit->watchdog);
}

static int init_modules(struct rabbit *rabbit)
{
	struct connection *connections = rabbit->connections;

	rabbit->topology = topology_new(&connections[ADMIN], &rabbit->settings);
	rabbit->publisher = publisher_new(&connections[PUBLISH], rabbit->topology);
	rabbit->consuming =
	    consuming_new(&connections[CONSUME], rabbit->publisher, rabbit->topology, &rabbit->generations);
	rabbit->looking = looking_new(&connections[LOOK], rabbit->publisher, rabbit->topology, &rabbit->generations);
	return rabbit->topology && rabbit->publisher && rabbit->consuming && rabbit->looking ? 0 : -ENOMEM;
}

static int init_connections(struct rabbit *rabbit)
{
	const struct connection_role *roles[CONNECTIONS] = {&publisher_role, &consuming_role, &topology_role,
	                                                    &looking_role};
	void *args[CONNECTIONS] = {rabbit->publisher, rabbit->consuming, rabbit->topology, rabbit->looking};
	int r;

	for (size_t i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &rabbit->connections[i];

		r = connection_init(connection, roles[i], args[i], rabbit->url, &rabbit->settings, &rabbit->watchdog);
		if (r < 0)
			return r;
		rabbit->initialised++;
		if (i < NEEDED_CONNECTIONS) {
			connection->changed = on_changed;
			connection->changed_arg = rabbit;
		}
		watchdog_add(&rabbit->watchdog, connection);
	}
	return 0;
}

static int start(struct rabbit *rabbit)
{
	int r = watchdog_start(&rabbit->watchdog);

	rabbit->watching = r == 0;
	for (size_t i = 0; i < CONNECTIONS && r == 0; i++) {
		r = connection_start(&rabbit->connections[i]);
		rabbit->started += r == 0;
	}
	return r;
}

/* Until all needed connections are up, one was refused for good, or connect-timeout has passed. */
static int await_connection(struct rabbit *rabbit, struct connection_status *ret_status)
{
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + rabbit->settings.connect_timeout_ms;
	struct timespec deadline = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};
	int r = 0;

	pthread_mutex_lock(&rabbit->lock);
	for (;;) {
		gather(rabbit, ret_status);
		if (ret_status->connected || ret_status->fatal < 0 || r != 0)
			break;
		r = pthread_cond_timedwait(&rabbit->changed, &rabbit->lock, &deadline);
	}
	rabbit->open = ret_status->connected;
	pthread_mutex_unlock(&rabbit->lock);
	if (ret_status->connected)
		return 0;
	return ret_status->fatal < 0 ? ret_status->fatal : -EHOSTDOWN;
}

static int new_error(int result, char **ret_error, const char *format, const char *text)
{
	if (asprintf(ret_error, format, text) < 0)
		*ret_error = NULL;
	return result;
}

static int open_url(const char *text, struct url **ret_url, char **ret_error)
{
	const char *error;
	struct url *url;
	int r = url_parse(text, &url, &error);

	if (r < 0)
		return new_error(r, ret_error, "the URL can't be used: %s", r == -ENOMEM ? "out of memory" : error);
	if (url->tls) {
		url_free(url);
		return new_error(-EINVAL, ret_error, "%s", "amqps:// is not supported yet: use amqp://");
	}
	*ret_url = url;
	return 0;
}

int mqfs_amqp_open(const char *url, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                   char **ret_error)
{
	struct rabbit *rabbit = calloc(1, sizeof(*rabbit));
	struct connection_status status;
	int r;

	if (!rabbit)
		return new_error(-ENOMEM, ret_error, "%s", "out of memory");
	r = open_url(url, &rabbit->url, ret_error);
	if (r < 0) {
		free(rabbit);
		return r;
	}
	rabbit->settings = *settings;
	r = init_base(rabbit);
	if (r == 0)
		r = init_modules(rabbit);
	if (r == 0)
		r = init_connections(rabbit);
	if (r == 0)
		r = start(rabbit);
	if (r < 0) {
		rabbit_close(&rabbit->backend);
		return new_error(r, ret_error, "%s", "out of memory or threads");
	}
	r = await_connection(rabbit, &status);
	if (r < 0) {
		rabbit_close(&rabbit->backend);
		return new_error(r, ret_error, "%s", *status.reason ? status.reason : "the broker does not answer");
	}
	log_info("%s: connected to %s", status.peer, status.product);
	*ret_backend = &rabbit->backend;
	return 0;
}
