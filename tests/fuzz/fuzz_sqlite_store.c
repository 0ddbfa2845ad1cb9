/* SPDX-License-Identifier: MIT */
/*
 * Stores that were changed behind mqfs's back: the input says how (database.h), and then what to do with the messages
 * that are found. Such a file is refused, and then it is as it was; or it is served, and every request is answered.
 */
#include "database.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include <mqfs/backend.h>
#include <mqfs/clock.h>
#include <mqfs/failure.h>

#include "sqlite/store.h"

#define ENOUGH_MS 10000
#define HELD_MAX 16
#define QUEUES_MAX 4
#define HOUR_MS INT64_C(3600000)

/* A refusal is tried three times, 30 ms apart, for the sake of others who may just be writing. Nobody is. */
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
int __real_nanosleep(const struct timespec *time, struct timespec *left);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	return time->tv_sec == 0 && time->tv_nsec == 30000000 ? 0 : __real_nanosleep(time, left);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* All guarded by lock. */
static struct {
	unsigned asked, answered;
	char *queues[QUEUES_MAX];
	size_t queues_count;
	struct mqfs_delivery *held[HELD_MAX];
	size_t held_count;
} table;

static struct mqfs_backend *backend;

/* ---- requests ---- */

static void asking(void)
{
	pthread_mutex_lock(&lock);
	table.asked++;
	pthread_mutex_unlock(&lock);
}

static void answered(void)
{
	table.answered++;
	pthread_cond_signal(&changed);
}

static void await_all(void)
{
	struct timespec deadline;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += ENOUGH_MS / 1000;
	pthread_mutex_lock(&lock);
	while (table.answered < table.asked && r == 0)
		r = pthread_cond_timedwait(&changed, &lock, &deadline);
	EXPECT(r == 0);
	EXPECT(table.answered == table.asked);
	pthread_mutex_unlock(&lock);
}

static void await_held(size_t count)
{
	struct timespec deadline;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += ENOUGH_MS / 1000;
	pthread_mutex_lock(&lock);
	while (table.held_count < count && r == 0)
		r = pthread_cond_timedwait(&changed, &lock, &deadline);
	EXPECT(r == 0);
	pthread_mutex_unlock(&lock);
}

static int64_t in_time(void)
{
	return mqfs_clock_monotonic_ms() + ENOUGH_MS / 4;
}

static void on_done(void *arg, int result, const char *reason)
{
	(void)arg, (void)reason;
	EXPECT(result <= 0);
	pthread_mutex_lock(&lock);
	answered();
	pthread_mutex_unlock(&lock);
}

static void on_list(void *arg, int result, const char *const *queues, size_t count)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; result == 0 && i < count && i < QUEUES_MAX; i++) {
		EXPECT(queues[i]);
		table.queues[table.queues_count++] = strdup(queues[i]);
	}
	answered();
	pthread_mutex_unlock(&lock);
}

static void on_depths(void *arg, int result, const struct mqfs_depths *depths)
{
	(void)arg;
	EXPECT(result < 0 || depths);
	pthread_mutex_lock(&lock);
	answered();
	pthread_mutex_unlock(&lock);
}

static void hold(struct mqfs_delivery *delivery)
{
	EXPECT(delivery->message && delivery->message->body && delivery->queue);
	expect_readable(delivery->message);
	pthread_mutex_lock(&lock);
	if (table.held_count < HELD_MAX)
		table.held[table.held_count++] = delivery;
	else
		mqfs_delivery_unref(delivery);
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

static void on_browse(void *arg, int result, struct mqfs_delivery **deliveries, size_t count)
{
	(void)arg;
	EXPECT(result == 0 || count == 0);
	for (size_t i = 0; i < count; i++)
		hold(deliveries[i]);
	pthread_mutex_lock(&lock);
	answered();
	pthread_mutex_unlock(&lock);
}

static void on_delivered(void *arg, struct mqfs_delivery *delivery)
{
	(void)arg;
	hold(delivery);
}

static void on_lost(void *arg, uint64_t generation)
{
	(void)arg, (void)generation;
}

static void on_drained(void *arg)
{
	(void)arg;
}

static void on_prepared(void *arg, int result, const char *reason)
{
	(void)arg, (void)result, (void)reason;
}

static const struct mqfs_sink sink = {
    .delivered = on_delivered,
    .lost = on_lost,
    .drained = on_drained,
    .prepared = on_prepared,
    .ended = on_prepared,
};

/* ---- what a mount does ---- */

static void look_at(const char *queue)
{
	for (int i = 0; i < 4; i++)
		asking();
	mqfs_queue_find(backend, queue, in_time(), on_done, NULL);
	mqfs_queue_depths(backend, queue, in_time(), on_depths, NULL);
	mqfs_browse(backend, queue, MQFS_PLACE_RETRY, 3, in_time(), on_browse, NULL);
	mqfs_browse(backend, queue, MQFS_PLACE_DEAD, 3, in_time(), on_browse, NULL);
	mqfs_consume(backend, queue, 3, &sink, NULL);
	await_all();
}

static void publish(const char *queue, enum mqfs_place place, int64_t delay_ms)
{
	struct mqfs_message *message = mqfs_message_new();

	EXPECT(message && mqfs_message_stamp(message, "new.txt", mqfs_clock_realtime_us()) == 0);
	asking();
	mqfs_publish(backend, queue, place, delay_ms, message, in_time(), on_done, NULL);
}

static void settle(struct mqfs_delivery *delivery, struct input *input)
{
	struct mqfs_failed_attempt attempt = {
	    .attempts = 1, .now_us = mqfs_clock_realtime_us(), .queue = "q", .host = "h"};
	struct mqfs_disposition disposition = {
	    .verb = (enum mqfs_verb)input_below(input, 3),
	    .place = (enum mqfs_place)input_below(input, 3),
	    .delay_ms = 1,
	};

	if (disposition.verb == MQFS_VERB_MOVE)
		disposition.copy = mqfs_copy_for_retry(delivery->message, &attempt);
	asking();
	mqfs_settle(backend, delivery, &disposition, in_time(), on_done, NULL);
	mqfs_delivery_unref(delivery);
}

static void serve(struct input *input)
{
	size_t count;

	asking();
	mqfs_queue_list(backend, on_list, NULL);
	await_all();
	for (size_t i = 0; i < table.queues_count; i++)
		look_at(table.queues[i]);
	for (size_t i = 0; i < table.queues_count; i++) {
		publish(table.queues[i], MQFS_PLACE_READY, 0);
		publish(table.queues[i], MQFS_PLACE_RETRY, 1);
	}
	await_all();
	pthread_mutex_lock(&lock);
	count = table.held_count;
	pthread_mutex_unlock(&lock);
	for (size_t i = 0; i < count; i++)
		settle(table.held[i], input);
	await_all();
	for (size_t i = 0; i < table.queues_count; i++) {
		asking();
		mqfs_queue_delete(backend, table.queues[i], false, in_time(), on_done, NULL);
		asking();
		mqfs_cancel(backend, table.queues[i], on_done, NULL);
	}
	await_all();
	mqfs_backend_close(backend);
	for (size_t i = count; i < table.held_count; i++)
		mqfs_delivery_unref(table.held[i]);
	for (size_t i = 0; i < table.queues_count; i++)
		free(table.queues[i]);
	memset(&table, 0, sizeof(table));
}

/* ---- the file ---- */

static void open_store(const char *path)
{
	struct mqfs_settings settings;
	char *error = NULL;

	mqfs_settings_init(&settings);
	EXPECT(mqfs_sqlite_open(path, &settings, &backend, &error) == 0);
}

/* A store with messages in every place, as this program makes it. */
static void make_template(const char *path, struct database *ret_template)
{
	static const char *const queues[] = {"jobs", "other"};
	struct mqfs_settings settings;
	const uint8_t move[] = {MQFS_VERB_MOVE, MQFS_PLACE_DEAD};

	mqfs_settings_init(&settings);
	settings.max_length = 100;
	settings.message_ttl_ms = HOUR_MS;
	open_store(path);
	for (int i = 0; i < 2; i++) {
		struct input to_dead = {.at = move, .left = sizeof(move)};

		asking();
		mqfs_queue_declare(backend, queues[i], &settings, in_time(), on_done, NULL);
		publish(queues[i], MQFS_PLACE_READY, 0);
		await_all();
		mqfs_consume(backend, queues[i], 1, &sink, NULL);
		await_held((size_t)i + 1);
		settle(table.held[i], &to_dead);
		asking();
		mqfs_cancel(backend, queues[i], on_done, NULL);
		publish(queues[i], MQFS_PLACE_READY, 0);
		publish(queues[i], MQFS_PLACE_READY, 0);
		publish(queues[i], MQFS_PLACE_RETRY, HOUR_MS);
	}
	await_all();
	mqfs_backend_close(backend);
	memset(&table, 0, sizeof(table));
	database_shrink(path);
	database_read(path, ret_template);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct database template;
	static char path[300];
	struct input input = {.at = data, .left = size};
	struct mqfs_settings settings;
	struct database before;
	char *error = NULL;
	int r;

	if (!template.bytes[0]) {
		snprintf(path, sizeof(path), "%s/store.db", database_room());
		make_template(path, &template);
	}
	database_write(path, &template);
	database_spoil(path, &input);
	database_read(path, &before);
	mqfs_settings_init(&settings);
	settings.connect_timeout_ms = 1000;
	r = mqfs_sqlite_open(path, &settings, &backend, &error);
	if (r == 0) {
		serve(&input);
	} else {
		EXPECT(r < 0 && error && strstr(error, path));
		EXPECT(database_same(path, &before));
	}
	free(error);
	database_free(&before);
	return 0;
}
