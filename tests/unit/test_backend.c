/* SPDX-License-Identifier: MIT */
#include "unit.h"

#include "amqp/amqp.h"
#include "sqlite/store.h"

#include <mqfs/backend.h>

#include <errno.h>

/* Doubles of both constructors: what is tried here is which of them a URL leads to, and with what. */
static const char *opened_by, *opened_with;

int mqfs_amqp_open(const char *url, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                   char **ret_error)
{
	(void)settings;
	(void)ret_backend;
	(void)ret_error;
	opened_by = "amqp";
	opened_with = url;
	return -EACCES;
}

int mqfs_sqlite_open(const char *path, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                     char **ret_error)
{
	static struct mqfs_backend backend;

	(void)settings;
	(void)ret_error;
	opened_by = "sqlite";
	opened_with = path;
	*ret_backend = &backend;
	return 0;
}

static void opens_by_url(void **state)
{
	struct mqfs_backend *backend = NULL;
	struct mqfs_settings settings;
	char *error = NULL;

	(void)state;
	mqfs_settings_init(&settings);
	assert_int_equal(mqfs_backend_open("sqlite:/var/lib/x.db", &settings, &backend, &error), 0);
	assert_string_equal(opened_by, "sqlite");
	assert_string_equal(opened_with, "/var/lib/x.db");
	assert_non_null(backend);
	assert_int_equal(mqfs_backend_open("amqp://localhost", &settings, &backend, &error), -EACCES);
	assert_string_equal(opened_by, "amqp");
	assert_string_equal(opened_with, "amqp://localhost");
	opened_by = NULL;
	assert_int_equal(mqfs_backend_open("amqps://a,b/v", &settings, &backend, &error), -EACCES);
	assert_string_equal(opened_by, "amqp");
	assert_null(error);
}

static void refuses_other_urls(void **state)
{
	static const char *const bad[] = {"",         "sqlite:",           "sqlite",    "amqp:host",
	                                  "AMQP://h", "http://u:secret@h", "/var/x.db", "amqps:/h"};
	struct mqfs_backend *backend = NULL;
	struct mqfs_settings settings;
	char *error;

	(void)state;
	mqfs_settings_init(&settings);
	opened_by = NULL;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		error = NULL;
		assert_int_equal(mqfs_backend_open(bad[i], &settings, &backend, &error), -EINVAL);
		assert_non_null(error);
		assert_null(strstr(error, "secret"));
		free(error);
		assert_null(backend);
		assert_null(opened_by);
	}
}

/* A backend that only notes what arrives. */
static struct {
	const char *call;
	struct mqfs_backend *backend;
	const char *queue;
	const void *pointer; /* the call's own argument */
	int64_t number, deadline_ms;
	enum mqfs_place place;
	void *arg;
} seen;

static void note(const char *call, struct mqfs_backend *backend, const char *queue, void *arg)
{
	memset(&seen, 0, sizeof(seen));
	seen.call = call;
	seen.backend = backend;
	seen.queue = queue;
	seen.arg = arg;
}

static void fake_close(struct mqfs_backend *backend)
{
	note("close", backend, NULL, NULL);
}

static void fake_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status)
{
	note("status", backend, NULL, ret_status);
}

static void fake_declare(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
                         int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	note("declare", backend, queue, arg);
	seen.pointer = settings;
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_find(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
                      void *arg)
{
	note("find", backend, queue, arg);
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_delete(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
                        mqfs_done_fn *done, void *arg)
{
	note("delete", backend, queue, arg);
	seen.number = unsafe;
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_list(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg)
{
	note("list", backend, NULL, arg);
	done(arg, 0, NULL, 0);
}

static void fake_depths(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done,
                        void *arg)
{
	note("depths", backend, queue, arg);
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                         struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	note("publish", backend, queue, arg);
	seen.place = place;
	seen.number = delay_ms;
	seen.pointer = message;
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_consume(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
                         void *arg)
{
	note("consume", backend, queue, arg);
	seen.number = prefetch;
	seen.pointer = sink;
}

static void fake_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg)
{
	note("cancel", backend, queue, arg);
	done(arg, 0, NULL);
}

static void fake_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                        const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	note("settle", backend, delivery->queue, arg);
	seen.pointer = disposition;
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL);
}

static void fake_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                        int64_t deadline_ms, mqfs_browse_fn *done, void *arg)
{
	note("browse", backend, queue, arg);
	seen.place = place;
	seen.number = (int64_t)limit;
	seen.deadline_ms = deadline_ms;
	done(arg, 0, NULL, 0);
}

static const struct mqfs_backend_ops fake_ops = {
    .scheme = "fake",
    .looks_hold = true,
    .close = fake_close,
    .status = fake_status,
    .queue_declare = fake_declare,
    .queue_find = fake_find,
    .queue_delete = fake_delete,
    .queue_list = fake_list,
    .queue_depths = fake_depths,
    .publish = fake_publish,
    .consume = fake_consume,
    .cancel = fake_cancel,
    .settle = fake_settle,
    .browse = fake_browse,
};

static struct mqfs_backend fake = {.ops = &fake_ops};
static int completions;

static void done(void *arg, int result, const char *reason)
{
	assert_ptr_equal(arg, &completions);
	assert_int_equal(result, 0);
	assert_null(reason);
	completions++;
}

static void depths_done(void *arg, int result, const struct mqfs_depths *depths)
{
	(void)depths;
	done(arg, result, NULL);
}

static void list_done(void *arg, int result, const char *const *queues, size_t count)
{
	(void)queues;
	(void)count;
	done(arg, result, NULL);
}

static void browse_done(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	(void)deliveries;
	(void)count;
	done(arg, result, NULL);
}

static void check_seen(const char *call, int64_t number, int64_t deadline_ms)
{
	assert_string_equal(seen.call, call);
	assert_ptr_equal(seen.backend, &fake);
	assert_int_equal(seen.number, number);
	assert_int_equal(seen.deadline_ms, deadline_ms);
}

static void passes_calls_about_queues(void **state)
{
	struct mqfs_backend_status status;
	struct mqfs_settings settings;

	(void)state;
	completions = 0;
	assert_true(mqfs_backend_looks_hold(&fake));
	mqfs_backend_status(&fake, &status);
	check_seen("status", 0, 0);
	assert_ptr_equal(seen.arg, &status);
	mqfs_queue_declare(&fake, "jobs", &settings, 11, done, &completions);
	check_seen("declare", 0, 11);
	assert_ptr_equal(seen.pointer, &settings);
	mqfs_queue_find(&fake, "jobs", 12, done, &completions);
	check_seen("find", 0, 12);
	mqfs_queue_delete(&fake, "jobs", true, 13, done, &completions);
	check_seen("delete", 1, 13);
	assert_string_equal(seen.queue, "jobs");
	mqfs_queue_list(&fake, list_done, &completions);
	check_seen("list", 0, 0);
	mqfs_queue_depths(&fake, "jobs", 14, depths_done, &completions);
	check_seen("depths", 0, 14);
	mqfs_backend_close(&fake);
	check_seen("close", 0, 0);
	assert_int_equal(completions, 5);
}

static void ignore(void *arg, int result, const char *reason)
{
	(void)arg;
	(void)result;
	(void)reason;
}

static void ignore_delivery(void *arg, struct mqfs_delivery *delivery)
{
	(void)arg;
	(void)delivery;
}

static void ignore_loss(void *arg, uint64_t generation)
{
	(void)arg;
	(void)generation;
}

static void ignore_drain(void *arg)
{
	(void)arg;
}

static void passes_calls_about_messages(void **state)
{
	const struct mqfs_sink sink = {.delivered = ignore_delivery,
	                               .lost = ignore_loss,
	                               .drained = ignore_drain,
	                               .prepared = ignore,
	                               .ended = ignore};
	struct mqfs_delivery *delivery = mqfs_delivery_new(unit_message("body"), "jobs");
	struct mqfs_disposition disposition = {
	    .verb = MQFS_VERB_MOVE, .place = MQFS_PLACE_DEAD, .copy = delivery->message};

	(void)state;
	completions = 0;
	mqfs_publish(&fake, "jobs", MQFS_PLACE_RETRY, 5000, delivery->message, 21, done, &completions);
	check_seen("publish", 5000, 21);
	assert_int_equal(seen.place, MQFS_PLACE_RETRY);
	assert_ptr_equal(seen.pointer, delivery->message);
	mqfs_consume(&fake, "jobs", 16, &sink, &completions);
	check_seen("consume", 16, 0);
	assert_ptr_equal(seen.pointer, &sink);
	mqfs_cancel(&fake, "jobs", done, &completions);
	check_seen("cancel", 0, 0);
	mqfs_settle(&fake, delivery, &disposition, 22, done, &completions);
	check_seen("settle", 0, 22);
	assert_ptr_equal(seen.pointer, &disposition);
	disposition = (struct mqfs_disposition){.verb = MQFS_VERB_ACK};
	mqfs_settle(&fake, delivery, &disposition, 23, done, &completions);
	check_seen("settle", 0, 23);
	mqfs_browse(&fake, "jobs", MQFS_PLACE_DEAD, 1000, 24, browse_done, &completions);
	check_seen("browse", 1000, 24);
	assert_int_equal(seen.place, MQFS_PLACE_DEAD);
	assert_int_equal(completions, 5);
	mqfs_delivery_unref(delivery);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(opens_by_url),
	    cmocka_unit_test(refuses_other_urls),
	    cmocka_unit_test(passes_calls_about_queues),
	    cmocka_unit_test(passes_calls_about_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
