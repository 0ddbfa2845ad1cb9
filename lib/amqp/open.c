/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp"
#include <mqfs/log.h>

#include "amqp.h"
#include "rabbit.h"

/*
 * Opening and closing, and the state of the four connections as a whole.
 */

/* Connected when all that are needed are, tried when those that are not have tried all hosts; the reason is the first
 * that there is. */
void rabbit_gather(struct rabbit *rabbit, struct connection_status *ret_status)
{
	struct connection_status status;

	bool tried;

	connection_status(&rabbit->connections[PUBLISH], ret_status);
	tried = ret_status->connected || ret_status->tried;
	for (size_t i = 1; i < NEEDED_CONNECTIONS; i++) {
		connection_status(&rabbit->connections[i], &status);
		tried = tried && (status.connected || status.tried);
		if (ret_status->connected && !status.connected)
			*ret_status = status;
		if (status.fatal < 0)
			*ret_status = status;
	}
	ret_status->tried = tried && !ret_status->connected;
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
	rabbit_gather(rabbit, &status);
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
void rabbit_close(struct mqfs_backend *backend)
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

static int start_threads(struct rabbit *rabbit)
{
	int r = watchdog_start(&rabbit->watchdog);

	rabbit->watching = r == 0;
	for (size_t i = 0; i < CONNECTIONS && r == 0; i++) {
		r = connection_start(&rabbit->connections[i]);
		rabbit->started += r == 0;
	}
	return r;
}

static int start(struct rabbit *rabbit)
{
	sigset_t all, old;
	int r;

	/* Signals are main's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = start_threads(rabbit);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* Until all needed connections are up, one was refused for good, no host was found that serves them, or connect-timeout
 * has passed. */
static int await_connection(struct rabbit *rabbit, struct connection_status *ret_status)
{
	int64_t deadline_ms = mqfs_clock_monotonic_ms() + rabbit->settings.connect_timeout_ms;
	struct timespec deadline = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};
	int r = 0;

	pthread_mutex_lock(&rabbit->lock);
	for (;;) {
		rabbit_gather(rabbit, ret_status);
		if (ret_status->connected || ret_status->fatal < 0 || ret_status->tried || r != 0)
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
