/* SPDX-License-Identifier: MIT */
#define LOG_TOPIC "backend"
#include <mqfs/backend.h>

#include "amqp/amqp.h"
#include "sqlite/store.h"

#include <mqfs/log.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/*
 * Every call to a backend passes here: what a caller owes is asserted and what it asks is logged in one
 * place, for all backends alike.
 */

static const char *place_name(enum mqfs_place place)
{
	static const char *const names[] = {
	    [MQFS_PLACE_READY] = "ready", [MQFS_PLACE_RETRY] = "retry", [MQFS_PLACE_DEAD] = "dead"};

	assert(place <= MQFS_PLACE_DEAD);
	return names[place];
}

static const char *verb_name(enum mqfs_verb verb)
{
	static const char *const names[] = {
	    [MQFS_VERB_ACK] = "ack", [MQFS_VERB_RELEASE] = "release", [MQFS_VERB_MOVE] = "move"};

	assert(verb <= MQFS_VERB_MOVE);
	return names[verb];
}

int mqfs_backend_open(const char *url, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                      char **ret_error)
{
	char *error;

	/* The URL isn't logged: it may hold a password. */
	if (strncmp(url, "amqp://", 7) == 0 || strncmp(url, "amqps://", 8) == 0)
		return mqfs_amqp_open(url, settings, ret_backend, ret_error);
	if (strncmp(url, "sqlite:", 7) == 0 && url[7])
		return mqfs_sqlite_open(url + 7, settings, ret_backend, ret_error);
	error = strdup("not a URL of a queue server: amqp://HOST/VHOST, amqps://HOST/VHOST or sqlite:PATH");
	if (!error)
		return -ENOMEM;
	*ret_error = error;
	return -EINVAL;
}

void mqfs_backend_close(struct mqfs_backend *backend)
{
	log_debug("%s: close", backend->ops->scheme);
	backend->ops->close(backend);
}

bool mqfs_backend_looks_hold(const struct mqfs_backend *backend)
{
	return backend->ops->looks_hold;
}

void mqfs_backend_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	backend->ops->status(backend, ret_status);
}

void mqfs_queue_declare(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
                        int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	assert(queue[0] && done);
	log_debug("%s: declare %s", backend->ops->scheme, queue);
	backend->ops->queue_declare(backend, queue, settings, deadline_ms, done, arg);
}

void mqfs_queue_find(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
                     void *arg)
{
	assert(queue[0] && done);
	log_debug("%s: find %s", backend->ops->scheme, queue);
	backend->ops->queue_find(backend, queue, deadline_ms, done, arg);
}

void mqfs_queue_delete(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
                       mqfs_done_fn *done, void *arg)
{
	assert(queue[0] && done);
	log_debug("%s: delete %s%s", backend->ops->scheme, queue, unsafe ? " (unsafe)" : "");
	backend->ops->queue_delete(backend, queue, unsafe, deadline_ms, done, arg);
}

void mqfs_queue_list(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg)
{
	assert(done);
	log_debug("%s: list", backend->ops->scheme);
	backend->ops->queue_list(backend, done, arg);
}

void mqfs_queue_depths(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done,
                       void *arg)
{
	assert(queue[0] && done);
	log_debug("%s: depths of %s", backend->ops->scheme, queue);
	backend->ops->queue_depths(backend, queue, deadline_ms, done, arg);
}

void mqfs_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                  struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	assert(queue[0] && message && message->body && done);
	assert(place != MQFS_PLACE_DEAD && delay_ms >= 0);
	log_debug("%s: publish %zu bytes to %s (%s, after %" PRId64 " ms)", backend->ops->scheme, message->body->bytes,
	          queue, place_name(place), delay_ms);
	backend->ops->publish(backend, queue, place, delay_ms, message, deadline_ms, done, arg);
}

void mqfs_consume(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
                  void *arg)
{
	assert(queue[0] && prefetch > 0);
	assert(sink->delivered && sink->lost && sink->drained && sink->prepared && sink->ended);
	log_debug("%s: consume %s, prefetch %d", backend->ops->scheme, queue, prefetch);
	backend->ops->consume(backend, queue, prefetch, sink, arg);
}

void mqfs_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg)
{
	assert(queue[0] && done);
	log_debug("%s: cancel %s", backend->ops->scheme, queue);
	backend->ops->cancel(backend, queue, done, arg);
}

void mqfs_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                 const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	bool move = disposition->verb == MQFS_VERB_MOVE;

	assert(done);
	assert(move == (disposition->copy != NULL));
	log_debug("%s: %s from %s (%s)%s%s", backend->ops->scheme, verb_name(disposition->verb), delivery->queue,
	          place_name(delivery->place), move ? " to " : "", move ? place_name(disposition->place) : "");
	backend->ops->settle(backend, delivery, disposition, deadline_ms, done, arg);
}

void mqfs_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                 int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	assert(queue[0] && place != MQFS_PLACE_READY && limit > 0 && done);
	log_debug("%s: browse %s (%s)", backend->ops->scheme, queue, place_name(place));
	backend->ops->browse(backend, queue, place, limit, deadline_ms, done, arg);
}
