/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/clock.h>

#include "intake.h"
#include "internal.h"
#include "ledger.h"
#include "request.h"
#include "tables.h"
#include "writer.h"

/* The vtable: each function makes a request of its arguments and hands it to the writer. */

static struct store *store_of(struct mqfs_backend *backend)
{
	return (struct store *)backend;
}

static void store_declare(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
                          int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_DECLARE, queue, NULL, deadline_ms);

	request->done = done;
	request->arg = arg;
	request->declare.max_priority = settings->max_priority;
	request->declare.message_ttl_ms = settings->message_ttl_ms;
	request->declare.max_length = settings->max_length;
	request->declare.overflow = settings->overflow;
	request->declare.dead_letter = settings->dead_letter;
	writer_submit(store_of(backend), request);
}

static void store_find(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
                       void *arg)
{
	struct request *request = request_new(REQUEST_FIND, queue, NULL, deadline_ms);

	request->done = done;
	request->arg = arg;
	writer_submit(store_of(backend), request);
}

static void store_delete(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
                         mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_DELETE, queue, NULL, deadline_ms);

	(void)unsafe; /* here it is always one step */
	request->done = done;
	request->arg = arg;
	writer_submit(store_of(backend), request);
}

static void store_list(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_LIST, NULL, NULL, MQFS_NEVER);

	request->listed = done;
	request->arg = arg;
	writer_submit(store_of(backend), request);
}

static void store_depths(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done,
                         void *arg)
{
	struct request *request = request_new(REQUEST_DEPTHS, queue, NULL, deadline_ms);

	request->counted = done;
	request->arg = arg;
	writer_submit(store_of(backend), request);
}

static void store_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                          struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_PUBLISH, queue, NULL, deadline_ms);

	request->done = done;
	request->arg = arg;
	request->message = message;
	request->place = place;
	request->delay_ms = delay_ms;
	writer_submit(store_of(backend), request);
}

static void store_consume(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
                          void *arg)
{
	struct request *request = request_new(REQUEST_CONSUME, queue, NULL, MQFS_NEVER);

	request->arg = arg;
	request->consume.prefetch = prefetch;
	request->consume.sink = sink;
	writer_submit(store_of(backend), request);
}

static void store_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_CANCEL, queue, NULL, MQFS_NEVER);

	request->done = done;
	request->arg = arg;
	writer_submit(store_of(backend), request);
}

static void store_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                         const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_SETTLE, NULL, disposition->queue, deadline_ms);

	request->done = done;
	request->arg = arg;
	request->settle.delivery = mqfs_delivery_ref(delivery);
	request->settle.verb = disposition->verb;
	if (disposition->verb == MQFS_VERB_MOVE) {
		request->message = disposition->copy;
		request->place = disposition->place;
		request->delay_ms = disposition->delay_ms;
	}
	writer_submit(store_of(backend), request);
}

static void store_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                         int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	struct request *request = request_new(REQUEST_BROWSE, queue, NULL, deadline_ms);

	request->browsed = done;
	request->arg = arg;
	request->place = place;
	request->browse.limit = limit;
	writer_submit(store_of(backend), request);
}

static void store_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	struct store *store = store_of(backend);
	int64_t busy_ms = atomic_load(&store->busy_ms);

	*ret_status = (struct mqfs_backend_status){.connected = true};
	ret_status->silent_ms = busy_ms ? mqfs_clock_monotonic_ms() - busy_ms : 0;
	snprintf(ret_status->peer, sizeof(ret_status->peer), "sqlite:%s", store->path);
	snprintf(ret_status->product, sizeof(ret_status->product), "SQLite %s", sqlite3_libversion());
	pthread_mutex_lock(&store->lock);
	ret_status->since_us = store->since_us;
	snprintf(ret_status->reason, sizeof(ret_status->reason), "%s", store->trouble);
	pthread_mutex_unlock(&store->lock);
}

static struct store *store_free(struct store *store)
{
	if (!store)
		return NULL;
	intake_free(store);
	ledger_forget(store);
	statements_finalize(store->statements);
	checkpoint_deinit(&store->checkpoint);
	sqlite3_close(store->db);
	pthread_cond_destroy(&store->wake);
	pthread_mutex_destroy(&store->lock);
	free(store->head.data);
	free(store->path);
	free(store);
	return NULL;
}

static void store_close(struct mqfs_backend *backend)
{
	struct store *store = store_of(backend);

	writer_stop(store);
	store_free(store);
}

static const struct mqfs_backend_ops store_ops = {
    .scheme = "sqlite",
    .looks_hold = false,
    .patient = true,
    .close = store_close,
    .status = store_status,
    .queue_declare = store_declare,
    .queue_find = store_find,
    .queue_delete = store_delete,
    .queue_list = store_list,
    .queue_depths = store_depths,
    .publish = store_publish,
    .consume = store_consume,
    .cancel = store_cancel,
    .settle = store_settle,
    .browse = store_browse,
};

static struct store *store_new(const char *path, const struct mqfs_settings *settings)
{
	struct store *store = calloc(1, sizeof(*store));
	pthread_condattr_t attributes;

	if (!store)
		return NULL;
	store->backend.ops = &store_ops;
	store->requests_end = &store->requests;
	store->lease_timeout_ms = settings->lease_timeout_ms;
	store->since_us = mqfs_clock_realtime_us();
	if (gethostname(store->host, sizeof(store->host) - 1) < 0)
		strcpy(store->host, "localhost");
	pthread_mutex_init(&store->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&store->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	store->path = strdup(path);
	return store->path ? store : store_free(store);
}

int mqfs_sqlite_open(const char *path, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                     char **ret_error)
{
	struct store *store = store_new(path, settings);
	int r;

	*ret_error = NULL;
	if (!store)
		return -ENOMEM;
	r = schema_open(&sqlite_schema, path, (int)settings->connect_timeout_ms, &store->db, ret_error);
	if (r < 0)
		goto fail;
	r = statements_prepare(store->db, store->statements);
	if (r == 0)
		r = boot_id_read(store->boot_id);
	if (r == 0)
		r = writer_start(store);
	if (r < 0) {
		if (asprintf(ret_error, "%s: %s", path, strerror(-r)) < 0)
			*ret_error = NULL;
		goto fail;
	}
	*ret_backend = &store->backend;
	return 0;
fail:
	store_free(store);
	return r;
}
