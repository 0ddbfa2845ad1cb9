/* SPDX-License-Identifier: MIT */
#ifndef MQFS_TESTS_UNIT_SQLITE_FIXTURE_H
#define MQFS_TESTS_UNIT_SQLITE_FIXTURE_H

/*
 * What the tests of the embedded store share: a directory of its own for each test, calls that wait for
 * their completion, and a sink that collects. Included once by each test program.
 */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>

#include "sqlite/store.h"

#define ENOUGH_MS 20000

static char directory[64];
static char path[512]; /* of the store */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static inline int fixture_setup(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/mqfs-unit-XXXXXX");
	if (!mkdtemp(directory))
		return -1;
	snprintf(path, sizeof(path), "%s/store.db", directory);
	return 0;
}

static inline int fixture_teardown(void **state)
{
	char file[512];
	struct dirent *entry;
	DIR *dir = opendir(directory);

	(void)state;
	while (dir && (entry = readdir(dir))) {
		snprintf(file, sizeof(file), "%s/%s", directory, entry->d_name);
		unlink(file);
	}
	closedir(dir);
	return rmdir(directory);
}

static inline struct mqfs_backend *open_store(int64_t lease_timeout_ms)
{
	struct mqfs_backend *backend = NULL;
	struct mqfs_settings settings;
	char *error = NULL;

	mqfs_settings_init(&settings);
	settings.lease_timeout_ms = lease_timeout_ms;
	if (mqfs_sqlite_open(path, &settings, &backend, &error) < 0)
		fail_msg("%s", error);
	return backend;
}

/* SQL by another hand than the store's. */
static inline void sql(const char *text)
{
	sqlite3 *db;
	char *error = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_exec(db, text, NULL, NULL, &error) != SQLITE_OK)
		fail_msg("%s: %s", text, error);
	sqlite3_close(db);
}

static inline int64_t sql_integer(const char *text)
{
	sqlite3_stmt *statement;
	int64_t value;
	sqlite3 *db;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	assert_int_equal(sqlite3_prepare_v2(db, text, -1, &statement, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
	value = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	sqlite3_close(db);
	return value;
}

/* Waits until condition, which is looked at under the lock, holds; false after ms. */
#define WAIT_UNTIL(condition, ms)                                                                                      \
	({                                                                                                             \
		struct timespec until;                                                                                 \
		bool holds;                                                                                            \
		clock_gettime(CLOCK_REALTIME, &until);                                                                 \
		until.tv_sec += ((ms) + 999) / 1000;                                                                   \
		pthread_mutex_lock(&lock);                                                                             \
		while (!(holds = (condition)) && pthread_cond_timedwait(&changed, &lock, &until) == 0)                 \
			;                                                                                              \
		pthread_mutex_unlock(&lock);                                                                           \
		holds;                                                                                                 \
	})

struct call {
	bool done;
	int result;
	char reason[128];
	struct mqfs_depths depths;
	struct mqfs_delivery *found[64];
	size_t count;
};

static inline void call_done(void *arg, int result, const char *reason)
{
	struct call *call = arg;

	pthread_mutex_lock(&lock);
	call->result = result;
	snprintf(call->reason, sizeof(call->reason), "%s", reason ? reason : "");
	call->done = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void call_counted(void *arg, int result, const struct mqfs_depths *depths)
{
	if (depths)
		((struct call *)arg)->depths = *depths;
	call_done(arg, result, NULL);
}

static inline void call_browsed(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	struct call *call = arg;

	for (size_t i = 0; i < count; i++)
		call->found[call->count++] = deliveries[i];
	call_done(arg, result, NULL);
}

static inline int call_wait(struct call *call)
{
	assert_true(WAIT_UNTIL(call->done, ENOUGH_MS));
	return call->result;
}

static inline int64_t in_ms(int64_t ms)
{
	return mqfs_clock_monotonic_ms() + ms;
}

static inline int declare(struct mqfs_backend *backend, const char *queue)
{
	struct mqfs_settings settings;
	struct call call = {0};

	mqfs_settings_init(&settings);
	settings.dead_letter = true;
	mqfs_queue_declare(backend, queue, &settings, in_ms(ENOUGH_MS), call_done, &call);
	return call_wait(&call);
}

static inline int publish(struct mqfs_backend *backend, const char *queue, struct mqfs_message *message)
{
	struct call call = {0};

	mqfs_publish(backend, queue, MQFS_PLACE_READY, 0, message, in_ms(ENOUGH_MS), call_done, &call);
	return call_wait(&call);
}

static inline struct mqfs_depths depths(struct mqfs_backend *backend, const char *queue)
{
	struct call call = {0};

	mqfs_queue_depths(backend, queue, in_ms(ENOUGH_MS), call_counted, &call);
	assert_int_equal(call_wait(&call), 0);
	return call.depths;
}

static inline int settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery, enum mqfs_verb verb)
{
	struct mqfs_disposition disposition = {.verb = verb};
	struct call call = {0};

	mqfs_settle(backend, delivery, &disposition, in_ms(ENOUGH_MS), call_done, &call);
	return call_wait(&call);
}

static inline struct call browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place)
{
	struct call call = {0};

	mqfs_browse(backend, queue, place, 64, in_ms(ENOUGH_MS), call_browsed, &call);
	assert_int_equal(call_wait(&call), 0);
	return call;
}

/* What a consumer got. Guarded by lock. */
struct collector {
	struct mqfs_delivery *got[64];
	size_t count;
	uint64_t lost;
	int drained, prepared, ended;
};

static inline void collect_delivered(void *arg, struct mqfs_delivery *delivery)
{
	struct collector *collector = arg;

	pthread_mutex_lock(&lock);
	assert_int_equal(collector->prepared, 1);
	assert_true(collector->count < 64);
	collector->got[collector->count++] = delivery;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void collect_lost(void *arg, uint64_t generation)
{
	struct collector *collector = arg;

	pthread_mutex_lock(&lock);
	collector->lost = generation;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void collect_drained(void *arg)
{
	pthread_mutex_lock(&lock);
	((struct collector *)arg)->drained++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void collect_prepared(void *arg, int result, const char *reason)
{
	(void)reason;
	pthread_mutex_lock(&lock);
	assert_int_equal(result, 0);
	((struct collector *)arg)->prepared++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static inline void collect_ended(void *arg, int result, const char *reason)
{
	(void)reason;
	pthread_mutex_lock(&lock);
	((struct collector *)arg)->ended = result;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct mqfs_sink collector_sink = {.delivered = collect_delivered,
                                                .lost = collect_lost,
                                                .drained = collect_drained,
                                                .prepared = collect_prepared,
                                                .ended = collect_ended};

/* Ends the consumer; nothing is collected any more. */
static inline void collector_end(struct collector *collector, struct mqfs_backend *backend, const char *queue)
{
	struct call cancelled = {0};

	mqfs_cancel(backend, queue, call_done, &cancelled);
	assert_int_equal(call_wait(&cancelled), 0);
	for (size_t i = 0; i < collector->count; i++)
		mqfs_delivery_unref(collector->got[i]);
	*collector = (struct collector){0};
}

static inline bool has_body(const struct mqfs_delivery *delivery, const char *body)
{
	return delivery->message->body->bytes == strlen(body) &&
	       memcmp(delivery->message->body->data, body, strlen(body)) == 0;
}

#endif
